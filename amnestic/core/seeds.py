"""Seeds: every random draw has a name, and the name decides the draw."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(root: int, *names: str) -> int:
    """A 63-bit seed for one named draw below `root`.

    Formula: the first 63 bits of ``sha256("root/name/name/...")``.

    Args:
        root: Root seed of the run or the testbed.
        *names: What the draw is for, from general to special.

    Returns:
        Integer in [0, 2**63), the same on every machine.

    Example:
        >>> seed_for(0, "noise", "prompt-1") == seed_for(0, "noise", "prompt-1")
        True
        >>> seed_for(0, "noise", "prompt-1") == seed_for(0, "noise", "prompt-2")
        False
    """
    text = "/".join([str(root), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator(root: int, *names: str) -> torch.Generator:
    """A CPU generator seeded by `seed_for(root, *names)`."""
    return torch.Generator().manual_seed(seed_for(root, *names))


@contextmanager
def seeded_init(root: int, *names: str) -> Iterator[None]:
    """Initialise modules reproducibly and leave the global generator as it was.

    torch's layer initialisers read only the global generator; this is the one place that touches
    it, and it restores it on the way out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(root, *names))
        yield
