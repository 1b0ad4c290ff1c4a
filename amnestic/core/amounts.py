"""Numbers in words that claim no more than the numbers do."""

import math

NOT_MEASURED = "not measured"


def number(value: float | None, digits: int = 3) -> str:
    """A score with fixed digits, or "not measured".

    Args:
        value: Any number, or `None`.
        digits: Digits after the point.

    Returns:
        Text; `None`, NaN and infinity are "not measured".

    Example:
        >>> number(0.87654), number(None), number(float("nan"))
        ('0.877', 'not measured', 'not measured')
    """
    return NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """A share as a percentage that never rounds something to nothing, nor almost all to all.

    Args:
        share: In [0, 1], or `None`.

    Returns:
        Text; `None`, NaN and infinity are "not measured".

    Example:
        >>> [percent(s) for s in (0.45, 0.0, 0.0034, 0.00001, 0.9999, None)]
        ['45 %', '0 %', '0.34 %', '< 0.01 %', '> 99.9 %', 'not measured']
    """
    if share is None or not math.isfinite(share):
        return NOT_MEASURED
    value = 100 * share
    if 0 < value < 0.01:
        text = "< 0.01"
    elif 99.95 <= value < 100:
        text = "> 99.9"
    elif 0 < value < 0.95:
        text = f"{value:.2g}"
    else:
        text = f"{value:.1f}".removesuffix(".0")
    return f"{text} %"
