"""What is done with a batch of claimed parcels, in the order of `monitor.worker`: one file a stage."""
