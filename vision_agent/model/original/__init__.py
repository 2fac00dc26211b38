"""InternVL checkpoints in the format they were first published in (`InternVLChatModel`), without their code.

`load_original` gives transformers' native model, a tokenizer and the conversation template; `convert` writes them as a
native folder.
"""

from vision_agent.model.original.configuration import OriginalSettings, is_original, native_config, read_settings
from vision_agent.model.original.convert import convert
from vision_agent.model.original.loading import OriginalCheckpoint, load_original
from vision_agent.model.original.weights import use_official_epsilon

__all__ = [
    "OriginalCheckpoint",
    "OriginalSettings",
    "convert",
    "is_original",
    "load_original",
    "native_config",
    "read_settings",
    "use_official_epsilon",
]
