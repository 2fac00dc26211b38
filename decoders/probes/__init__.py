"""The image tower of a model as features: a linear probe for labels, heads for semantic segmentation."""

from .heads import ClassifyHead, SemanticHead, load_head

__all__ = ["ClassifyHead", "SemanticHead", "load_head"]
