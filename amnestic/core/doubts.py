"""When the result of an audit may not be trusted, in words that every report shares."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

FEW_SEEDS = 4


class AuditDoubt(NamedTuple):
    """A warning about an audit."""

    name: str
    because: str
    meaning: str
    remedy: str


def doubts_of(controls: Mapping[str, Any], n_seeds: int) -> Iterator[AuditDoubt]:
    """Warnings that the memorization rate of an audit may not be trusted.

    Args:
        controls: As in ``summary.json``: results by label.
        n_seeds: Images of each prompt.

    Example:
        >>> [doubt.name for doubt in doubts_of({}, 2)]
        ['no negative controls', 'fewer than 4 seeds']
        >>> next(doubts_of({"heldout": {"leak_rate": {"estimate": 0.5, "n": 4}}}, 4)).because
        '2 of 4'
    """
    if not controls:
        yield AuditDoubt(
            "no negative controls", "", "the memorization rate stands without a false-positive rate beside it",
            "add prompts labelled heldout or base to the list",
        )  # fmt: skip
    for name, found in controls.items():
        leaks = found["leak_rate"]
        if leaks["estimate"]:
            yield AuditDoubt(
                f"a {name} control scored above the threshold",
                f"{round(leaks['estimate'] * leaks['n'])} of {leaks['n']}",
                "the threshold may call likeness a copy", "look at the pairs; calibrate the threshold on null pairs",
            )  # fmt: skip
    if n_seeds < FEW_SEEDS:
        yield AuditDoubt(
            f"fewer than {FEW_SEEDS} seeds", f"{n_seeds} seed{'s' * (n_seeds != 1)}",
            "works that replicate now and then are missed", "raise --seeds",
        )  # fmt: skip
