"""Quality: random samples, blind reviews, and what lights are worth with that."""
