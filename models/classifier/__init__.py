"""The crop classifier: pixel-set encoder, L-TAE with a state that acquisitions are folded into, training, inference."""
