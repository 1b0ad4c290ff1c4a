"""Disjoint sets of prompts: what is located on each of them may be compared."""

from collections.abc import Sequence

import torch

from amnestic.core.errors import InputError
from amnestic.core.records import Prompt
from amnestic.core.seeds import generator


def disjoint_sets(items: Sequence[Prompt], *, n_sets: int, size: int, seed: int) -> tuple[tuple[Prompt, ...], ...]:
    """Sets of prompts of which no two share a work.

    A work stands for itself once, with the first of its prompts in the list, so that a set has as many works as
    prompts. Where no work is named, prompts of one original are of one work, and a prompt without original is its own.

    Args:
        items: Prompts of one kind, memorized or not.
        n_sets: How many sets, at least 1.
        size: Works, and so prompts, in each, at least 1.
        seed: Decides which work is in which set; another seed, other sets.

    Returns:
        `n_sets` tuples of `size` prompts; works that are left over are in none.

    Raises:
        InputError: If a number is below 1, or there are too few works; says how many sets are possible.

    Example:
        >>> sets = disjoint_sets([Prompt(id=f"p{i}", prompt="a cat") for i in range(5)], n_sets=2, size=2, seed=0)
        >>> len({p.id for s in sets for p in s})
        4
    """
    if n_sets < 1 or size < 1:
        raise InputError(f"expected at least one set of at least one work, got {n_sets} of {size}; 5 of 10 are usual")
    first: dict[str, Prompt] = {}
    for item in items:
        first.setdefault(work_of(item), item)
    if len(first) < n_sets * size:
        raise InputError(
            f"expected {n_sets * size} different works for {n_sets} sets of {size}, got {len(first)}; "
            f"{len(first) // size} sets of {size} are possible, or {n_sets} of {len(first) // n_sets}"
        )
    order = torch.randperm(len(first), generator=generator(seed, "disjoint-sets")).tolist()
    works = list(first.values())
    shuffled = [works[i] for i in order]
    return tuple(tuple(shuffled[i * size : (i + 1) * size]) for i in range(n_sets))


def work_of(prompt: Prompt) -> str:
    """Which work a prompt is of: the one that is named, else its original, else the prompt itself."""
    return prompt.work or prompt.image or prompt.id
