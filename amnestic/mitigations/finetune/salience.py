"""Which rows of weights serve images to forget more than ordinary ones."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradients(loss: Tensor, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Gradient of a loss by path; zeros where it does not depend on a weight."""
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        path: torch.zeros_like(weight) if g is None else g.detach()
        for (path, weight), g in zip(weights.items(), found, strict=True)
    }


def added(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum of two gradients, path by path."""
    return {path: value + other[path] if path in other else value for path, value in one.items()}


def salient_rows(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The rows of weights with the largest gradient on images to forget relative to that on ordinary ones.

    Formula: rows in descending order of ``rms(g_forget) / (rms(g_retain) + m)``, with m the median of the latter over
    all rows, until they hold `share` of all entries; at least one row.

    Args:
        forget: Gradient of the loss on images to forget, by path; the first dimension counts rows.
        retain: That on ordinary images, of the same shapes.
        share: In (0, 1].

    Returns:
        By path, a mask ``(D, 1, ...)`` that stretches over a row's entries; on the CPU.

    Example:
        >>> masks = salient_rows({"w": torch.tensor([[9.0], [1.0]])}, {"w": torch.ones(2, 1)}, 0.5)
        >>> masks["w"].tolist()
        [[True], [False]]
    """
    paths = list(forget)
    wanted, others = (torch.cat([_rms(some[p]) for p in paths]) for some in (forget, retain))
    sizes = torch.cat([torch.full((len(forget[p]),), forget[p][0].numel()) for p in paths])
    order = (wanted / (others + others.median()).clamp(min=1e-30)).argsort(descending=True, stable=True)
    held = sizes[order].cumsum(0)
    chosen = torch.zeros(len(order), dtype=torch.bool)
    chosen[order[held <= share * int(sizes.sum())]] = True
    chosen[order[0]] = True
    lengths: Sequence[int] = [len(forget[p]) for p in paths]
    return {
        path: mask.reshape(-1, *([1] * (forget[path].dim() - 1))).clone()
        for path, mask in zip(paths, chosen.split(list(lengths)), strict=True)
    }


def _rms(gradient: Tensor) -> Tensor:
    return gradient.detach().float().reshape(len(gradient), -1).square().mean(dim=1).sqrt().cpu()
