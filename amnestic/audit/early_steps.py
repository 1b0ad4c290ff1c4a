"""Draws the first steps of some prompts and adds up what passes through the model meanwhile."""

from collections.abc import Callable, Sequence

from torch import Tensor

from amnestic.core.methods import Case
from amnestic.core.records import Unit
from amnestic.core.tape import Passing
from amnestic.core.target import Target
from amnestic.core.units import Site
from amnestic.parallel import shrinking_batches

Sums = dict[str, Tensor]
Add = Callable[[Passing, Sums], None]
"""Adds what one layer saw in one call to the sums, in place."""


def sum_early_steps(
    target: Target, sites: Sequence[Site], texts: Sequence[str], case: Case, zeros: Sums, add: Add, *, tau: int,
    name: str, batch_size: int,
) -> Sums:  # fmt: skip
    """Sums over the first `tau` steps of every text and seed of the case.

    A batch counts once and as a whole: what it added before memory ran out is dropped, and it is drawn again in
    smaller pieces. Later batches start from the size that fitted.

    Args:
        target: The model.
        sites: Where to watch.
        texts: What to draw, at least one; all of them start from the same noise, one per seed.
        case: Sampling and seeds.
        zeros: What the sums start from; stays as it is.
        add: Takes in one call of one layer.
        tau: Denoising steps that are drawn, at least 1.
        name: Names the starting noise: the method that watches.
        batch_size: Texts drawn at once at most; does not change the sums beyond rounding.

    Returns:
        The sums, with the names of `zeros`.

    Raises:
        InputError: If memory runs out for one text alone.
    """

    def added(size: int, batch: Sequence[str], seed: int, before: Sums) -> tuple[int, Sums]:
        sums = {key: total.clone() for key, total in before.items()}
        with target.record(sites, lambda seen: add(seen, sums)) as tape:
            for start in range(0, len(batch), size):
                part = batch[start : start + size]
                target.sample([Unit(name, seed)] * len(part), part, case.sampling, stop_after=tau, tape=tape)
        return size, sums

    sums, fits = zeros, batch_size
    for seed in case.seeds:
        for begin in range(0, len(texts), batch_size):
            batch = texts[begin : begin + batch_size]
            tried = min(fits, len(batch))
            size, sums = shrinking_batches(
                lambda size, batch=batch, seed=seed, before=sums: added(size, batch, seed, before), start=tried
            )
            fits = size if size < tried else fits
    return sums
