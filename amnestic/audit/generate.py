"""Prompts x seeds -> images, batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.target import Target
from amnestic.parallel import shrinking_batches

Batch = tuple[Unit, ...]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One image with the latent it was decoded from.

    Attributes:
        unit: Prompt and seed.
        image: 8-bit RGB, ``(H, W, 3)``.
        latent: ``(C, h, w)`` on the CPU.
    """

    unit: Unit
    image: NDArray[np.uint8]
    latent: Tensor


def plan(prompts: Iterable[Prompt], seeds: Sequence[int], *, batch_size: int) -> list[Batch]:
    """All units in batches whose members never depend on what is already done.

    An interrupted run therefore repeats whole batches, and each image comes out of the same batch
    as in an uninterrupted run: bit for bit the same.

    Args:
        prompts: P prompts.
        seeds: S seeds.
        batch_size: Units in a batch, at least 1.

    Returns:
        Batches in order, P*S units in all.
    """
    units = [Unit(p.id, s) for p in prompts for s in seeds]
    return [tuple(units[i : i + batch_size]) for i in range(0, len(units), batch_size)]


def generate(
    target: Target,
    prompts: Mapping[str, Prompt],
    batches: Sequence[Batch],
    how: Sampling,
    shrunk: Callable[[int], None] = lambda _size: None,
) -> Iterator[list[Drawn]]:
    """Draw batches one after the other, in smaller pieces once memory ran out.

    Args:
        target: The model.
        prompts: Prompt by id.
        batches: From `plan`.
        how: Sampling settings.
        shrunk: Told how many images fit, each time it turns out that fewer do; later batches start from there.

    Yields:
        The images of one batch, in its order.

    Raises:
        InputError: If memory runs out for a single image.
        NotFinite: If the model produces NaN or infinity.
    """
    fits = max(map(len, batches), default=0)
    for batch in batches:
        start = min(fits, len(batch))
        size, drawn = shrinking_batches(
            lambda size, units=batch: (size, _draw(target, prompts, units, how, size)), start=start
        )
        if size < start:
            fits = size
            shrunk(size)
        yield drawn


def _draw(target: Target, prompts: Mapping[str, Prompt], units: Batch, how: Sampling, size: int) -> list[Drawn]:
    drawn = []
    for start in range(0, len(units), size):
        part = units[start : start + size]
        with torch.no_grad():
            latents = target.sample(part, [prompts[u.prompt_id].prompt for u in part], how)
        kept = latents.float().cpu()
        drawn += [Drawn(unit=u, image=decode_alone(target, z), latent=z) for u, z in zip(part, kept, strict=True)]
    return drawn


def decode_alone(target: Target, latent: Tensor) -> NDArray[np.uint8]:
    """The image of one latent, which depends on nothing else.

    Decoded among others it would differ in single bits, and an image decoded from its kept latent would not equal
    the one that was decoded when it was drawn.

    Args:
        target: The model.
        latent: ``(C, h, w)``.

    Returns:
        8-bit RGB, ``(H, W, 3)``.

    Raises:
        NotFinite: If the decoder produces NaN or infinity.
    """
    with torch.no_grad():
        return target.decode(latent[None].clone())[0]
