"""Documents: pages, lines, words and tables of images and PDFs.

`DocumentReader` (in `documents.reader`) reads without a language model; `VisionAgent.ocr` is the verb.
"""

from vision_agent.documents.result import Block, KeyValue, Line, OcrResult, Page, Quad, Word
from vision_agent.documents.table import Cell, Table
from vision_agent.documents.tree import DocumentNode

__all__ = ["Block", "Cell", "DocumentNode", "KeyValue", "Line", "OcrResult", "Page", "Quad", "Table", "Word"]
