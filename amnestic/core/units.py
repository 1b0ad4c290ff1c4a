"""Where something was found: sites of a model, and masks over their units."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amnestic.core.errors import InputError

KINDS = ("ffn", "ffn-weight", "value", "key")


@dataclass(frozen=True, kw_only=True)
class Site:
    """One layer of a U-Net.

    Attributes:
        name: Path of the module, such as ``mid_block.attentions.0.transformer_blocks.0.attn2.to_v``.
        kind: One of `KINDS`.
        stage: ``down``, ``mid`` or ``up``.
        shape: Shape of a mask over its units: ``(U,)`` for neurons, that of the matrix for weights.
    """

    name: str
    kind: str
    stage: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of units."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Units:
    """A choice of units of one model: what a localizer found.

    Attributes:
        sites: The sites that were searched, in order of computation.
        masks: A boolean mask for every site, by its name; True where something was found.
        model: Digest of the model they were found in.
    """

    sites: tuple[Site, ...]
    masks: Mapping[str, Tensor] = field(repr=False)
    model: str

    def __post_init__(self) -> None:
        """Refuse masks that do not fit their sites."""
        for site in self.sites:
            mask = self.masks.get(site.name)
            if mask is None or tuple(mask.shape) != site.shape or str(mask.dtype) != "torch.bool":
                came = "none" if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
                raise InputError(f"expected a boolean mask of shape {site.shape} for {site.name}, got {came}")
        strange = set(self.masks) - {site.name for site in self.sites}
        if strange:
            raise InputError(
                f"got masks for {', '.join(sorted(strange))}, which are not among the sites; leave them out"
            )

    def __len__(self) -> int:
        """How many units were found."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def share(self) -> float:
        """Found units as a share of all units of the sites, in [0, 1]."""
        return len(self) / sum(site.size for site in self.sites)

    def packed(self) -> dict[str, Tensor]:
        """The masks, eight units in a byte, by site name; what `units_from` takes."""
        return {
            site.name: torch.from_numpy(np.packbits(self.masks[site.name].cpu().numpy().reshape(-1)))
            for site in self.sites
        }

    def counts(self) -> dict[str, int]:
        """How many units of every site were found, by its name."""
        return {site.name: int(self.masks[site.name].sum()) for site in self.sites}


def units_from(sites: Sequence[Mapping[str, Any]], packed: Mapping[str, Tensor], *, model: str) -> Units:
    """Units from what was written of them.

    Args:
        sites: Fields of every `Site`, as plain data.
        packed: What `Units.packed` gave.
        model: Digest of the model.

    Raises:
        InputError: If a mask is missing or of another length.
    """
    known = tuple(Site(**{**site, "shape": tuple(site["shape"])}) for site in sites)
    masks = {}
    for site in known:
        bits = packed.get(site.name)
        if bits is None or len(bits) != -(-site.size // 8):
            raise InputError(f"the record holds no whole mask of {site.name}; delete the record and locate again")
        flat = np.unpackbits(bits.numpy(), count=site.size).astype(bool)
        masks[site.name] = torch.from_numpy(flat).reshape(site.shape)
    return Units(sites=known, masks=masks, model=model)
