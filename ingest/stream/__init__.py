"""The stream of observations: contract, producer, exactly-once consumer, validation, dead letters."""
