"""Draws as anybody would: diffusers' own pipeline, called plainly, with nothing of this package around it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from amnestic.core.records import Sampling


class PlainCall:
    """A testbed's model behind `StableDiffusionPipeline.__call__`."""

    def __init__(self, folder: Path, sampling: Sampling) -> None:
        """Load the diffusers folder; `sampling` gives steps and guidance, the scheduler is the model's own."""
        self._pipeline = StableDiffusionPipeline.from_pretrained(folder)
        self._pipeline.set_progress_bar_config(disable=True)
        self._sampling = sampling

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[NDArray[np.uint8]]:
        """One image per prompt; its noise comes from a generator that is seeded with its seed.

        Args:
            prompts: N texts.
            seeds: N seeds.

        Returns:
            N images, each (H, W, 3), RGB, uint8.
        """
        images = self._pipeline(
            list(prompts),
            num_inference_steps=self._sampling.num_inference_steps,
            guidance_scale=self._sampling.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        return [np.rint(image * 255).astype(np.uint8) for image in images]
