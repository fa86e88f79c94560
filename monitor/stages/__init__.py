"""The stages of a batch of claimed parcels, in the order of `monitor.worker`: one file each."""
