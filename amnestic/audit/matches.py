"""The rows of `matches.parquet`: every image with its scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from amnestic.audit.summary import Judged
from amnestic.core.records import Prompt

NO_PIXELS = {"ssim": None, "tiled_l2": None, "error_outside_mask": None, "error_inside_mask": None}


def match_rows(
    sscd: Judged,
    clip: Judged | None,
    alignment: Float[Tensor, "P S"] | None,
    reference_ids: Sequence[str],
    pixels: Callable[[Prompt, int], Mapping[str, float]],
) -> list[dict[str, Any]]:
    """One row per prompt and seed; pixel evidence where the pair scores above the threshold.

    Args:
        sscd: Scores of the deciding descriptor, P prompts, S seeds.
        clip: Scores under CLIP image embeddings, or `None`.
        alignment: Cosine of image and prompt, or `None`.
        reference_ids: Names of the R references, in the order of the scores.
        pixels: Pixel evidence of a prompt and seed; called only for pairs above the threshold.

    Returns:
        P*S rows; what was not measured is `None`.
    """
    embedded, scores = sscd.embedded, sscd.similarities
    threshold = sscd.threshold.value if sscd.threshold else float("inf")
    rows = []
    for p, prompt in enumerate(embedded.prompts):
        for s, seed in enumerate(embedded.seeds):
            near, pair = int(scores.nearest_row[p, s]), _value(scores.paired, p, s)
            row: dict[str, Any] = {
                "prompt_id": prompt.id, "seed": seed, "label": prompt.label, "rung": prompt.rung,
                "work": embedded.work_of(p), "sscd_paired": pair, "sscd_nearest": _value(scores.nearest, p, s),
                "nearest_reference": reference_ids[near], "nearest_work": embedded.works[near],
                "clip_paired": _value(clip.similarities.paired if clip else None, p, s),
                "clip_nearest": _value(clip.similarities.nearest if clip else None, p, s),
                "clip_alignment": _value(alignment, p, s), **NO_PIXELS,
            }  # fmt: skip
            if pair is not None and pair > threshold:
                row |= pixels(prompt, seed)
            rows.append(row)
    return rows


def _value(scores: Tensor | None, row: int, column: int) -> float | None:
    """One score, or `None` when it was not measured."""
    if scores is None or bool(scores[row, column].isnan()):
        return None
    return float(scores[row, column])
