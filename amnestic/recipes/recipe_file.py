"""Reads recipes: YAML or TOML files that list what is to be done, as plain data that is never code."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amnestic.core.errors import InputError
from amnestic.core.names import bundled_folder, did_you_mean
from amnestic.recipes.text import At, from_toml, from_yaml, shown

MOST_BYTES = 1_000_000
MUST = "???"
"""The value of a variable that has to be given with ``--set``."""
TESTBED = "testbed"
VARIABLE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
NAME = re.compile(r"[a-z][a-z0-9_]*")


class Text(str):
    """A text of a recipe that knows from which folder it counts, should it be a path."""

    __slots__ = ("base",)
    base: Path

    @classmethod
    def of(cls, text: str, base: Path) -> "Text":
        """A text and its folder."""
        made = cls(text)
        made.base = base
        return made


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where something stands in a recipe.

    Attributes:
        file: The recipe.
        lines: Line numbers of its keys and entries, as far as they are known.
    """

    file: str
    lines: Mapping[At, int] = field(default_factory=dict, repr=False)

    def at(self, *where: str | int) -> str:
        """Words for a place.

        Example:
            >>> Places(file="r.yaml", lines={("steps", 0): 7}).at("steps", 0, "method")
            'r.yaml, line 7, step 1, method'
        """
        known = where
        while known and known not in self.lines:
            known = known[:-1]
        line = [f"line {self.lines[known]}"] if known in self.lines else []
        words = [f"step {where[1] + 1}", *where[2:]] if where[:1] == ("steps",) and len(where) > 1 and isinstance(
            where[1], int) else list(where)  # fmt: skip
        return ", ".join([self.file, *line, *map(str, words)])


class Recipe(BaseModel):
    """A recipe as it is written.

    Attributes:
        about: What it is for, a sentence.
        variables: Values that steps refer to as ``${name}``; ``???`` has to be given on the command line.
        defaults: Settings of every step that has them and names no others.
        steps: What is done, in order; each has a ``name``, says what it ``does``, and settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str = ""
    variables: dict[str, Any] = Field(default_factory=dict)
    defaults: dict[str, Any] = Field(default_factory=dict)
    steps: list[dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A recipe before its variables are filled in.

    Attributes:
        recipe: What is written.
        places: Where.
        base: Folder from which its paths count.
        stem: Its name.
    """

    recipe: Recipe
    places: Places
    base: Path
    stem: str


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(__file__).resolve().parent / "shipped"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def open_recipe(name: str) -> Draft:
    """A recipe file, or a shipped recipe by its name; paths of the latter count from the working directory.

    Raises:
        InputError: If there is neither, or it cannot be used.
    """
    path, known = Path(name).expanduser(), shipped()
    if path.is_file() or name not in known:
        if not path.is_file():
            raise InputError(
                f"expected a recipe file or one of {', '.join(known)}, got {name}, which is neither"
                f"{did_you_mean(name, known)}"
            )
        return read_recipe(path)
    return read_recipe(known[name], base=Path.cwd(), called=name)


def read_recipe(path: Path, *, base: Path | None = None, called: str | None = None) -> Draft:
    """The recipe in a file.

    Args:
        path: YAML, or TOML by its extension.
        base: Folder from which its paths count; default the file's own.
        called: What the file is called in messages; default its path.

    Raises:
        InputError: If it cannot be read or holds something else than a recipe; the sentence names the line.
    """
    name = called or str(path)
    try:
        content = path.read_bytes()
        if len(content) > MOST_BYTES:
            raise InputError(f"expected a recipe, {name} holds {len(content):,} bytes; give another file")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"expected a recipe file, {name} cannot be read ({error.strerror}); check it") from error
    except UnicodeDecodeError as error:
        raise InputError(f"expected a recipe in UTF-8, {name} is not (byte {error.start}); save it as UTF-8") from error
    value, lines = (from_toml if path.suffix.lower() == ".toml" else from_yaml)(text, name)
    places = Places(file=name, lines=lines)
    return Draft(recipe=_recipe(value, places), places=places, base=base or path.resolve().parent, stem=path.stem)


def recipe_from(value: Mapping[str, Any], *, name: str, base: Path) -> Draft:
    """A recipe from plain data, as from another one that was resolved."""
    places = Places(file=name)
    return Draft(recipe=_recipe(dict(value), places), places=places, base=base, stem=name)


def require_known(given: Iterable[Any], known: Sequence[str], where: Callable[[str], str], what: str) -> None:
    """Refuse unknown keys.

    Raises:
        InputError: For the first of them; the sentence names its place and what may have been meant.
    """
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; known are {', '.join(known)}"
            raise InputError(f"{where(str(key))}: {what} has no {shown(key)}{hint}")


def refusal(error: ValidationError, where: Callable[..., str], skip: int = 0) -> InputError:
    """The first thing that pydantic does not like, as a sentence."""
    one, more = error.errors(include_url=False)[0], error.error_count() - 1
    loc = one["loc"][skip:]
    came = "" if one["type"] == "missing" else f", got {shown(one['input'])}"
    others = f" (and {more} more)" if more else ""
    return InputError(f"{where(*loc)}: {one['msg'].removeprefix('Value error, ')}{came}{others}; correct the recipe")


def filled(draft: Draft, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Variables, defaults and steps with every ``${name}`` replaced.

    Args:
        draft: The recipe.
        given: Variables by name that replace its own; paths among them count from the working directory.

    Raises:
        InputError: If a variable is unknown, lacks a value, or needs itself.
    """
    recipe, places = draft.recipe, draft.places
    for name in recipe.variables:
        if not NAME.fullmatch(name) or name == TESTBED:
            raise InputError(
                f"{places.at('variables', name)}: expected a variable of small letters, digits and underscores other "
                f"than {TESTBED}, got {shown(name)}; rename it"
            )
    require_known(given, list(recipe.variables), lambda key: f"--set {key}", f"recipe {draft.stem}")
    raw = {name: based(value, draft.base) for name, value in recipe.variables.items()}
    raw |= {name: based(value, Path.cwd()) for name, value in given.items()}
    scope = _Scope(raw, places)
    values = {name: scope.value(name) for name in raw}
    lacking = [name for name, value in values.items() if value == MUST]
    if lacking:
        told = " ".join(f"--set {name}=..." for name in lacking)
        raise InputError(f"{places.file} needs a value for {', '.join(lacking)}; give it with {told}")
    defaults = scope.fill(based(recipe.defaults, draft.base), ("defaults",))
    steps = scope.fill(based(recipe.steps, draft.base), ("steps",))
    return values, defaults, steps


class _Scope:
    """Variables, each filled in once, when it is first needed."""

    def __init__(self, raw: Mapping[str, Any], places: Places) -> None:
        self.raw, self.places = raw, places
        self.done: dict[str, Any] = {TESTBED: Text.of(str(bundled_folder()), Path.cwd())}
        self.open: list[str] = []

    def value(self, name: str) -> Any:  # noqa: ANN401 - variables are of any plain type
        if name not in self.done:
            if name in self.open:
                loop = " needs ".join([*self.open[self.open.index(name) :], name])
                raise InputError(f"{self.places.at('variables', name)}: {loop}; give one of them a value of its own")
            self.open.append(name)
            self.done[name] = self.fill(self.raw[name], ("variables", name))
            self.open.pop()
        return self.done[name]

    def fill(self, value: Any, at: At) -> Any:  # noqa: ANN401 - plain data
        if isinstance(value, Mapping):
            return {key: self.fill(one, (*at, key)) for key, one in value.items()}
        if isinstance(value, list):
            return [self.fill(one, (*at, i)) for i, one in enumerate(value)]
        return self._text(value, at) if isinstance(value, Text) else value

    def _text(self, text: Text, at: At) -> Any:  # noqa: ANN401 - a text that is one variable has that one's type
        whole = VARIABLE.fullmatch(text)
        if whole and whole[1] is not None:
            return self._named(whole[1], at)
        base = text.base

        def put(match: re.Match[str]) -> str:
            nonlocal base
            if match[1] is None:
                return "${"
            found = self._named(match[1], at)
            if isinstance(found, Mapping | list) or found is None:
                raise InputError(
                    f"{self.places.at(*at)}: {match[1]} is no text or number, so it cannot be part of {shown(text)}; "
                    f"write ${{{match[1]}}} alone"
                )
            if match.start() == 0 and isinstance(found, Text):
                base = found.base
            return str(found)

        return Text.of(VARIABLE.sub(put, text), base)

    def _named(self, name: str, at: At) -> Any:  # noqa: ANN401 - variables are of any plain type
        known = [*self.raw, TESTBED]
        if name not in known:
            hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
            raise InputError(f"{self.places.at(*at)}: no variable is called {shown(name)}{hint}")
        return self.value(name)


def based(value: Any, base: Path) -> Any:  # noqa: ANN401 - plain data
    """Plain data whose texts know from which folder they count; those that know it already stay as they are."""
    if isinstance(value, Mapping):
        return {key: based(one, base) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [based(one, base) for one in value]
    return Text.of(value, base) if isinstance(value, str) and not isinstance(value, Text) else value


def _recipe(value: object, places: Places) -> Recipe:
    if not isinstance(value, dict):
        raise InputError(f"{places.file}: expected a recipe with steps, got {shown(value)}; write steps: and a list")
    require_known(value, list(Recipe.model_fields), lambda key: places.at(key), "a recipe")
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise refusal(error, places.at) from error
