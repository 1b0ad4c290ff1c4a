"""What is changed in a model, as data: old and new values of the weights that are touched, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from amnestic.core.errors import InputError
from amnestic.core.records import MethodSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Change:
    """Touched entries of one parameter.

    Attributes:
        at: Their places in the flattened parameter, ascending, int64, ``(n,)``.
        before: Their values before, in the parameter's own precision, ``(n,)``.
        after: Their values after, ``(n,)``.
    """

    at: "Tensor"
    before: "Tensor"
    after: "Tensor"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change of some weights of one model's U-Net.

    Attributes:
        model: Digest of the model that it was made for.
        changes: By path of the parameter, such as ``mid_block.attentions.0...attn2.to_v.weight``.
        made_by: The mitigation with its settings.
        parents: Digests of the records that it was computed from.
    """

    model: str
    changes: Mapping[str, Change] = field(repr=False)
    made_by: MethodSpec
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse changes whose parts do not belong together."""
        for path, change in self.changes.items():
            shapes = {tuple(t.shape) for t in (change.at, change.before, change.after)}
            if len(shapes) != 1 or change.at.ndim != 1:
                raise InputError(f"expected places and values of one length for {path}, got {sorted(shapes)}")
            if bool((change.at.diff() <= 0).any()):
                raise InputError(f"expected ascending places for {path}; the edit is damaged, make it again")

    def __len__(self) -> int:
        """How many weights are touched."""
        return sum(len(change.at) for change in self.changes.values())

    def inverse(self) -> "Edit":
        """The edit that takes this one back, bit for bit."""
        swapped = {p: Change(at=c.at, before=c.after, after=c.before) for p, c in self.changes.items()}
        return replace(self, changes=swapped)

    def tensors(self) -> "dict[str, Tensor]":
        """All values by name, as they are written to disk."""
        return {
            f"{kind}.{path}": getattr(change, kind)
            for path, change in self.changes.items()
            for kind in ("at", "before", "after")
        }


def changes_from(tensors: "Mapping[str, Tensor]") -> dict[str, Change]:
    """Changes from what `Edit.tensors` gave.

    Args:
        tensors: Values by name.

    Returns:
        The changes by path.

    Raises:
        InputError: If a part is missing, as in a file that was only half written.
    """
    paths = [name.removeprefix("at.") for name in tensors if name.startswith("at.")]
    wanted = {f"{kind}.{path}" for path in paths for kind in ("at", "before", "after")}
    if wanted != set(tensors):
        missing = sorted(wanted ^ set(tensors))[0]
        raise InputError(f"expected places, old and new values of every parameter; {missing} has no partner")
    return {p: Change(at=tensors[f"at.{p}"], before=tensors[f"before.{p}"], after=tensors[f"after.{p}"]) for p in paths}
