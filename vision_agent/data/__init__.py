"""Training samples: the archives, and the scenes and sentences made of them."""
