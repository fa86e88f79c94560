"""Rules, the lifecycle of alerts, and what their evidence says in a sentence."""
