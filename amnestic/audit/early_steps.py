"""Draws the first steps of some prompts, for whoever watches what passes through the model meanwhile."""

from collections.abc import Sequence

from amnestic.core.methods import Case
from amnestic.core.records import Unit
from amnestic.core.tape import Keep
from amnestic.core.target import Target
from amnestic.core.units import Site


def watch_early_steps(
    target: Target, sites: Sequence[Site], texts: Sequence[str], case: Case, keep: Keep, *, tau: int, name: str,
    batch_size: int,
) -> None:  # fmt: skip
    """Show the first `tau` steps of every text and seed of the case to `keep`.

    Args:
        target: The model.
        sites: Where to watch.
        texts: What to draw; all of them start from the same noise, one per seed.
        case: Sampling and seeds.
        keep: Takes in one call of one layer.
        tau: Denoising steps that are drawn, at least 1.
        name: Names the starting noise: the method that watches.
        batch_size: Texts drawn at once; does not change what is seen beyond rounding.
    """
    with target.record(sites, keep) as tape:
        for seed in case.seeds:
            for start in range(0, len(texts), batch_size):
                batch = texts[start : start + batch_size]
                target.sample([Unit(name, seed)] * len(batch), batch, case.sampling, stop_after=tau, tape=tape)
