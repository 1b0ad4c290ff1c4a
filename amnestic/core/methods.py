"""What a method is: a frozen dataclass of its own settings, with one method to write and one call for everyone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from amnestic.core.edits import Change, Edit
from amnestic.core.errors import InputError, NotFinite
from amnestic.core.records import MethodSpec, Prompt, Sampling, plain
from amnestic.core.units import Site, Units

if TYPE_CHECKING:
    from torch import Tensor

    from amnestic.core.target import Target


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Settings and code of one technique; its `family` is the kind of question it answers."""

    family: ClassVar[str]

    def spec(self) -> MethodSpec:
        """Name and settings, enough to build it again."""
        return MethodSpec(
            name=name_of(type(self)), parameters={f.name: plain(getattr(self, f.name)) for f in fields(self)}
        )


def name_of(method: type[Method]) -> str:
    """The name of a method: its file's name with dashes."""
    return method.__module__.rsplit(".", 1)[-1].replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a localizer is given.

    Attributes:
        memorized: Prompts whose images are memorized.
        controls: Prompts whose images are not.
        sampling: How the model draws.
        seeds: Starting noises per prompt.
        originals: Latents ``(C, H, W)`` of originals by prompt id, as the model's autoencoder encodes them,
            scaled by its scaling factor; methods that ask for none ignore them.
    """

    memorized: tuple[Prompt, ...]
    controls: tuple[Prompt, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    seeds: tuple[int, ...] = (0,)
    originals: Mapping[str, "Tensor"] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Located:
    """What a localizer found, and how sure it may be.

    Attributes:
        units: The chosen units; none chosen is an outcome, not an error.
        made_by: The method with its settings.
        passes: U-Net rows that were computed for it.
        notes: Plain numbers that explain the choice, such as scores and thresholds.
        tensors: Larger ones, by name.
    """

    units: Units
    made_by: MethodSpec
    passes: int
    notes: Mapping[str, object] = field(default_factory=dict)
    tensors: Mapping[str, "Tensor"] = field(default_factory=dict, repr=False)

    @property
    def outcome(self) -> str:
        """``found`` or ``found nothing``."""
        return "found" if len(self.units) else "found nothing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the author of a localizer returns: masks by site name, and what explains them."""

    masks: Mapping[str, "Tensor"]
    passes: int
    notes: Mapping[str, object] = field(default_factory=dict)
    tensors: Mapping[str, "Tensor"] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Localizer(Method):
    """Says which units of a model hold memorized images; `kind` is that of the sites it searches."""

    family: ClassVar[str] = "localizer"
    kind: ClassVar[str]
    needs_originals: ClassVar[bool] = False

    def searched(self, target: "Target") -> "tuple[Site, ...]":
        """The sites over which masks are returned."""
        return target.sites(self.kind)

    @abstractmethod
    def locate(self, target: "Target", case: Case) -> Finding:
        """The search itself."""

    @final
    def __call__(self, target: "Target", case: Case) -> Located:
        """Search, and check what came out.

        Args:
            target: The model; unchanged afterwards.
            case: Prompts and how to draw.

        Returns:
            The choice of units.

        Raises:
            InputError: If no memorized prompt is given.
            NotFinite: If activations hold NaN or infinity.
        """
        if not case.memorized:
            raise InputError(
                "expected at least one memorized prompt to locate; audit first and pass those that replicate"
            )
        found = self.locate(target, case)
        for name, tensor in found.tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NotFinite(f"{name} holds NaN or infinity on {target.ident.name}; use --dtype float32")
        units = Units(sites=self.searched(target), masks=found.masks, model=target.ident.digest)
        return Located(
            units=units, made_by=self.spec(), passes=found.passes, notes=found.notes, tensors=found.tensors
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mitigation(Method):
    """Says which weights of a model change so that memorized images no longer come out; changes none itself."""

    family: ClassVar[str] = "mitigation"

    @abstractmethod
    def make(self, target: "Target", units: Units) -> Mapping[str, Change]:
        """New values of the weights through which the units speak, by path of the parameter."""

    @final
    def __call__(self, target: "Target", units: Units, *, parents: tuple[str, ...] = ()) -> Edit:
        """Make the edit, and check it.

        Args:
            target: The model; unchanged afterwards.
            units: What a localizer found in this very model.
            parents: Records that the units come from.

        Returns:
            The edit; without any change when no unit was found, which is an outcome.

        Raises:
            InputError: If the units were found in another model, or the method changes other weights than theirs.
            NotFinite: If a new value is NaN or infinite.
        """
        if units.model != target.ident.digest:
            raise InputError(
                f"the units were found in model {units.model[:12]}, this is {target.ident.name} "
                f"({target.ident.digest[:12]}); locate again on this model"
            )
        changes, allowed = self.make(target, units), target.touched(units)
        for path, change in changes.items():
            if not _is_subset(change.at, allowed.get(path)):
                raise InputError(f"{self.spec().name} changes weights of {path} that do not belong to the units")
            if not bool(change.after.isfinite().all()):
                raise NotFinite(f"{self.spec().name} gives NaN or infinity for {path}; use --dtype float32")
        edit = Edit(model=target.ident.digest, changes=changes, made_by=self.spec(), parents=parents)
        target.require_fit(edit)
        return edit


def _is_subset(places: "Tensor", allowed: "Tensor | None") -> bool:
    return allowed is not None and bool(np.isin(places.numpy(), allowed.numpy(), assume_unique=True).all())
