"""The image tower of a model as features: a linear probe for labels, heads for semantic segmentation."""
