"""Everything a testbed is trained on and measured with, drawn from one seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amnestic.core.errors import InputError
from amnestic.core.seeds import seed_for
from amnestic.testbed.pictures import Picture, load_pictures
from amnestic.testbed.recipe import Recipe
from amnestic.testbed.scenes import Captioned, base_corpus
from amnestic.testbed.works import Collection, collect


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The pictures, scenes and works of one testbed seed."""

    seed: int
    recipe: Recipe
    pictures: tuple[Picture, ...]
    scenes: tuple[Captioned, ...]
    collection: Collection

    @cached_property
    def seen_by_all(self) -> tuple[Captioned, ...]:
        """Scenes and look-alikes: what encoders and descriptors may see. No work is among them."""
        return self.scenes + self.collection.lookalikes


def make_corpus(seed: int, recipe: Recipe, cache: Path) -> Corpus:
    """Draw the whole corpus of a testbed.

    Args:
        seed: Seed of the testbed; another seed gives other pictures, scenes, works and captions.
        recipe: How many of each.
        cache: Folder of the npm tarballs.

    Returns:
        The corpus, the same on every machine.

    Raises:
        InputError: If the recipe asks for more pictures than the packages hold.
    """
    pool = load_pictures(cache)
    if recipe.n_pictures > len(pool):
        raise InputError(
            f"expected a recipe with at most {len(pool)} pictures, which the packages in {cache} hold, "
            f"got {recipe.n_pictures}; lower n_pictures"
        )
    rng = np.random.default_rng(seed_for(seed, "testbed", "corpus"))
    chosen = tuple(pool[i] for i in sorted(rng.choice(len(pool), recipe.n_pictures, replace=False)))
    scenes = base_corpus(chosen, recipe.n_scenes, np.random.default_rng(seed_for(seed, "testbed", "scenes")))
    collection = collect(
        chosen,
        np.random.default_rng(seed_for(seed, "testbed", "works")),
        ladder=recipe.ladder,
        n_templates=recipe.n_templates,
        n_heldout=recipe.n_heldout,
        n_lookalikes=recipe.n_lookalikes,
    )
    return Corpus(seed=seed, recipe=recipe, pictures=chosen, scenes=tuple(scenes), collection=collection)


def image_tensor(items: Sequence[Captioned]) -> Tensor:
    """The images as one 8-bit tensor ``(N, 3, 64, 64)``."""
    return torch.from_numpy(np.stack([i.image for i in items])).permute(0, 3, 1, 2).contiguous()
