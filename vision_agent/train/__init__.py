"""Training: one loop, and the trainings of a small model and of adapters that run on it."""
