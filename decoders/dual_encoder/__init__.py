"""Embedders of two towers, one for images and one for texts: CLIP, SigLIP and SigLIP 2, and InternVL-14B-224px."""

from .embedder import DualEncoder
from .internvl_retrieval import InternVLRetrieval

__all__ = ["DualEncoder", "InternVLRetrieval"]
