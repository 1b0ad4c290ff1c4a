"""Which prompts of an audit a localizer is given: works that replicate, and controls that cannot."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amnestic.core.errors import InputError
from amnestic.core.records import Prompt

Row = Mapping[str, Any]

KINDS = {"base": ("base",), "heldout": ("heldout",), "both": ("base", "heldout")}
WORDS = {"base": "ordinary prompts", "heldout": "prompts of held-out works"}
NO_BASE = "The audit drew no ordinary prompts, so the controls are prompts of held-out works."


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of the works that replicate are located, and what they are compared with.

    Attributes:
        rung: Only works on this rung of the ladder.
        part: Which of how many equal parts, such as (1, 2) for the first half. All audited works are dealt out by
            the hash of their name, those that do not replicate as well, so that runs of one list deal alike.
        limit: At most so many works, the first of the list.
        controls: Which prompts are controls. ``base``: ordinary prompts, or held-out ones where the audit drew none.
            ``heldout``: prompts of works like the memorized ones that were never trained on, the only controls that
            differ from memorized works in nothing but memorization. ``both``: all of them.
    """

    rung: int | None = None
    part: tuple[int, int] | None = None
    limit: int | None = None
    controls: str = "base"

    def __post_init__(self) -> None:
        """Refuse parts and controls that do not exist."""
        if self.controls not in KINDS:
            raise InputError(f"expected controls to be one of {', '.join(KINDS)}; got {self.controls}")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise InputError(f"expected a part such as 1/2 or 2/2, got {self.part[0]}/{self.part[1]}")


def part_of(text: str) -> tuple[int, int]:
    """A part such as ``1/2``.

    Example:
        >>> part_of("1/2")
        (1, 2)
    """
    which, _, parts = text.partition("/")
    if not (which.isdecimal() and parts.isdecimal()):
        raise InputError(f"expected a part such as 1/2, got {text}")
    return int(which), int(parts)


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Prompts for a localizer.

    Attributes:
        memorized: The deciding prompt of every selected work, with its work named.
        others: Those of the works that replicate and were not selected.
        controls: Prompts of the kind that was asked for; a held-out one names its work.
        note: What has to be known about the controls, a sentence; empty when they are what was asked for.
    """

    memorized: tuple[Prompt, ...]
    others: tuple[Prompt, ...]
    controls: tuple[Prompt, ...]
    note: str = ""

    def control_kinds(self) -> dict[str, int]:
        """How many controls are ``base`` and ``heldout``; only kinds that there are."""
        return dict(Counter(p.label for p in self.controls))


def select(samples: Sequence[Row], matches: Sequence[Row], threshold: float, how: Selection) -> Selected:
    """Prompts by what an audit found.

    Args:
        samples: Rows of ``samples.parquet``.
        matches: Rows of ``matches.parquet``.
        threshold: Of the run; a work replicates when an image of its first prompt scores above it.
        how: Which of them, and which controls.

    Returns:
        The prompts; ``memorized`` is empty when nothing replicates.

    Raises:
        InputError: If the audit drew no controls of the kind that is asked for.
    """
    texts = {row["prompt_id"]: row for row in samples}
    best: dict[str, float] = {}
    works: dict[str, str] = {}
    for row in matches:
        if row["sscd_paired"] is not None and row["label"] not in ("heldout", "base"):
            works.setdefault(row["work"], row["prompt_id"])
            if works[row["work"]] == row["prompt_id"]:
                best[row["work"]] = max(best.get(row["work"], -1.0), row["sscd_paired"])
    audited = [_prompt(texts[works[work]], work) for work in best]
    replicated = [p for p in audited if best[p.work] > threshold]
    wanted = part_of_works(audited, how)
    chosen = tuple(p for p in replicated if p.id in wanted)[: how.limit]
    kept = {p.id for p in chosen}
    controls, note = _controls(samples, matches, how.controls)
    return Selected(
        memorized=chosen, others=tuple(p for p in replicated if p.id not in kept), controls=controls, note=note
    )  # fmt: skip


def works_by_rung(samples: Sequence[Row], matches: Sequence[Row]) -> dict[int, tuple[Prompt, ...]]:
    """The first prompt of every verbatim work on each rung of the ladder, whether it replicates or not.

    Args:
        samples: Rows of ``samples.parquet``.
        matches: Rows of ``matches.parquet``.

    Returns:
        Rung -> prompts; empty without a ladder.
    """
    texts = {row["prompt_id"]: row for row in samples}
    first: dict[str, Prompt] = {}
    for row in matches:
        if row["label"] == "VM" and row["rung"] is not None and row["sscd_paired"] is not None:
            first.setdefault(row["work"], _prompt(texts[row["prompt_id"]], row["work"]))
    rungs: dict[int, tuple[Prompt, ...]] = {}
    for prompt in first.values():
        if prompt.rung is not None:
            rungs[prompt.rung] = (*rungs.get(prompt.rung, ()), prompt)
    return rungs


def part_of_works(audited: Sequence[Prompt], how: Selection) -> set[str]:
    """Prompts of the rung and the part, whether they replicate or not, so that every model's works are dealt alike."""
    found = [p for p in audited if how.rung is None or p.rung == how.rung]
    if how.part is not None:
        which, parts = how.part
        found.sort(key=lambda p: hashlib.sha256(p.work.encode()).hexdigest())
        found = found[which - 1 :: parts]
    return {p.id for p in found}


def _controls(samples: Sequence[Row], matches: Sequence[Row], asked: str) -> tuple[tuple[Prompt, ...], str]:
    """Prompts of the kinds that are asked for, and what is to be said about them."""
    works = {row["prompt_id"]: row["work"] for row in matches if row["label"] == "heldout"}
    found: dict[str, tuple[Prompt, ...]] = {}
    for label in WORDS:
        rows = {row["prompt_id"]: row for row in samples if row["label"] == label}
        found[label] = tuple(_prompt(row, works.get(name, "")) for name, row in rows.items())
    if asked == "base" and not found["base"]:
        return found["heldout"], NO_BASE if found["heldout"] else ""
    for label in KINDS[asked]:
        if not found[label]:
            other = next(kind for kind in WORDS if kind != label)
            raise InputError(
                f"expected {WORDS[label]} as controls, the audit drew none; label some of the list {label} and audit "
                f"again, or take --controls {other}"
            )
    return tuple(p for label in KINDS[asked] for p in found[label]), ""


def _prompt(row: Row, work: str) -> Prompt:
    return Prompt(
        id=row["prompt_id"], prompt=row["prompt"], image=row.get("original") or "", label=row["label"],
        rung=row["rung"], work=work,
    )  # fmt: skip
