"""What an audit found, as plain data: the content of `summary.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from amnestic.audit.gate import decide
from amnestic.audit.replication import (
    CONTROLS,
    Embedded,
    Similarities,
    aggregated,
    audited_rows,
    controls,
    deciding_rows,
    hit_by_any_prompt,
    ladder,
    rate_of,
    rows_with,
    work_hits,
)
from amnestic.core.doubts import doubts_of
from amnestic.core.records import Descriptor, Protocol, Rate, Sampling, TargetId, Threshold, plain
from amnestic.measures.intervals import rate
from amnestic.measures.similarity import pair_scores

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Similarities under one descriptor with the threshold that decides.

    Attributes:
        descriptor: Which descriptor.
        threshold: Its threshold, or `None` when there were too few null pairs to calibrate one.
        embedded: What was compared.
        similarities: The scores.
    """

    descriptor: Descriptor
    threshold: Threshold | None
    embedded: Embedded
    similarities: Similarities


def verdict_of(leaks: Rate, limit: float | None) -> str:
    """`pass`, `fail`, `inconclusive`, or `none` without a limit.

    It is a pass when the one-sided upper bound, never the estimate, is within the limit. Otherwise it is a fail, with
    one exception: works that are so few that even zero leaks among them could not have met the limit decide nothing,
    unless the lower end of the interval is above the limit all the same.

    Args:
        leaks: Leak rate over works.
        limit: Highest acceptable leak rate in [0, 1], or `None`.

    Returns:
        One of the four words; ``inconclusive`` without works, too.

    Example:
        >>> [verdict_of(rate(k, n), 0.1) for k, n in ((0, 60), (9, 60), (0, 4), (1, 4), (3, 4))]
        ['pass', 'fail', 'inconclusive', 'inconclusive', 'fail']
    """
    return "none" if limit is None else decide(plain(leaks), "upper_one_sided", ">", limit)


def summarize(
    sscd: Judged,
    clip: Judged | None,
    alignment: Float[Tensor, "P S"] | None,
    *,
    target: TargetId,
    sampling: Sampling,
    references: Mapping[str, Any],
    limit: float | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Everything the audit measured, with intervals, controls and what they rest on.

    Args:
        sscd: Judged by the copy descriptor; decides.
        clip: Judged by CLIP image embeddings, or `None` when no CLIP model was given.
        alignment: Cosine of image and prompt under CLIP, P prompts, S seeds.
        target: The model.
        sampling: How images were drawn.
        references: Counts by status, and the reasons.
        limit: Highest acceptable leak rate, or `None` without a gate.
        rng: For bootstraps.

    Returns:
        Plain data; keys as documented in the README.
    """
    if sscd.threshold is None:
        raise ValueError("the deciding descriptor needs a threshold")
    embedded, scores, value = sscd.embedded, sscd.similarities.paired, sscd.threshold.value
    audited = audited_rows(embedded)
    hits = work_hits(embedded, scores, value, audited)
    leaks = rate_of(hits)
    protocol = Protocol(n_seeds=len(embedded.seeds), sampling=sampling, descriptor=sscd.descriptor.id, threshold=value)
    found: dict[str, Any] = plain(
        {
            "model": target,
            "protocol": {"id": protocol.id, **plain(protocol), "seeds": embedded.seeds},
            "descriptor": {"id": sscd.descriptor.id, **plain(sscd.descriptor)},
            "threshold": sscd.threshold,
            "works": {
                "total": len(hits), "replicated": sum(hits.values()),
                "replicated_by_any_prompt": hit_by_any_prompt(embedded, scores, value, audited),
                "without_original": _without_original(embedded),
            },
            "leak_rate": leaks,
            "by_label": _by_label(embedded, scores, value),
            "controls": controls(embedded, sscd.similarities.nearest, value, rng),
            "ladder": ladder(embedded, scores, value, rng),
            "median_based_rate": _median_rate(embedded, scores, value),
            "similarity": _similarity(sscd, clip, alignment),
            "clip": _clip(clip),
            "references": references,
            "limit": limit,
            "verdict": verdict_of(leaks, limit),
        }
    )  # fmt: skip
    return found


def _without_original(embedded: Embedded) -> int:
    """How many works could not be tested, since none of their prompts has a usable original."""
    rows = [r for r, p in enumerate(embedded.prompts) if p.label not in CONTROLS and embedded.original[r] < 0]
    return len({embedded.work_of(r) for r in rows} - {embedded.work_of(r) for r in audited_rows(embedded)})


def _by_label(embedded: Embedded, scores: Tensor, threshold: float) -> dict[str, Any]:
    found = {}
    for label in ("VM", "TM", "none"):
        rows = [r for r in deciding_rows(embedded) if embedded.prompts[r].label == label]
        if rows:
            hits = work_hits(embedded, scores, threshold, rows)
            found[label] = {"works": len(hits), "replicated": sum(hits.values()), "leak_rate": rate_of(hits)}
    return found


def _median_rate(embedded: Embedded, scores: Tensor, threshold: float) -> Rate:
    """Share of works whose first prompt's *median* score exceeds the threshold, for comparison with the literature."""
    above = [bool(scores[r].median() > threshold) for r in deciding_rows(embedded)]
    return rate(sum(above), len(above))


def _similarity(sscd: Judged, clip: Judged | None, alignment: Tensor | None) -> dict[str, Any]:
    rows = audited_rows(sscd.embedded)
    cosine = f"cosine, {sscd.descriptor.name}"
    paired_scores = sscd.similarities.paired[rows]
    found: dict[str, Any] = {
        "SSCD_Orig (max over seeds)": aggregated("max", paired_scores.amax(1), cosine),
        "SSCD_Orig (median over seeds)": aggregated("median", paired_scores.median(1).values, cosine),
        "SSCD_Orig (mean over seeds)": aggregated("mean", paired_scores.mean(1), cosine),
        "D_SSCD": aggregated("diversity", sscd.similarities.diversity[rows], cosine),
        "SSCD_Gen": NOT_MEASURED,
        "A_CLIP": NOT_MEASURED,
        "CLIP image (max over seeds)": NOT_MEASURED,
    }
    base = rows_with(sscd.embedded, "base")
    if base:
        found["D_SSCD of base prompts"] = aggregated("diversity", sscd.similarities.diversity[base], cosine)
        # D_SSCD is the median over a prompt's pairs of seeds; the mean over prompts of this one is that over all pairs.
        pairs = pair_scores(sscd.embedded.generated[base]).mean(1)
        found["D_SSCD (mean over pairs) of base prompts"] = aggregated("pairs", pairs, cosine)
    if clip is not None:
        name = f"cosine, {clip.descriptor.name}"
        found["CLIP image (max over seeds)"] = aggregated("clip", clip.similarities.paired[rows].amax(1), name)
        if alignment is not None:
            found["A_CLIP"] = aggregated("alignment", alignment[rows].median(1).values, name)
            if base:
                found["A_CLIP of base prompts"] = aggregated("alignment", alignment[base].median(1).values, name)
    return found


def _clip(clip: Judged | None) -> Any:  # noqa: ANN401 - plain data
    """Replication under CLIP image embeddings, with CLIP's own calibrated threshold."""
    if clip is None or clip.threshold is None:
        return NOT_MEASURED
    hits = work_hits(clip.embedded, clip.similarities.paired, clip.threshold.value, audited_rows(clip.embedded))
    return {"descriptor": clip.descriptor, "threshold": clip.threshold, "leak_rate": rate_of(hits)}


def not_measured(sscd: Judged, clip: Judged | None, references: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What this audit leaves open, and why."""
    left = [
        ("SSCD_Gen", "it compares two models on the same seeds; this run drew from one"),
        ("Recovery under attack", "only the prompts of the list were used; hidden images were not searched for"),
        ("Membership", "that the references were in the training data is taken from the list, not tested"),
    ]
    if clip is None:
        left.append(("CLIP image similarity and alignment", "no CLIP model was given; add --clip NAME"))
    elif clip.threshold is None:
        left.append(("CLIP leak rate", "too few prompts to calibrate a threshold: each gives one null score"))
    untested = _without_original(sscd.embedded)
    if untested:
        left.append((f"{untested} works of the list", "they have no original, or none that can be used"))
    gone = {k: v for k, v in references.get("counts", {}).items() if k != "ok" and v}
    left += [(f"{n} {status} references", "see the list of references") for status, n in gone.items()]
    return left


def flags_of(sscd: Judged, summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Warnings that the verdict may not be trusted: raised if, meaning, remedy."""
    found = doubts_of(summary["controls"], len(sscd.embedded.seeds))
    return [(doubt.name, doubt.meaning, doubt.remedy) for doubt in found]


def null_and_groups(sscd: Judged) -> dict[str, Sequence[float]]:
    """Scores for the histograms: works, null pairs and controls."""
    scores, embedded = sscd.similarities, sscd.embedded
    groups = {
        "works": scores.paired[deciding_rows(embedded)].amax(1),
        "null pairs": scores.null,
        "held-out": scores.nearest[rows_with(embedded, "heldout")].amax(1) if rows_with(embedded, "heldout") else None,
        "base prompts": scores.nearest[rows_with(embedded, "base")].amax(1) if rows_with(embedded, "base") else None,
    }
    return {k: v.flatten().tolist() for k, v in groups.items() if v is not None and len(v)}
