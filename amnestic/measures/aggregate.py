"""From one value per prompt to the two numbers that papers print."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.errors import NotFinite


def median_mad(values: Float[Tensor, "..."]) -> tuple[float, float]:
    """Median and median absolute deviation, as NeMo and DoRI report them.

    Formula: ``m = median(v)`` and ``median(|v - m|)``, both the lower middle value of an even count (as `torch.median`
    has it, unlike NumPy's mean of the two middle values) and the deviation without the factor 1.4826.

    Args:
        values: Any shape and unit; NaN means "not measured" and is left out.

    Returns:
        Median and deviation in the unit of `values`, both NaN when nothing is left. The deviation is not an interval
        for the median and not a standard deviation.

    Raises:
        NotFinite: If a value is infinite; find where it was computed.

    Example:
        >>> import torch
        >>> median_mad(torch.tensor([1.0, 2.0, 4.0, 8.0, float("nan")]))
        (2.0, 1.0)

    Source:
        Hintersdorf et al., "Finding NeMo: Localizing Neurons Responsible For Memorization in Diffusion Models", 2024.
    """
    kept = values.detach().to(torch.float64).flatten()
    kept = kept[~kept.isnan()]
    if bool(kept.isinf().any()):
        raise NotFinite("values must be finite or NaN, got infinity; find where it was computed")
    if len(kept) == 0:
        return math.nan, math.nan
    median = kept.median()
    return float(median), float((kept - median).abs().median())
