"""Opens the images of a run, whatever was kept of them."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from amnestic.audit.generate import decode_alone
from amnestic.core.errors import StoreError
from amnestic.core.records import Unit
from amnestic.core.store import Run
from amnestic.core.target import Target
from amnestic.sources.images import open_image

Images = Callable[[Unit], NDArray[np.uint8]]
"""The image of a unit, 8-bit RGB, ``(H, W, 3)``."""


def images_of(run: Run, target: Target) -> Images:
    """How the images of a run are opened: read where they were kept, else decoded from their latents.

    Args:
        run: The run, with something kept of every unit that is asked for.
        target: The model that drew them.

    Returns:
        A function from a unit to its image; on the CPU the same bit for bit, whatever was kept.
    """
    return partial(_open, run, target)


def _open(run: Run, target: Target, unit: Unit) -> NDArray[np.uint8]:
    file = run.kept_file(unit)
    if file != run.latent_file(unit):
        return open_image(file)
    try:
        latent = load_file(file)["latent"]
    except (SafetensorError, KeyError, OSError) as error:
        raise StoreError(f"{file} holds no latent ({error}); delete it and issue the command again") from error
    return decode_alone(target, latent)
