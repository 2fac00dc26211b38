"""An index of images: search by words, by an image or by a part of one; duplicates; contact sheets."""

from vision_agent.search.hits import DuplicateGroup, Duplicates, IndexChanges, SearchHit, SearchResults
from vision_agent.search.index import Index

__all__ = ["DuplicateGroup", "Duplicates", "Index", "IndexChanges", "SearchHit", "SearchResults"]
