"""Wanda scores of weights and the masks that follow from them: pure functions of activation norms."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def squared_norms(rows: Float[Tensor, "... U"]) -> Float[Tensor, "U"]:
    """Sum over rows of the squared entries, every row scaled to unit length first.

    Formula: ``sum_i (x_ij / |x_i|)^2``; a zero row counts as zero.

    Args:
        rows: Activations; the last axis are the units, all others count as rows.

    Returns:
        Float32, at least 0, on the same device; sums of several calls add up.

    Raises:
        ValueError: Never for finite input; NaN passes through, so check what comes out.

    Example:
        >>> squared_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([0.3600, 0.6400])

    Source:
        Chavhan et al., 2024 (arXiv 2406.18566), as in the authors' ConceptPrune code.
    """
    return functional.normalize(rows.flatten(end_dim=-2).float(), dim=1).square().sum(dim=0)


def top_per_row(scores: Float[Tensor, "D U"], n: int) -> Bool[Tensor, "D U"]:
    """The `n` largest entries of every row; of equal ones those in the lower columns.

    Args:
        scores: Any finite values.
        n: How many per row, at most U; 0 chooses none.

    Returns:
        Boolean, `n` True entries in every row.

    Example:
        >>> top_per_row(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 1)
        tensor([[False,  True, False, False]])
    """
    if n == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = scores.topk(n, dim=1).values[:, -1:]
    above, equal = scores > least, scores == least
    left = n - above.sum(dim=1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=1) <= left))


def subspace_mask(
    weight: Float[Tensor, "D U"], target: Float[Tensor, "T U"], contrast: Float[Tensor, "T U"], *, r: float
) -> Bool[Tensor, "D U"]:
    """Weights that matter most on the target and more than on the contrast, in any of T steps.

    Formula: ``OR_t [ top_{int(r U)}(|W| A_t) and A_t > B_t ]``.

    Args:
        weight: W of a linear layer, D outputs, U inputs.
        target: A, norms of the layer's inputs over memorized prompts, for each of T steps.
        contrast: B, the same over the contrast; on the same scale as A.
        r: Share of each output row, in (0, 1]; ``int(r U)`` may be 0, then nothing is chosen.

    Returns:
        Boolean mask over W.

    Raises:
        ValueError: If the norms have unequal shapes; record both with as many steps.

    Example:
        >>> weight = torch.tensor([[1.0, -2.0]])
        >>> subspace_mask(weight, torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0]]), r=0.5)
        tensor([[False,  True]])

    Source:
        Chavhan et al., 2024 (arXiv 2406.18566). That target scores exceed contrast scores is tested
        on the norms, since both scores share W: the products may tie where the norms do not.
    """
    if target.shape != contrast.shape:
        raise ValueError(f"expected norms of one shape, got {tuple(target.shape)} and {tuple(contrast.shape)}")
    size, n = weight.abs().float(), int(r * weight.shape[1])
    mask = torch.zeros_like(size, dtype=torch.bool)
    for a, b in zip(target, contrast, strict=True):
        mask |= top_per_row(size * a, n) & (a > b)
    return mask
