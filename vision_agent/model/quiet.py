"""Keeps what transformers says while it loads from the user."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, notices and warnings of coming changes within; errors come out. What was set before is put back."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    offloading = getLogger("accelerate")
    level = offloading.level
    offloading.setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.set_verbosity(verbosity)
        offloading.setLevel(level)
        if bars:
            logging.enable_progress_bar()
