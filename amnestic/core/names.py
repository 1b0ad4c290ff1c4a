"""Did-you-mean for names that a person typed."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error sentence, or an empty string.

    Example:
        >>> did_you_mean("DDIMSheduler", ["DDIMScheduler", "PNDMScheduler"])
        '; did you mean DDIMScheduler?'
        >>> did_you_mean("xyz", ["DDIMScheduler"])
        ''
    """
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
