"""Recipes that a person wrote: a YAML file with the fields that differ from the default."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.testbed.recipe import Recipe
from amnestic.testbed.training import Schedule

Filled = TypeVar("Filled", Recipe, Schedule)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML (or JSON) file.

    Args:
        path: Holds any subset of the fields of `Recipe`; an empty file is the default recipe.

    Returns:
        The recipe; whatever the file leaves out has its default.

    Raises:
        InputError: If the file cannot be read, is no YAML, or holds what `recipe_from_mapping` refuses.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"expected a recipe as a YAML file, got {path} ({error.strerror}); check --recipe") from error
    except (yaml.YAMLError, ValueError) as error:
        told = " ".join(str(error).split())
        raise InputError(f"expected a recipe as a YAML file, got {path}, which is none ({told}); correct it") from error
    if content is None:
        return Recipe()
    if not isinstance(content, Mapping):
        raise InputError(
            f"expected fields of a recipe such as n_heldout: 32, got {_shown(content)} in {path}; write NAME: VALUE"
        )
    try:
        return recipe_from_mapping(content)
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from error


def recipe_from_mapping(content: Mapping[object, object]) -> Recipe:
    """A recipe from plain values.

    Args:
        content: Any subset of the fields of `Recipe`; a schedule may name any subset of its own.

    Returns:
        The default recipe with these fields replaced.

    Raises:
        InputError: If a field is unknown, its value is of another type, or the recipe cannot be built.

    Example:
        >>> recipe = recipe_from_mapping({"n_heldout": 32, "base": {"steps": 1000}})
        >>> recipe.n_heldout, recipe.base.steps, recipe.base.batch
        (32, 1000, 32)
    """
    return _filled(Recipe(), content, "")


def _filled(default: Filled, content: Mapping[object, object], prefix: str) -> Filled:
    """`default` with the fields that `content` names; types are those of the default's values."""
    known = [f.name for f in fields(default)]
    values: dict[str, Any] = {}
    for name, given in content.items():
        if name not in known:
            hint = did_you_mean(str(name), known) or f"; known are {', '.join(known)}"
            raise InputError(f"expected fields of {'a schedule' if prefix else 'a recipe'}, got {prefix}{name}{hint}")
        values[str(name)] = _value(f"{prefix}{name}", given, getattr(default, str(name)))
    return replace(default, **values)


def _value(name: str, given: object, default: object) -> object:
    if isinstance(default, Schedule):
        if not isinstance(given, Mapping):
            raise _wrong(name, "fields of a schedule", given, "{steps: 1000}")
        return _filled(default, given, f"{name}.")
    if isinstance(default, tuple):
        if not isinstance(given, list | tuple):
            raise _wrong(name, "a list of whole numbers", given, list(default))
        return tuple(_whole(name, value, default[0]) for value in given)
    return _number(name, given, default) if isinstance(default, float) else _whole(name, given, default)


def _whole(name: str, given: object, default: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise _wrong(name, "a whole number", given, default)
    return given


def _number(name: str, given: object, default: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise _wrong(name, "a number", given, default)
    try:
        return float(given)  # YAML takes 1e-3, without a point, for a text
    except (ValueError, OverflowError) as error:
        raise _wrong(name, "a number", given, default) from error


def _wrong(name: str, wanted: str, given: object, example: object) -> InputError:
    return InputError(f"expected {name} to be {wanted}, got {_shown(given)}; write for example {name}: {example}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
