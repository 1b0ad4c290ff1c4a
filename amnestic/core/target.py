"""What a method may ask of a model."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from amnestic.core.edits import Change, Edit
from amnestic.core.records import Sampling, TargetId, Unit
from amnestic.core.tape import Keep, Tape
from amnestic.core.units import Site, Units

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """What a text encoder reads.

    Attributes:
        embeddings: One row ``(V, E)`` per token, without gradient; not a copy.
        ordinary: Tokens ``(V,)`` that a user types as a word by themselves: decoded and read again they are the same.
        begin: The token before every text.
        end: The token after it.
    """

    embeddings: "Float[Tensor, 'V E']" = field(repr=False)
    ordinary: "Bool[Tensor, 'V']" = field(repr=False)
    begin: int
    end: int


class Target(Protocol):
    """A text-to-image model; a ten-line analytic toy satisfies it as well as Stable Diffusion."""

    @property
    def ident(self) -> TargetId:
        """Which model this is."""
        ...

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model draws by default."""
        ...

    def encode(self, prompts: Sequence[str]) -> "Float[Tensor, 'N L W']":
        """Conditioning of prompts."""
        ...

    def tokens(self, texts: Sequence[str]) -> "Int[Tensor, 'N L']":
        """Token ids of texts as `encode` reads them, on the CPU: begin, content, end, padding."""
        ...

    def texts_of(self, ids: "Int[Tensor, 'N L']") -> tuple[str, ...]:
        """Texts of token ids, without begin, end and padding; reading one again may give other ids."""
        ...

    def vocabulary(self) -> Vocabulary:
        """All tokens, and which of them can be typed."""
        ...

    def encode_tokens(
        self, ids: "Int[Tensor, 'N L']", embeddings: "Float[Tensor, 'N L E'] | None" = None
    ) -> "Float[Tensor, 'N L W']":
        """Conditioning of token ids; `embeddings` speak instead of the vocabulary's, differentiable in them."""
        ...

    def noise(self, units: Sequence[Unit], *, size: tuple[int, int] | None = None) -> "Float[Tensor, 'N C H W']":
        """Starting noise of units, on the CPU, each from its own seed."""
        ...

    def predict(
        self, x: "Float[Tensor, 'N C H W']", t: "Int[Tensor, 'N']", cond: "Float[Tensor, 'N L W']"
    ) -> "Float[Tensor, 'N C H W']":
        """Predicted noise eps, differentiable in `x` and `cond`."""
        ...

    @property
    def train_timesteps(self) -> int:
        """How many timesteps the training schedule has; they count from 0, the cleanest."""
        ...

    def noised(
        self, x0: "Float[Tensor, 'N C H W']", noise: "Float[Tensor, 'N C H W']", t: "Int[Tensor, 'N']"
    ) -> "Float[Tensor, 'N C H W']":
        """Clean latents with noise added as in training: ``sqrt(a_t) x0 + sqrt(1 - a_t) noise``."""
        ...

    def signal(self, t: "Int[Tensor, 'N']") -> "Float[Tensor, 'N']":
        """What `noised` multiplies clean latents by: ``sqrt(a_t)``, in (0, 1]; float32 on the CPU."""
        ...

    @property
    def prediction_type(self) -> str:
        """What the model was trained to predict: ``epsilon``, ``v_prediction`` or ``sample``."""
        ...

    def sites(self, kind: str) -> tuple[Site, ...]:
        """Sites of one kind, in the order in which they compute."""
        ...

    def weight(self, site: Site) -> "Float[Tensor, 'D U']":
        """The weight matrix of a site's linear layer."""
        ...

    def record(self, sites: Sequence[Site], keep: Keep) -> AbstractContextManager[Tape]:
        """Show what passes through sites to `keep`."""
        ...

    def attribute(self, sites: Sequence[Site], keep: Keep) -> AbstractContextManager[Tape]:
        """Show activation x gradient of sites to `keep` while a backward pass runs."""
        ...

    def masked(self, factors: "Mapping[Site, Float[Tensor, '... U']]") -> AbstractContextManager[None]:
        """Multiply what neurons say, row by row if wanted."""
        ...

    def touched(self, units: Units) -> "Mapping[str, Int[Tensor, 'n']]":
        """Places of the weights through which units speak, in the flattened parameters, by path."""
        ...

    def parameter(self, path: str) -> "Tensor":
        """A parameter by its path, without gradient; not a copy."""
        ...

    def scaling(self, units: Units, factor: float) -> "Mapping[str, Change]":
        """The change that multiplies what units say by a factor."""
        ...

    def require_fit(self, edit: Edit) -> None:
        """Refuse an edit that was made for other weights than these."""
        ...

    def edited(self, edit: Edit) -> "AbstractContextManager[Target]":
        """The model with an edit applied, and as it was before afterwards."""
        ...

    def through(self, site: Site, cond: "Float[Tensor, 'N L W']") -> "Float[Tensor, 'N L U']":
        """What a value or key site says of a conditioning."""
        ...

    def timesteps(self, how: Sampling) -> "Int[Tensor, 'T']":
        """Training timesteps at which `sample` calls the U-Net, in order."""
        ...

    def noise_shape(self) -> tuple[int, int, int]:
        """Shape of one image's starting noise."""
        ...

    def sample(
        self, units: Sequence[Unit], prompts: Sequence[str], how: Sampling, *, stop_after: int | None = None,
        tape: Tape | None = None, cond: "Float[Tensor, 'N L W'] | None" = None, start: "Tensor | None" = None,
    ) -> "Float[Tensor, 'N C H W']":  # fmt: skip
        """Latents drawn for units; `cond` speaks instead of prompts, `start` is the noise instead of the units'."""
        ...

    def pixels(self, latents: "Float[Tensor, 'N C H W']") -> "Float[Tensor, 'N 3 h w']":
        """Pictures of latents in [0, 1], differentiable in the latents."""
        ...

    def decode(self, latents: "Float[Tensor, 'N C H W']") -> "list[NDArray[np.uint8]]":
        """8-bit RGB images of latents."""
        ...
