"""From stored observations to alerts: schedule, inference, phenology, rules, what people inspect."""
