"""From stored observations to alerts: schedule, inference, phenology, rules, inspection."""
