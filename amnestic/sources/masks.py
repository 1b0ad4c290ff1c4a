"""Masks of templates: pictures whose bright pixels mark the region that varies."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amnestic.sources.images import ImageProblem, open_image
from amnestic.sources.prompts import stays_inside


def open_mask(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read a mask that a prompt list names, under the rules for originals.

    Args:
        folder: The reference folder.
        name: Path relative to it.

    Returns:
        Array (H, W, 3) of unsigned bytes in [0, 255].

    Raises:
        ImageProblem: If the path or a link leads out of the folder, or the picture cannot be read.
    """
    path = folder / name
    if not stays_inside(name):
        raise ImageProblem("must stay inside the reference folder; give a relative path without '..'", path)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ImageProblem("a link that leads out of the reference folder; put the picture itself there", path)
    return open_image(path)
