"""Which known images of an audit are attacked: works that it was trained on, and others as controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amnestic.audit.selection import Selection, part_of_works
from amnestic.core.errors import InputError
from amnestic.core.records import Prompt

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class KnownImages:
    """Prompts with an original each, a prompt per work.

    Attributes:
        works: Works that the model was, or may have been, trained on; whether they replicate or not.
        heldout: Works that it never saw.
        natural: Ordinary prompts.
        memorized: Prompts of all works, as starting points.
    """

    works: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    natural: tuple[Prompt, ...]
    memorized: tuple[Prompt, ...]


def known_images(
    samples: Sequence[Row], matches: Sequence[Row], how: Selection, *, n_controls: int | None = None
) -> KnownImages:
    """Prompts of an audit by what they are for.

    Args:
        samples: Rows of ``samples.parquet``.
        matches: Rows of ``matches.parquet``, which name the works.
        how: Which works: rung, part, limit. Works that do not replicate are attacked as well, since a mitigated model
            replicates none.
        n_controls: Held-out works; default as many as works.

    Returns:
        The prompts.

    Raises:
        InputError: If no work with an original is left.
    """
    first: dict[str, Prompt] = {}
    heldout: dict[str, Prompt] = {}
    natural: dict[str, Prompt] = {}
    named = {row["prompt_id"]: row["work"] for row in matches if row["work"] and row["sscd_paired"] is not None}
    for row in samples:
        prompt = _prompt(row, named.get(row["prompt_id"], ""))
        if row["label"] == "base":
            natural.setdefault(prompt.prompt, prompt)
        elif row["prompt_id"] in named:
            (heldout if row["label"] == "heldout" else first).setdefault(prompt.work, prompt)
    wanted = part_of_works(tuple(first.values()), how)
    works = tuple(p for p in first.values() if p.id in wanted and p.label != "TM")[: how.limit]
    if not works:
        raise InputError(
            "expected at least one work with an original in the audit, got none; audit with a prompt list that names "
            "originals, or choose another --rung or --part"
        )
    return KnownImages(
        works=works, heldout=tuple(heldout.values())[: len(works) if n_controls is None else n_controls],
        natural=tuple(natural.values()), memorized=tuple(p for p in first.values() if p.label != "TM"),
    )  # fmt: skip


def _prompt(row: Row, work: str) -> Prompt:
    return Prompt(
        id=row["prompt_id"], prompt=row["prompt"], image=row.get("original") or "", label=row["label"],
        rung=row["rung"], work=work or row.get("original") or "",
    )  # fmt: skip
