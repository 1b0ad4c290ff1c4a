"""Loading without a word: what libraries tell while they read weights is not for the user of an audit."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Neither progress bars nor remarks about configs while weights are read; afterwards as before."""
    logger = logging.getLogger("diffusers")
    level, bars = logger.level, [m for m in (diffusers_logging, transformers_logging) if m.is_progress_bar_enabled()]
    logger.setLevel(logging.CRITICAL)  # what goes wrong comes as an exception, too
    for module in bars:
        module.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        for module in bars:
            module.enable_progress_bar()
