"""What inspectors and analysts look at from the command line: alerts, histories, the state of the chain."""
