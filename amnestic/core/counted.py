"""Counts what passes through a model, so that no method has to be believed about its budget."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from amnestic.core.target import Target


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Rows that passed through a U-Net.

    Attributes:
        forward: Rows computed.
        backward: Those of them through which a gradient may flow back.
    """

    forward: int = 0
    backward: int = 0

    @property
    def passes(self) -> int:
        """Forward and backward rows, one each."""
        return self.forward + self.backward


class Counted:
    """A target that counts its predictions; in everything else the target itself."""

    def __init__(self, target: "Target") -> None:
        """Count from zero."""
        self._target, self.cost = target, Cost()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the target has
        return getattr(self._target, name)

    def predict(self, x: "Tensor", t: "Tensor", cond: "Tensor") -> "Tensor":
        """Predicted noise of the target; rows are counted after they were computed, so none is counted that failed."""
        found = self._target.predict(x, t, cond)
        rows = len(found)
        self.cost = replace(
            self.cost, forward=self.cost.forward + rows,
            backward=self.cost.backward + (rows if found.requires_grad else 0),
        )  # fmt: skip
        return found
