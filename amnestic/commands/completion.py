"""What a shell is offered when somebody presses the tab key; nothing heavy is imported, nothing raised."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import typer

ROOMS: Mapping[str, str] = {
    "localizer": "amnestic.audit.localizers",
    "mitigation": "amnestic.mitigations.pruning",
    "finetuning": "amnestic.mitigations.finetune",
    "attack": "amnestic.attacks",
}
"""Those of `amnestic.core.registry`, which imports torch: too slow for a key press."""
Completer = Callable[[typer.Context, str], list[str]]


def methods_of(family: str) -> Completer:
    """Offers the methods of a family.

    The names are those of the files that register a method, so that no method needs to be imported; methods of other
    packages come from the names of their entry points.

    Args:
        family: Such as ``localizer``.
    """

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        return [name for name in method_names(family) if name.startswith(incomplete)]

    return offer


def method_names(family: str) -> list[str]:
    """Names of the methods of a family, in alphabetical order, without importing them."""
    found = find_spec(ROOMS[family])
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    files = [file for folder in folders for file in folder.glob("*.py") if "\n@register\n" in file.read_text("utf-8")]
    others = [entry.name for entry in entry_points(group="amnestic.methods")]
    return sorted({file.stem.replace("_", "-") for file in files} | set(others))


def records_of(stage: str) -> Completer:
    """Offers the finished records of a stage in the run that was typed before.

    Args:
        stage: Such as ``locate``.
    """

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        # The option that is being typed has no value yet, so the words before it may not have been given their names.
        typed = [str(word) for word in (ctx.params.get("run"), *ctx.args) if word]
        files = sorted(file for run in typed for file in Path(run).glob(f"records/{stage}-*/record.json"))
        return [file.parent.name for file in files if file.parent.name.startswith(incomplete)]

    return offer


def one_of(*names: str) -> Completer:
    """Offers fixed words."""

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return offer


descriptors = one_of("auto", "sscd", "sscd-onnx", "sscd-mini")
devices = one_of("auto", "cpu", "cuda", "mps")
