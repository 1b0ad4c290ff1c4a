"""Loads the model that a run was made with, and makes sure that it is the same."""

from pathlib import Path

from amnestic.core.errors import InputError
from amnestic.core.names import name_for_others
from amnestic.core.store import Run
from amnestic.model.single_file import is_single_file
from amnestic.model.target import PipelineTarget
from amnestic.parallel import team


def model_of(run: Run, *, model: str | None = None, device: str = "auto", allow_pickle: bool = False) -> PipelineTarget:
    """The model of a run, weight for weight.

    Args:
        run: An audit.
        model: Where it lies now, if not where the run found it; adapters of the run are put into it again.
        device: Where to compute.
        allow_pickle: Load weights that must be unpickled, which can run code.

    Raises:
        InputError: If another model lies there, or an adapter changed.
    """
    known = run.manifest()["settings"]["model"]
    place = model or known["name"]
    if model is None and not Path(place).exists() and (place.startswith((".", "/", "~"))):
        raise InputError(f"{name_for_others(place)}, which {run.folder} audited, is gone; give its folder with --model")
    moved = model is not None
    adapters = known.get("adapters", ())
    target = PipelineTarget.load(
        place, revision=None if moved else known["revision"] or None,
        variant=None if moved else known["variant"] or None, dtype=known["dtype"],
        device=team(device).device, allow_pickle=allow_pickle,
        config=(known.get("config") if is_single_file(place) else None) or None,
        lora=tuple(f"{one['name']}:{one['scale']!r}" for one in adapters),
    )  # fmt: skip
    for one, now in zip(adapters, target.ident.adapters, strict=True):
        if one["sha256"] != now.sha256:
            raise InputError(
                f"the adapter {name_for_others(now.name)} changed since {run.folder} was made; bring the file back"
            )
    if target.ident.digest != known["digest"]:
        raise InputError(
            f"{run.folder} audited a model with digest {known['digest'][:12]}, {name_for_others(place)} has "
            f"{target.ident.digest[:12]}; give the folder of the audited one with --model"
        )
    return target


def second_model(place: str, like: PipelineTarget, *, allow_pickle: bool = False) -> PipelineTarget:
    """A model that stands beside another one: in its precision, on its device.

    Args:
        place: Hub id, diffusers folder, single file; or the run of its audit, with whose adapters it is then loaded.
        like: The other model.
        allow_pickle: Load weights that must be unpickled, which can run code.

    Raises:
        InputError: If it cannot be loaded, or is not what the run audited.
    """
    if (Path(place) / "manifest.json").is_file():
        return model_of(Run.open(Path(place)), device=str(like.device), allow_pickle=allow_pickle)
    return PipelineTarget.load(place, dtype=like.ident.dtype, device=like.device, allow_pickle=allow_pickle)
