"""A plan as a recipe that asks for the same."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from amnestic.core.methods import Method
from amnestic.core.names import bundled_folder
from amnestic.core.records import plain
from amnestic.core.registry import build
from amnestic.recipes.plan import GO_ON, Plan, Step, holds_ref
from amnestic.recipes.steps import FOLDER

METHODS = (("method", "options"), ("attack", "attack_options"))
OPTIONS = tuple(options for _, options in METHODS)
FAMILIES = {"locate": "localizer", "prune": "mitigation", "attack": "attack", "finetune": "finetuning"}


def written(plan: Plan) -> str:
    """A plan as a recipe in YAML that asks for the same wherever it is saved on this machine.

    Every setting is written out, those of methods too, so that later defaults change nothing; the bundled testbed
    stays ``${testbed}``.
    """
    return dumped(as_data(plan))


def as_data(plan: Plan) -> dict[str, Any]:
    """The same as plain data."""
    content = {"about": plan.about, "variables": {"out": plan.out}, "steps": [dict(_written(s)) for s in plan.steps]}
    found: dict[str, Any] = _portable({k: v for k, v in content.items() if v})
    return found


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice, as recipes have no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401 - plain data
        return True


def dumped(content: Mapping[str, Any]) -> str:
    """A recipe as YAML.

    Args:
        content: Plain data.
    """
    text: str = yaml.dump(dict(content), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
    return text


def _written(step: Step) -> Iterator[tuple[str, Any]]:
    """A step with all its settings; those that are empty by default are left out."""
    yield "name", step.name
    yield "does", step.kind.name
    if step.go_on:
        yield "if_nothing_found", GO_ON
    request = step.request(lambda name: name)
    for one in fields(step.kind.type):
        if one.name in step.kind.left_out or one.name == "out":
            continue
        value, default = getattr(request, one.name), _default(one)
        if one.name in step.settings and holds_ref(step.settings[one.name]):
            given = step.settings[one.name]
            yield one.name, [r.step for r in given] if isinstance(given, tuple) else given.step
        elif one.name in OPTIONS or value != default or value not in (None, "", (), {}):
            yield one.name, _whole(step, one.name, value, request)
    if step.out is not None:
        yield "out", step.out


def _whole(step: Step, name: str, value: Any, request: Any) -> Any:  # noqa: ANN401 - plain data
    """Options of a method with all its settings."""
    for method, options in METHODS:
        if name == options and hasattr(request, method):
            family = "attack" if method == "attack" else FAMILIES[step.kind.name]
            return settings_of(build(family, getattr(request, method), dict(value)))
    return value


def settings_of(method: Method) -> dict[str, Any]:
    """All settings of a method as plain data; those that are `None` by default are left out."""
    usual = {f.name: f.default for f in fields(method)}
    return {k: v for k, v in method.spec().parameters.items() if v is not None or usual[k] is not None}


def _default(one: Any) -> Any:  # noqa: ANN401 - a field of a dataclass
    return one.default_factory() if one.default_factory is not MISSING else one.default


def _portable(value: Any) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, Mapping):
        return {str(k): _portable(v) for k, v in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return _portable({f.name: v for f in fields(value) if (v := getattr(value, f.name)) is not None})
    if isinstance(value, list | tuple):
        return [_portable(v) for v in value]
    if isinstance(value, str):
        home = str(bundled_folder())
        before, found, after = str(value).partition(home)
        inside = found and before in ("", FOLDER) and after[:1] in ("", "/")
        rest = (after if inside else str(value)).replace("${", "$${")
        return f"{before}${{testbed}}{rest}" if inside else rest
    return plain(value)
