"""What inspectors and analysts see at the command line: alerts, histories, the state of the chain."""
