"""Loading checkpoints: what they are, in which size and speed, on which machine."""
