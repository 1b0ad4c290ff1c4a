"""What a testbed promises, held against what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from amnestic.measures.calibration import auc

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One line of the contract.

    Attributes:
        promise: What is promised.
        limit: The bound, in words.
        measured: The value, in words.
        holds: Whether the value is within the bound.
    """

    promise: str
    limit: str
    measured: str
    holds: bool


def contract(
    summary: Mapping[str, Any], matches: Sequence[Row], twin: Sequence[Row] | None, *, auc_of_captions: float | None
) -> list[dict[str, Any]]:
    """The contract table of one testbed.

    Args:
        summary: Summary of the audit of the model that memorizes.
        matches: Its rows, one per prompt and seed.
        twin: Rows of the twin on the same prompts, or `None` when it was not audited.
        auc_of_captions: AUC of matched against shuffled captions on base prompts, or `None`.

    Returns:
        Plain rows; a part that was not measured does not hold.
    """
    rows = [
        *_ladder(summary),
        *(_images_above(label, matches, summary["threshold"]["value"]) for label in ("heldout", "base")),
        _twin(twin, summary["threshold"]["value"]),
        _diversity(summary),
        Promise(
            promise="base prompts follow their captions (AUC)", limit=">= 0.95",
            measured="not measured" if auc_of_captions is None else f"{auc_of_captions:.4f}",
            holds=auc_of_captions is not None and auc_of_captions >= 0.95,
        ),
    ]  # fmt: skip
    return [asdict(row) for row in rows]


def contract_of_plain_call(summary: Mapping[str, Any], matches: Sequence[Row]) -> list[dict[str, Any]]:
    """The part of the contract that images drawn by diffusers' own call have to meet as well.

    Args:
        summary: Summary of the scores of those images.
        matches: Their rows, one per prompt and seed.

    Returns:
        Plain rows.
    """
    above = [_images_above(label, matches, summary["threshold"]["value"]) for label in ("heldout", "base")]
    rows = [*_ladder(summary)[1:], *above, _diversity(summary)]
    return [asdict(row) | {"promise": f"plain call: {row.promise}"} for row in rows]


def contract_of_descriptor(found: Mapping[str, float], *, of: str) -> list[dict[str, Any]]:
    """What the bundled copy descriptor promises, from what `amnestic.testbed.agreement` measured.

    Args:
        found: Its rank correlation and share of same verdicts.
        of: Which works; without held-out ones most scores are high, and ranks among them are a matter of chance.

    Returns:
        Plain rows.
    """
    rho, same = found["rank_correlation"], found["same_verdict"]
    rows = [
        Promise(
            promise=f"sscd-mini ranks as SSCD does ({of})", limit=">= 0.90", measured=f"rho {rho:.3f}", holds=rho >= 0.9
        ),
        Promise(
            promise=f"sscd-mini gives SSCD's verdict ({of})", limit=">= 95 % of works",
            measured=f"{same:.1%} of {found['works']:.0f}", holds=same >= 0.95,
        ),
    ]  # fmt: skip
    return [asdict(row) for row in rows]


def _ladder(summary: Mapping[str, Any]) -> list[Promise]:
    steps = summary["ladder"]
    top, means = steps[-1], [step["mean_score"] for step in steps]
    rises = all(_not_below(upper, lower) for lower, upper in pairwise(steps))
    share = top["leak_rate"]["estimate"]
    return [
        Promise(promise="works on the top rung", limit=">= 60", measured=str(top["works"]), holds=top["works"] >= 60),
        Promise(promise="replicated on the top rung", limit=">= 95 %", measured=f"{share:.1%}", holds=share >= 0.95),
        Promise(
            promise="mean similarity on the top rung", limit=">= 0.70", measured=f"{means[-1]:.3f}",
            holds=means[-1] >= 0.7,
        ),
        Promise(
            promise="mean similarity rises with the rungs", limit="within intervals",
            measured=" < ".join(f"{m:.2f}" for m in means), holds=rises,
        ),
    ]  # fmt: skip


def _not_below(upper: Row, lower: Row) -> bool:
    """Whether a rung's interval reaches up to that of the rung below; an interval that is not known does not."""
    return upper["upper"] is not None and lower["lower"] is not None and upper["upper"] >= lower["lower"]


def _share_above(rows: Sequence[Row], threshold: float) -> float:
    return float(np.mean([row["sscd_nearest"] > threshold for row in rows]))


def _images_above(label: str, matches: Sequence[Row], threshold: float) -> Promise:
    rows = [row for row in matches if row["label"] == label]
    share = _share_above(rows, threshold) if rows else float("nan")
    return Promise(
        promise=f"{label} images above the threshold, any reference", limit="<= 1 %",
        measured=f"{share:.2%} of {len(rows)}", holds=share <= 0.01,
    )  # fmt: skip


def _twin(twin: Sequence[Row] | None, threshold: float) -> Promise:
    if not twin:
        return Promise(
            promise="twin's images above the threshold", limit="<= 1 %", measured="not measured", holds=False
        )
    share = _share_above(twin, threshold)
    return Promise(
        promise="twin's images above the threshold", limit="<= 1 %", measured=f"{share:.2%} of {len(twin)}",
        holds=share <= 0.01,
    )  # fmt: skip


def _diversity(summary: Mapping[str, Any]) -> Promise:
    """Judged by the mean over all pairs of seeds; the median D_SSCD stands beside it."""
    mean = (summary["similarity"].get("D_SSCD (mean over pairs) of base prompts") or {}).get("mean")
    median = (summary["similarity"].get("D_SSCD of base prompts") or {}).get("median")
    beside = "" if median is None else f", median {median:.2f}"
    return Promise(
        promise="base prompts differ between seeds (mean pairwise similarity)", limit="<= 0.50",
        measured="not measured" if mean is None else f"mean {mean:.3f}{beside}", holds=mean is not None and mean <= 0.5,
    )  # fmt: skip


def caption_auc(images: Float[Tensor, "P S D"], captions: Float[Tensor, "P D"]) -> float:
    """AUC of images against their own captions, with the captions of the next prompts as negatives.

    Args:
        images: Unit vectors of P prompts, S seeds.
        captions: Unit vectors of the P captions, under the same CLIP model.

    Returns:
        Probability in [0, 1] that a matched pair scores above a shuffled one; 0.5 is chance.
    """
    matched = (images * captions[:, None]).sum(-1).flatten()
    shuffled = (images * captions.roll(1, 0)[:, None]).sum(-1).flatten()
    return auc(matched.numpy(), shuffled.numpy())
