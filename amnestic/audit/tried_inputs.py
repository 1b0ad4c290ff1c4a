"""What a model draws from inputs that a search found, scored by a descriptor that the search never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from amnestic.audit.generate import decode_alone
from amnestic.core.protocols import Encoder
from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.target import Target
from amnestic.parallel import shrinking_batches

STOPPING_SEEDS = 1_000_000
"""First seed of early stops: they never share a starting noise with the seeds that score."""


@dataclass(frozen=True, kw_only=True)
class InputJudge:
    """Draws with given inputs and compares with the originals.

    Attributes:
        target: The model.
        encoder: The copy descriptor that judged the audit; no loss may use it.
        originals: Its unit vectors of the originals, by prompt id.
        sampling: How images are drawn.
        batch_size: Images drawn at once; does not change the result beyond rounding.
    """

    target: Target
    encoder: Encoder
    originals: Mapping[str, Tensor]
    sampling: Sampling
    batch_size: int = 16

    def __call__(
        self, prompts: Sequence[Prompt], cond: Float[Tensor, "N L W"], seeds: Sequence[int], *,
        start: Tensor | None = None,
    ) -> tuple[Float[Tensor, "N S"], list[NDArray[np.uint8]]]:  # fmt: skip
        """Similarity of what is drawn with the original.

        Args:
            prompts: Which goal each input is for; its id decides the starting noise.
            cond: The inputs.
            seeds: S seeds.
            start: Starting noise ``(N, C, H, W)`` of the inputs instead; seeds then only differ in the sampler's noise.

        Returns:
            Cosine similarities in [-1, 1], and the image of each input's first seed.

        Raises:
            NotFinite: If the model draws NaN or infinity.
        """
        units = [Unit(p.id, seed) for p in prompts for seed in seeds]
        owner = torch.arange(len(prompts)).repeat_interleave(len(seeds))
        vectors: list[Tensor] = []
        shown: list[NDArray[np.uint8]] = []

        def go_on(size: int) -> None:
            while len(vectors) < len(units):
                part = slice(len(vectors), len(vectors) + size)
                images = self._drawn(units[part], cond[owner[part]], None if start is None else start[owner[part]])
                for place, image in enumerate(images, len(vectors)):
                    if place % len(seeds) == 0:
                        shown.append(image)
                vectors.extend(self.encoder(images))

        shrinking_batches(go_on, start=self.batch_size)
        own = torch.stack([self.originals[u.prompt_id] for u in units])
        return (torch.stack(vectors) * own).sum(dim=1).reshape(len(prompts), len(seeds)), shown

    def _drawn(self, units: Sequence[Unit], cond: Tensor, start: Tensor | None) -> list[NDArray[np.uint8]]:
        with torch.no_grad():
            latents = self.target.sample(units, [], self.sampling, cond=cond, start=start).float().cpu()
        return [decode_alone(self.target, one) for one in latents]
