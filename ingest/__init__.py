"""From imagery and messages to rows: the message contract, the producer, the exactly-once consumer, parcel import."""
