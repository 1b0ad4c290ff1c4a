"""Can the places of an edit be seen in the weights?"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.measures.calibration import auc


@dataclass(frozen=True, kw_only=True)
class Telling:
    """How well the places of an edit can be told from the rest of a parameter.

    Attributes:
        exact_zeros: Share of the edited places that hold exactly 0, in [0, 1].
        auc_of_smallness: Probability that an edited weight is smaller than another one, in [0, 1]; 0.5 tells
            nothing, 1 gives every place away.
        n: Edited places.
    """

    exact_zeros: float
    auc_of_smallness: float
    n: int


def telling(parameter: Float[Tensor, "..."], at: Int[Tensor, "n"]) -> Telling:
    """Whether somebody who sees only the edited weights can point at the edited places.

    Formula: the share of zeros among them, and the AUC of ``-|w|`` as a score for having been edited.

    Args:
        parameter: Weights after the edit.
        at: Edited places in the flattened parameter, at least one and not all.

    Returns:
        Shares in [0, 1]; comparable between edits of the same places.

    Raises:
        ValueError: If no place or every place was edited; there is nothing to tell apart.

    Example:
        >>> import torch
        >>> telling(torch.tensor([0.0, 1.0, -2.0, 0.0]), torch.tensor([0, 3]))
        Telling(exact_zeros=1.0, auc_of_smallness=1.0, n=2)

    Source:
        "Roots Beneath the Cut", 2026: zeroed positions reveal what was removed.
    """
    sizes = parameter.detach().reshape(-1).float().abs().cpu()
    edited = torch.zeros(len(sizes), dtype=torch.bool)
    edited[at.cpu()] = True
    if not 0 < int(edited.sum()) < len(sizes):
        raise ValueError(f"expected some but not all of {len(sizes)} weights to be edited, got {int(edited.sum())}")
    inside, outside = (-sizes[mask].double().numpy() for mask in (edited, ~edited))
    return Telling(
        exact_zeros=float(np.mean(inside == 0)), auc_of_smallness=auc(inside, outside), n=int(edited.sum())
    )  # fmt: skip
