"""How well the bundled copy descriptor stands in for the one it imitates."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor


def agreement(
    bundled: Float[Tensor, "P S"],
    judge: Float[Tensor, "P S"],
    works: Sequence[str],
    *,
    bundled_threshold: float,
    judge_threshold: float,
) -> dict[str, float]:
    """Rank correlation of two descriptors' scores, and how often they give one verdict on a work.

    Formula: Spearman's rho over all P*S similarities, and the share of works ``w`` with
    ``[max_s a_ws > t_a] = [max_s b_ws > t_b]``.

    Args:
        bundled: Similarity of P prompts' images to their originals, S seeds, in [-1, 1].
        judge: The same images under the descriptor that is imitated, in [-1, 1].
        works: Work of each of the P prompts.
        bundled_threshold: The bundled descriptor's own calibrated threshold.
        judge_threshold: The judge's threshold.

    Returns:
        ``rank_correlation`` in [-1, 1], ``same_verdict`` in [0, 1], and how many ``works`` there are.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.1], [0.5], [0.9]])
        >>> found = agreement(scores, scores, ["a", "b", "c"], bundled_threshold=0.4, judge_threshold=0.7)
        >>> round(found["same_verdict"], 2)
        0.67
    """
    rho = spearmanr(bundled.flatten().numpy(), judge.flatten().numpy()).statistic
    rows = {work: [p for p, name in enumerate(works) if name == work] for work in works}
    same = [
        bool(bundled[at].max() > bundled_threshold) == bool(judge[at].max() > judge_threshold) for at in rows.values()
    ]
    return {"rank_correlation": float(rho), "same_verdict": float(np.mean(same)), "works": float(len(rows))}
