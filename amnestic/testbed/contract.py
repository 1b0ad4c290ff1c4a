"""What a testbed promises, held against what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
    threshold = summary["threshold"]["value"]
    top = summary["ladder"][-1]
    means = [step["mean_score"] for step in summary["ladder"]]
    rises = all(b["upper"] >= a["lower"] for a, b in zip(summary["ladder"], summary["ladder"][1:], strict=False))
    share = top["leak_rate"]["estimate"]
    rows = [
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
        *(_images_above(label, matches, threshold) for label in ("heldout", "base")),
        _twin(twin, threshold),
        _diversity(summary),
        Promise(
            promise="base prompts follow their captions (AUC)", limit=">= 0.95",
            measured="not measured" if auc_of_captions is None else f"{auc_of_captions:.4f}",
            holds=auc_of_captions is not None and auc_of_captions >= 0.95,
        ),
    ]  # fmt: skip
    return [asdict(row) for row in rows]


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
    if twin is None:
        return Promise(
            promise="twin's images above the threshold", limit="<= 1 %", measured="not measured", holds=False
        )
    share = _share_above(twin, threshold)
    return Promise(
        promise="twin's images above the threshold", limit="<= 1 %", measured=f"{share:.2%} of {len(twin)}",
        holds=share <= 0.01,
    )  # fmt: skip


def _diversity(summary: Mapping[str, Any]) -> Promise:
    found = summary["similarity"].get("D_SSCD of base prompts")
    value = found["median"] if found else None
    return Promise(
        promise="base prompts differ between seeds (median D_SSCD)", limit="<= 0.50",
        measured="not measured" if value is None else f"{value:.3f}", holds=value is not None and value <= 0.5,
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
