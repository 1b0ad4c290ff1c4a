"""What a tap shows: which rows passed through which layer in which call of the U-Net."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amnestic.core.units import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Passing:
    """What one layer saw in one call of the U-Net.

    Attributes:
        site: Where.
        step: Which call of the U-Net since the tape was started, from 0.
        conditional: Rows of the prompts, ``(N, L, U)``.
        unconditional: Rows of the empty prompt, ``(N, L, U)``; no rows without guidance.
    """

    site: Site
    step: int
    conditional: 'Float[Tensor, "N L U"]'
    unconditional: 'Float[Tensor, "M L U"]'


Keep = Callable[[Passing], None]
"""Takes in one call; keeps a reduction of it, so that memory does not grow with the calls."""


@dataclass
class Tape:
    """Counts the calls of a U-Net and knows which rows belong to the prompts.

    Attributes:
        step: Calls since the last `start`, less one; -1 before the first.
        guided: Whether the rows of the empty prompt come first, as diffusers' pipelines stack them.
        fired: Names of the sites through which something passed.
    """

    step: int = -1
    guided: bool = False
    fired: set[str] = field(default_factory=set)

    def start(self, *, guided: bool) -> None:
        """Begin a new batch: its first call is step 0.

        Args:
            guided: Whether classifier-free guidance doubles the rows.
        """
        self.step, self.guided = -1, guided

    def halves(self, rows: "Tensor") -> "tuple[Tensor, Tensor]":
        """Rows of the prompts and rows of the empty prompt."""
        if not self.guided:
            return rows, rows[:0]
        unconditional, conditional = rows.chunk(2)
        return conditional, unconditional
