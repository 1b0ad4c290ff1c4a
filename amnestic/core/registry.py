"""Every method by its name: the file's name with dashes.

Modules of the rooms that hold methods are imported on first use; other packages add theirs through
the entry points ``amnestic.methods``.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from amnestic.core.errors import InputError
from amnestic.core.methods import Method, name_of
from amnestic.core.names import did_you_mean

ROOMS = (
    "amnestic.audit.localizers",
    "amnestic.mitigations.pruning",
    "amnestic.mitigations.finetune",
    "amnestic.attacks",
)
M = TypeVar("M", bound=type[Method])
_known: dict[str, type[Method]] = {}


def register(method: M) -> M:
    """Make a method known under the name of its file.

    Raises:
        TypeError: If it is no frozen dataclass of a family, or the name is taken; a mistake of its author.
    """
    name = name_of(method)
    if not (is_dataclass(method) and method.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise TypeError(f"{method.__name__} must be a frozen dataclass")
    if method.__name__.lower() != name.replace("-", ""):
        raise TypeError(f"{method.__name__} lies in {method.__module__}; file and class must have one name")
    if _known.setdefault(name, method) is not method and _known[name].__module__ != method.__module__:
        raise TypeError(f"{name} is taken by {_known[name].__module__}")
    return method


@cache
def _load_all() -> None:
    for room in ROOMS:
        for module in iter_modules(import_module(room).__path__):
            import_module(f"{room}.{module.name}")
    for entry in entry_points(group="amnestic.methods"):
        entry.load()


def methods(family: str) -> dict[str, type[Method]]:
    """All methods of a family, by name, in alphabetical order."""
    _load_all()
    return {name: m for name, m in sorted(_known.items()) if m.family == family}


def build(family: str, name: str, options: dict[str, Any] | None = None) -> Method:
    """A method with settings.

    Args:
        family: Such as ``localizer``.
        name: Such as ``wanda-subspace``.
        options: Settings by name; the others keep their defaults.

    Raises:
        InputError: If the name or a setting is not known, or a value is refused.
    """
    known = methods(family)
    if name not in known:
        raise InputError(f"expected a {family} of {', '.join(known)}; got {name}{did_you_mean(name, known)}")
    settings = [f.name for f in fields(known[name])]
    for option in options or {}:
        if option not in settings:
            raise InputError(
                f"{name} has no setting {option}; it has {', '.join(settings)}{did_you_mean(option, settings)}"
            )
    try:
        built: Method = TypeAdapter(known[name]).validate_python(options or {})
    except ValidationError as error:
        raise InputError(f"{name} refuses its settings: {_told(error)}") from error
    return built


def options_from(words: Sequence[str]) -> dict[str, Any]:
    """Settings of a method from words such as ``r=0.1``; values as YAML reads them.

    Raises:
        InputError: If a word is none.

    Example:
        >>> options_from(["r=0.1", "tau-share=null", "layers=down+mid"])
        {'r': 0.1, 'tau_share': None, 'layers': 'down+mid'}
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InputError(f"expected a setting such as r=0.1, got {word}")
        try:
            found[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"expected a plain value after {name}=, got {value}") from error
    return found


def _told(error: ValidationError) -> str:
    """What is wrong with each setting, without the links that pydantic adds."""
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'together'}: {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors(include_url=False)
    )
