"""Embedders of two towers, one for images and one for texts: CLIP, SigLIP and SigLIP 2 as transformers has them."""

from .embedder import DualEncoder

__all__ = ["DualEncoder"]
