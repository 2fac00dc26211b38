"""The one way to a tokenizer's ids.

transformers' tokenizers keep some settings of a call in themselves, `split_special_tokens` among them: two threads that
call one tokenizer at a time get the ids of each other's settings.
"""

import threading
from typing import Any

from vision_agent.errors import check_characters

_one_call = threading.Lock()


def tokenized(tokenizer: Any, text: str, **options: Any) -> Any:
    """Return what a tokenizer makes of a text under some options of its call: `input_ids` and what they ask for.

    Raises:
        InputError: half of a character in the text, which tokenizers cannot read.
    """
    check_characters("text", text)
    with _one_call:
        return tokenizer(text, **options)
