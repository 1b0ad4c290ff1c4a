"""Compares two finished audits: the same model at two versions, or two models."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amnestic.audit.before_after import Side
from amnestic.audit.replication import CONTROLS, Embedded
from amnestic.audit.run_comparison import compare_runs
from amnestic.core.errors import InputError, StoreError
from amnestic.core.names import name_for_others
from amnestic.core.records import Prompt, plain
from amnestic.core.store import Record, Run, different
from amnestic.report.comparison_page import comparison_markdown, render_comparison
from amnestic.stages.comparing_attacks import Attacked, compare_attacks
from amnestic.stages.finished import summary_of, write_result
from amnestic.stages.scores import described, scored

OTHER_KNOWLEDGE = "the prompt lists say different things of them (label, rung or work)"
OTHER_ORIGINAL = "their originals are not the same pictures"
ONE_ORIGINAL = "their original could be used in one audit alone"
NO_ORIGINAL = "they have no original that could be used in either audit"
OTHER_REFERENCES = "controls are judged against all originals, and those of the two audits differ"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A finished audit as it lies in its folder.

    Attributes:
        run: The folder.
        summary: What it says of itself.
        score: The scores that its summary was made from.
        samples: A row per prompt.
        matches: A row per prompt and seed, in the order of the scores.
        hashes: SHA-256 of each original by its id.
    """

    run: Run
    summary: Mapping[str, Any]
    score: Record
    samples: Sequence[Mapping[str, Any]]
    matches: Sequence[Mapping[str, Any]]
    hashes: Mapping[str, str]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decided its images."""
        found: Mapping[str, Any] = self.run.manifest()["settings"]
        return found

    @property
    def works(self) -> list[str]:
        """The work of each prompt."""
        return [row["work"] for row in self.matches[:: len(self.settings["seeds"])]]


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compare two finished audits work by work.

    Args:
        first: Folder of the audit of the first model, such as the last version.
        second: Folder of that of the second, which is judged against the first.

    Returns:
        Plain data: the fields of `amnestic.audit.run_comparison.RunComparison`, the two audits as ``before`` and
        ``after``, and the ``protocol`` and ``descriptor`` they share.

    Raises:
        StoreError: If one has not finished or is of another schema, or they differ in protocol, prompts, seeds or
            descriptor.
    """
    one, other = (_audit(folder) for folder in (first, second))
    _require_comparable(one, other)
    rows, left_out = _common(one, other)
    embedded, sides, missing = _sides(one, other, rows)
    attacks, unlike = compare_attacks(*(_attacked(audit) for audit in (one, other)))
    protocol, descriptor = other.summary["protocol"], other.summary["descriptor"]
    found = compare_runs(
        embedded, *sides, protocol["threshold"], unit=descriptor["name"], attacks=attacks,
        not_compared=[*left_out, *missing, *unlike],
    )  # fmt: skip
    if one.settings["model"]["digest"] == other.settings["model"]["digest"]:
        found = replace(found, notes=("Both audits are of the same weights.", *found.notes))
    return {
        "before": _named(one), "after": _named(other), "protocol": protocol, "descriptor": descriptor, **plain(found)
    }  # fmt: skip


def write_comparison(found: Mapping[str, Any], file: Path) -> None:
    """Write what `compare` returned, in the form that the file's name asks for.

    Args:
        found: The comparison.
        file: Ends in ``.html``, ``.json`` or ``.md``.

    Raises:
        InputError: If it ends in something else, or cannot be written.
    """
    forms: dict[str, Callable[[Mapping[str, Any]], str]] = {
        ".html": render_comparison, ".md": comparison_markdown,
        ".json": lambda data: json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }  # fmt: skip
    if file.suffix not in forms:
        raise InputError(f"expected a file that ends in {', '.join(sorted(forms))}, got {file.name}; give one of them")
    write_result(file, forms[file.suffix](found))


def _audit(folder: Path) -> Audit:
    run = Run.open(folder)
    summary, score = summary_of(run), scored(run)
    settings = run.manifest()["settings"]
    matches, seeds = run.read_table("matches"), settings["seeds"]
    if len(matches) != settings["n_prompts"] * len(seeds):
        raise StoreError(f"{folder}: matches.parquet has not a row for each of its images; issue its command again")
    return Audit(
        run=run, summary=summary, score=score, samples=run.read_table("samples")[:: len(seeds)], matches=matches,
        hashes=_hashes(run),
    )  # fmt: skip


def _hashes(run: Run) -> dict[str, str]:
    file = run.folder / "references.json"
    try:
        return {row["id"]: row["sha256"] for row in json.loads(file.read_text("utf-8"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} cannot be read ({error}); issue the audit's command again") from error


def _require_comparable(one: Audit, other: Audit) -> None:
    """Scores of other prompts, seeds, settings or descriptors say nothing about the models."""
    changed = different(_judged_by(one), _judged_by(other))
    if one.settings["prompts"] != other.settings["prompts"]:
        counts = [audit.settings["n_prompts"] for audit in (one, other)]
        changed = "; ".join(filter(None, [changed, f"the prompts are others ({counts[0]} and {counts[1]} of them)"]))
    if not changed and one.summary["protocol"]["id"] != other.summary["protocol"]["id"]:
        changed = different({"protocol": one.summary["protocol"]}, {"protocol": other.summary["protocol"]})
    if changed:
        raise StoreError(
            f"{one.run.folder} and {other.run.folder} cannot be compared: {changed}; audit both models alike"
        )


def _judged_by(audit: Audit) -> dict[str, Any]:
    protocol = {k: v for k, v in audit.summary["protocol"].items() if k not in ("id", "seeds", "n_seeds", "descriptor")}
    descriptor = {k: audit.summary["descriptor"].get(k) for k in ("name", "preprocessing", "digest")}
    return {"seeds": audit.settings["seeds"], **protocol, "descriptor": descriptor}


def _common(one: Audit, other: Audit) -> tuple[list[int], list[tuple[str, str]]]:
    """Rows that can be compared, and how many are left out for which reason."""
    reasons: dict[str, int] = {}
    rows = []
    same_references = one.score.parents[1] == other.score.parents[1]
    usable = [~audit.score.tensors["paired"].isnan().any(1) for audit in (one, other)]
    for row, (a, b) in enumerate(zip(one.samples, other.samples, strict=True)):
        known = [(s["label"], s["rung"], audit.works[row]) for s, audit in ((a, one), (b, other))]
        if known[0] != known[1]:
            why = OTHER_KNOWLEDGE
        elif bool(usable[0][row] != usable[1][row]):
            why = ONE_ORIGINAL
        elif a["label"] not in CONTROLS and not bool(usable[0][row]):
            why = NO_ORIGINAL
        elif one.hashes.get(a["original"]) != other.hashes.get(b["original"]):
            why = OTHER_ORIGINAL
        elif not same_references and a["label"] in CONTROLS:
            why = OTHER_REFERENCES
        else:
            rows.append(row)
            continue
        reasons[why] = reasons.get(why, 0) + 1
    return rows, [(f"{n} prompt{'s' * (n > 1)}", why) for why, n in reasons.items()]


def _sides(
    one: Audit, other: Audit, rows: Sequence[int]
) -> tuple[Embedded, tuple[Side, Side], list[tuple[str, str]]]:  # fmt: skip
    generated = [described(audit.run)[0][list(rows)] for audit in (one, other)]
    _, references, place = described(other.run)
    works = list(place)  # an original that no prompt names is its own work
    prompts, original = [], []
    for row in rows:
        sample, work = other.samples[row], other.works[row]
        index = place.get(sample["original"], -1)
        if index >= 0:
            works[index] = work
        prompts.append(
            Prompt(id=sample["prompt_id"], prompt=sample["prompt"], image=sample["original"] or "",
                   label=sample["label"], work=work, rung=sample["rung"])
        )  # fmt: skip
        original.append(index)
    embedded = Embedded(
        prompts=tuple(prompts), seeds=tuple(other.settings["seeds"]), generated=generated[1], references=references,
        original=tuple(original), works=tuple(works),
    )  # fmt: skip
    alignments, missing = _alignments(one, other)
    sides = [
        Side(
            paired=audit.score.tensors["paired"][list(rows)], nearest=audit.score.tensors["nearest"][list(rows)],
            generated=images, alignment=None if alignment is None else alignment[list(rows)],
        )
        for audit, images, alignment in zip((one, other), generated, alignments, strict=True)
    ]  # fmt: skip
    return embedded, (sides[0], sides[1]), missing


def _alignments(one: Audit, other: Audit) -> tuple[list[Tensor | None], list[tuple[str, str]]]:
    """CLIP alignment of both models' images, if one CLIP measured both."""
    name = "CLIP alignment"
    clips = [audit.summary.get("clip") for audit in (one, other)]
    told = [clip.get("descriptor") if isinstance(clip, Mapping) else None for clip in clips]
    if None in told:
        return [None, None], [(name, "it was not measured in both audits; audit both with --clip")]
    if told[0] != told[1]:
        return [None, None], [(name, "the two audits took different CLIP models; give both the same --clip")]
    values = [
        torch.tensor([float("nan") if r["clip_alignment"] is None else r["clip_alignment"] for r in audit.matches])
        for audit in (one, other)
    ]
    return [v.reshape(-1, len(other.settings["seeds"])) for v in values], []


def _attacked(audit: Audit) -> Attacked:
    summary = audit.summary
    return Attacked(
        run=audit.run, threshold=summary["protocol"]["threshold"], descriptor=summary["protocol"]["descriptor"]
    )


def _named(audit: Audit) -> dict[str, Any]:
    manifest, model = audit.run.manifest(), audit.settings["model"]
    return {
        "run": audit.run.folder.resolve().name, "model": name_for_others(model["name"]),
        "revision": model["revision"], "dtype": model["dtype"], "digest": model["digest"],
        "made": manifest["provenance"]["utc"], "amnestic": manifest["provenance"]["packages"].get("amnestic", ""),
    }  # fmt: skip
