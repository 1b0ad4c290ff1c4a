"""What the rest of the house may ask of a model that reads pictures or texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from amnestic.core.records import Descriptor

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from numpy.typing import NDArray
    from torch import Tensor


class Encoder(Protocol):
    """Turns pictures into unit vectors whose inner product is a similarity.

    Attributes:
        descriptor: Which encoder, exactly; vectors of different ones are never compared.
    """

    descriptor: Descriptor

    def __call__(self, images: "Sequence[NDArray[np.uint8]]") -> 'Float[Tensor, "N D"]':
        """One unit vector per picture.

        Args:
            images: N pictures, each (H, W, 3), RGB, uint8; sizes may differ.

        Returns:
            Float32 on the CPU, each row of Euclidean length 1, in the order given. Rows do not
            depend on which pictures share a call, up to rounding.
        """
        ...

    def refuses(self, height: int, width: int) -> str:
        """Why a picture of this size cannot be fed, or an empty string."""
        ...


class AlignmentEncoder(Encoder, Protocol):
    """An encoder that also reads texts into the space of its pictures."""

    def read(self, texts: Sequence[str]) -> 'Float[Tensor, "N D"]':
        """One unit vector per text, comparable by inner product with those of pictures.

        Args:
            texts: N texts; those longer than the model's context are cut.

        Returns:
            Float32 on the CPU, each row of Euclidean length 1, in the order given.
        """
        ...
