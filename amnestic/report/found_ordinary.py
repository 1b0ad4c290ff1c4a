"""Finding 1 from a run: what leaks under its prompts, the decision on it, and where the evidence lies."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import numpy as np

from amnestic.core.errors import StoreError
from amnestic.core.records import plain
from amnestic.core.seeds import seed_for
from amnestic.measures.intervals import cluster_rate
from amnestic.report import wording
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.findings_auditor import AuditorFile
from amnestic.report.findings_ordinary import (
    Counts,
    Decision,
    EvidenceIndex,
    Group,
    Ordinary,
    Pair,
    Rung,
    Work,
)
from amnestic.report.findings_parts import Mean, Missing, Rate, Score, not_given, not_measured
from amnestic.report.run_facts import RunFacts

CONTROLS = ("heldout", "base")
Rows = list[Mapping[str, Any]]


def rate(facts: object) -> Rate:
    """A rate of a summary or record; without one, a rate over no works."""
    found = mapping(facts)
    ends = {name: real(found.get(name)) for name in ("estimate", "lower", "upper", "upper_one_sided")}
    return Rate(**ends, n=count(found.get("n")) or 0, method=str(found.get("method") or "not measured"))


def ordinary(facts: RunFacts) -> Ordinary:
    """What leaks under the prompts of the list.

    Args:
        facts: The run.

    Raises:
        StoreError: If its tables and its summary do not belong together.
    """
    summary, works = facts.summary, works_of(facts)
    counts = mapping(summary.get("works"))
    seen = (len(works), sum(work.replicated for work in works))
    if seen != (counts.get("total"), counts.get("replicated")):
        raise StoreError(
            f"{facts.folder}: matches.parquet counts {seen[1]} of {seen[0]} works as replicated, summary.json "
            f"{counts.get('replicated')} of {counts.get('total')}; issue the audit's command again"
        )
    return Ordinary(
        sentences=tuple(s for s in wording.verdict(summary) if s != wording.NOT_A_FINDING),
        counts=Counts(
            total=seen[0], replicated=seen[1],
            replicated_by_any_prompt=count(counts.get("replicated_by_any_prompt")) or seen[1],
            without_original=count(counts.get("without_original")) or 0,
        ),
        rate=rate(summary.get("leak_rate")),
        rate_by_median=_rate_or(summary.get("median_based_rate"), "this run recorded none"),
        images=_images(facts), corrected=not_measured(
            "how often the descriptor misses a copy among generated images is not known; the rates of the controls "
            "stand beside the memorization rate instead"
        ),
        by_label=tuple(_group(name, found) for name, found in mapping(summary.get("by_label")).items()),
        ladder=tuple(_rung(row) for row in listed(summary.get("ladder"))),
        similarity={name: _score(found) for name, found in mapping(summary.get("similarity")).items()},
        second_opinion=_rate_or(
            mapping(summary.get("clip")).get("leak_rate"), "no CLIP model was given, or its threshold not calibrated"
        ),
        works=works,
    )  # fmt: skip


def works_of(facts: RunFacts) -> tuple[Work, ...]:
    """Every tested work by the images of its first prompt, the highest score first."""
    tested: dict[str, dict[str, Rows]] = {}
    for row in facts.matches:
        if row["label"] not in CONTROLS and row["sscd_paired"] is not None:
            tested.setdefault(row["work"], {}).setdefault(row["prompt_id"], []).append(row)
    found = [_work(name, prompts, facts.threshold) for name, prompts in tested.items()]
    return tuple(sorted(found, key=lambda work: -(work.score if work.score is not None else -2.0)))


def hits_of(facts: RunFacts, label: str) -> list[bool]:
    """For each control of a label: is any image of its first prompt above the threshold, compared with all works?"""
    first: dict[str, str] = {}
    hits: dict[str, bool] = {}
    for row in (row for row in facts.matches if row["label"] == label):
        if first.setdefault(row["work"], row["prompt_id"]) == row["prompt_id"]:
            score = row["sscd_nearest"]
            hits[row["work"]] = hits.get(row["work"], False) or (score is not None and score > facts.threshold)
    return list(hits.values())


def _work(name: str, prompts: Mapping[str, Rows], threshold: float) -> Work:
    prompt_id, rows = next(iter(prompts.items()))
    best = max(rows, key=lambda row: row["sscd_paired"])
    scores = [row["sscd_paired"] for row in rows]
    above = sum(score > threshold for score in scores)
    return Work(
        work=name, label=best["label"], rung=best["rung"], prompt_id=prompt_id, prompts=len(prompts),
        score=best["sscd_paired"], median_score=median(scores), seed=best["seed"], seeds=len(rows),
        seeds_above=above, replicated=above > 0,
    )  # fmt: skip


def _images(facts: RunFacts) -> Rate | Missing:
    rows = [r for r in facts.matches if r["label"] not in CONTROLS and r["sscd_paired"] is not None]
    if not rows:
        return not_measured("no image has an original to be compared with")
    rng = np.random.default_rng(seed_for(0, "images above the threshold"))
    return rate(plain(cluster_rate([r["sscd_paired"] > facts.threshold for r in rows], [r["work"] for r in rows],
                                   rng=rng)))  # fmt: skip


def _rate_or(facts: object, why: str) -> Rate | Missing:
    return rate(facts) if mapping(facts) else not_measured(why)


def _group(name: str, found: object) -> Group:
    row = mapping(found)
    measured = rate(wording.rate_of(found))
    replicated = count(row.get("replicated"))
    return Group(
        name=name, works=count(row.get("works")) or measured.n, rate=measured,
        replicated=not_measured("only a rate was recorded") if replicated is None else replicated,
    )  # fmt: skip


def _rung(row: Mapping[str, Any]) -> Rung:
    score = Mean(estimate=real(row.get("mean_score")), lower=real(row.get("lower")), upper=real(row.get("upper")))
    measured = rate(wording.rate_of(row.get("leak_rate")))
    return Rung(rung=int(row["rung"]), works=count(row.get("works")) or measured.n, score=score, rate=measured)


def _score(found: object) -> Score | Missing:
    row = mapping(found)
    if not row:
        return not_measured("this run has nothing to measure it with, or on")
    return Score(
        median=real(row.get("median")), mad=real(row.get("mad")), mean=real(row.get("mean")),
        n=count(row.get("n")) or 0, unit=str(row.get("unit") or ""),
    )  # fmt: skip


def decision(facts: RunFacts, said: AuditorFile) -> Decision:
    """What was decided against a limit, and who set it."""
    summary = facts.summary
    limit, bound = real(summary.get("limit")), rate(summary.get("leak_rate")).upper_one_sided
    without = not_given("--max-leak-rate").model_copy(update={"why": "the audit had no --max-leak-rate"})
    return Decision(
        expression=without if limit is None else f"leak_rate.upper_one_sided <= {limit:g}",
        limit=without if limit is None else limit,
        observed=not_measured("no work was tested") if bound is None else bound,
        verdict=str(summary.get("verdict") or "none"), sentence=wording.decision(summary),
        set_by=said.said("limit_set_by"), reason=said.said("limit_reason"),
    )  # fmt: skip


HANDLING = (
    "Images that a model drew of a work are copies of it where they replicate, and so is this evidence. It stays in "
    "the run folder; the findings name it by path and checksum and hold no picture. Pass it on only to those who "
    "must see it."
)


def evidence(facts: RunFacts, works: Iterable[Work]) -> EvidenceIndex:
    """Where the image that decides for each work, and its original, are found."""
    drawn = {(row["prompt_id"], row["seed"]): row for row in facts.samples}
    sums = {row["id"]: row["sha256"] for row in facts.references}
    return EvidenceIndex(
        handling=HANDLING, images=facts.images, files=facts.files,
        pairs=tuple(
            _pair(work, drawn[work.prompt_id, work.seed], sums)
            for work in works if work.seed is not None and (work.prompt_id, work.seed) in drawn
        ),
    )  # fmt: skip


def _pair(work: Work, row: Mapping[str, Any], sums: Mapping[str, str]) -> Pair:
    original = str(row["original"] or "")
    why = "references.json does not name it"
    return Pair(
        work=work.work, prompt_id=work.prompt_id, prompt=row["prompt"], seed=row["seed"], score=work.score or 0.0,
        original=original, original_sha256=sums.get(original) or not_measured(why),
        image=row["image"], image_sha256=row["sha256"] or not_measured("the audit did not record it"),
    )  # fmt: skip
