"""Values of unknown kind from a summary: each is what it should be, or missing."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any


def real(value: object) -> float | None:
    """A finite number, or `None` for anything else."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


def count(value: object) -> int | None:
    """A whole number, or `None` for anything else."""
    found = real(value)
    return None if found is None else int(found)


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping, empty for anything else."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> list[dict[str, Any]]:
    """The mappings in a list."""
    return [dict(v) for v in value if isinstance(v, Mapping)] if isinstance(value, Sequence) else []
