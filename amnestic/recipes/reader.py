"""Reads what a recipe asks for, and refuses what cannot be meant before anything runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.recipes import deletions
from amnestic.recipes.plan import GO_ON, STOP, Plan, Ref, Step, holds_ref
from amnestic.recipes.recipe_file import Draft, Places, Text, based, filled, refusal, require_known
from amnestic.recipes.steps import FOLDER, Kind, kind_of, model_of_settings, values_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
OWN = ("name", "does", "if_nothing_found")


def plan_of(draft: Draft, given: Mapping[str, Any] | None = None) -> Plan:
    """A recipe with everything filled in and checked; nothing is computed or written.

    Args:
        draft: The recipe.
        given: Variables that replace its own.

    Raises:
        InputError: If a step, setting, method or path cannot be used, or steps are in the wrong order; the sentence
            names the place in the recipe.
    """
    values, defaults, raw = filled(draft, given or {})
    out = values.get("out")
    if not isinstance(out, Text):
        raise InputError(
            f"{draft.places.at('variables')}: expected a variable out with the folder of all results, got none; add "
            "out: runs/NAME"
        )
    folder = _path(out)
    places = [(i, based(one, draft.base)) for i, step in enumerate(raw) for one in _written_out(step, draft.places, i)]
    _require_names(places, draft.places)
    _require_defaults(defaults, [kind_of(s.get("does"), draft.places.at("steps", i)) for i, s in places], draft.places)
    names, steps = [step["name"] for _, step in places], list[Step]()
    for i, step in places:
        reader = _Reader(draft.places, i, step["name"], {s.name: s for s in steps}, names)
        steps.append(reader.step(step, defaults, folder))
    _require_apart(steps)
    plan = Plan(name=draft.stem, about=draft.recipe.about, out=folder, steps=tuple(steps))
    for one in steps:
        _require_sense(plan, one)
    return plan


def _written_out(step: Mapping[str, Any], places: Places, number: int) -> list[dict[str, Any]]:
    if step.get("does") == deletions.NAME:
        return deletions.written_out(step, places, number)
    return [dict(step)]


def _require_names(steps: Sequence[tuple[int, Mapping[str, Any]]], places: Places) -> None:
    seen: set[str] = set()
    for i, step in steps:
        name = step.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(
                f"{places.at('steps', i)}: expected a name of letters, digits, dashes and underscores, got {name!r}; "
                "write name: audit, or another"
            )
        if name in seen:
            raise InputError(f"{places.at('steps', i, 'name')}: {name} is the name of an earlier step; rename one")
        seen.add(name)


def _require_defaults(defaults: Mapping[str, Any], kinds: Sequence[Kind], places: Places) -> None:
    known = dict.fromkeys(name for kind in kinds for name in kind.settings())
    require_known(defaults, list(known), lambda key: places.at("defaults", key), "every step of this recipe")


def _require_apart(steps: Sequence[Step]) -> None:
    places: dict[Path, str] = {}
    for step in steps:
        if step.out is not None and places.setdefault(step.out, step.name) != step.name:
            raise InputError(f"{step.where}: {step.out} is the place of step {places[step.out]} too; give another out")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A value as it was understood, and what pydantic is shown in its place."""

    value: Any
    shown: Any


class _Reader:
    """Reads one step."""

    def __init__(
        self, places: Places, number: int, name: str, earlier: Mapping[str, Step], names: Sequence[str]
    ) -> None:
        self.places, self.number, self.name, self.earlier, self.names = places, number, name, earlier, names

    def where(self, *at: str | int) -> str:
        place, _, setting = self.places.at("steps", self.number, *at).partition(f"step {self.number + 1}")
        return f"{place}step {self.number + 1} ({self.name}){setting}"

    def step(self, raw: Mapping[str, Any], defaults: Mapping[str, Any], folder: Path) -> Step:
        kind = kind_of(raw.get("does"), self.where("does"))
        known = kind.settings()
        require_known(raw, [*OWN, *known], self.where, kind.name)
        go_on = self._go_on(raw, kind)
        given = {k: v for k, v in defaults.items() if k in known} | {k: v for k, v in raw.items() if k not in OWN}
        found = {name: self._understood(kind, name, value) for name, value in given.items()}
        found |= self._inferred(kind, found)
        out = found.pop("out").value if "out" in found else None
        if "out" in known:
            out = Path(out) if out else folder / f"{self.name}{kind.suffix}"
        settings = self._validated(kind, {k: f.shown for k, f in found.items()}, out)
        refs = {k: f.value for k, f in found.items() if holds_ref(f.value)}
        settings = {name: refs.get(name, value) for name, value in settings.items() if name != "out"}
        return Step(name=self.name, kind=kind, settings=settings, out=out, go_on=go_on, where=self.where())

    def _go_on(self, raw: Mapping[str, Any], kind: Kind) -> bool:
        asked = raw.get("if_nothing_found", STOP)
        if asked not in (STOP, GO_ON) or ("if_nothing_found" in raw and kind.name != "prune"):
            raise InputError(
                f"{self.where('if_nothing_found')}: expected {STOP} or {GO_ON} in a step that prunes, got {asked!r} in "
                f"one that does {kind.name}; correct it"
            )
        return bool(asked == GO_ON)

    def _understood(self, kind: Kind, name: str, value: Any) -> _Found:  # noqa: ANN401 - plain data
        if isinstance(value, list):
            parts = [self._one(kind, name, one) for one in value]
            return _Found(value=tuple(p.value for p in parts), shown=[p.shown for p in parts])
        return self._one(kind, name, value)

    def _one(self, kind: Kind, name: str, value: Any) -> _Found:  # noqa: ANN401 - plain data
        if not isinstance(value, Text):
            return _Found(value=_plain(value), shown=_plain(value))
        word, wanted = str(value), kind.takes.get(name)
        if wanted is not None and word in self.names:
            self._require_earlier(name, word, wanted)
            return _Found(value=Ref(step=word), shown=word)
        if name in kind.models:
            word = self._model(name, value)
        elif name in kind.paths():
            word = str(_path(value))
            self._require_there(name, value, Path(word), wanted)
        elif word.startswith(FOLDER):
            word = FOLDER + str(_path(Text.of(word.removeprefix(FOLDER), value.base)))
        return _Found(value=word, shown=word)

    def _require_earlier(self, name: str, word: str, wanted: str) -> None:
        if word not in self.earlier:
            what = "itself" if word == self.name else "a later step; move that one before it"
            raise InputError(f"{self.where(name)}: {word} is {what}; name an earlier step")
        gives = self.earlier[word].kind.gives
        if gives != wanted:
            fitting = [s.name for s in self.earlier.values() if s.kind.gives == wanted]
            told = ", ".join(fitting) or "none so far"
            raise InputError(
                f"{self.where(name)}: expected a step that gives {wanted} ({told}), {word} does "
                f"{self.earlier[word].kind.name}; name another"
            )

    def _require_there(self, name: str, value: Text, path: Path, wanted: str | None) -> None:
        """What is read must exist now, not after hours; what is written need not."""
        if name in ("out", "work") or path.exists():
            return
        if wanted is None:
            raise InputError(f"{self.where(name)}: {value} does not exist (looked for {path}); correct the path")
        fitting = ", ".join(s.name for s in self.earlier.values() if s.kind.gives == wanted) or "none"
        raise InputError(
            f"{self.where(name)}: {value} is neither an earlier step that gives {wanted} ({fitting}) nor a path that "
            f"exists{did_you_mean(value, self.names) or '; correct it'}"
        )

    def _model(self, name: str, value: Text) -> str:
        path = _path(value)
        if path.exists():
            return str(path)
        if value.startswith((".", "/", "~")):
            raise InputError(f"{self.where(name)}: {value} does not exist (looked for {path}); correct the path")
        close = did_you_mean(value, [s.name for s in self.earlier.values() if s.kind.gives == "model"])
        if close and "/" not in value and not value.startswith("edit-"):
            raise InputError(f"{self.where(name)}: {value} is no earlier step that gives model{close}")
        return str(value)

    def _inferred(self, kind: Kind, found: Mapping[str, _Found]) -> dict[str, _Found]:
        """The units of a step that prunes, where only one step located any in the run."""
        run = found["run"].value if "run" in found else None
        if kind.name != "prune" or "located" in found or not isinstance(run, Ref):
            return {}
        there = [s.name for s in self.earlier.values() if s.kind.gives == "units" and s.settings.get("run") == run]
        if len(there) > 1:
            raise InputError(
                f"{self.where()}: steps {', '.join(there)} located units in {run.step}; say which: located"
            )
        return {"located": _Found(value=Ref(step=there[0]), shown=there[0])} if there else {}

    def _validated(self, kind: Kind, shown: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
        model = model_of_settings(kind.type, kind.left_out)
        if out is not None:
            shown = {**shown, "out": str(out)}
        self._require_known_below(model, shown, ())
        try:
            return values_of(kind.type, model.model_validate(dict(shown)))
        except ValidationError as error:
            raise refusal(error, self.where) from error
        except InputError as error:
            raise InputError(f"{self.where()}: {error}") from error

    def _require_known_below(self, model: Any, value: Any, at: tuple[str, ...]) -> None:  # noqa: ANN401 - models, data
        known = getattr(model, "model_fields", None)
        if known is None or not isinstance(value, Mapping):
            return
        require_known(value, list(known), lambda key: self.where(*at, key), " ".join(at) or "a step")
        for key, one in value.items():
            self._require_known_below(known[key].annotation, one, (*at, key))


def _require_sense(plan: Plan, step: Step) -> None:
    """What the request and its methods themselves refuse, and units of another audit than the one that is pruned."""
    located = step.settings.get("located")
    if isinstance(located, Ref):
        run, theirs = step.settings.get("run"), plan.step(located.step).settings.get("run")
        if run != theirs:
            raise InputError(
                f"{step.where}: {located.step} located units in {_told(theirs)}, this step prunes what {_told(run)} "
                "audited; name units of that audit"
            )
    try:
        step.kind.check(step.request(lambda name: str(plan.step(name).out or name)))
    except InputError as error:
        raise InputError(f"{step.where}: {error}") from error


def _told(value: Any) -> str:  # noqa: ANN401 - a path or a step
    return value.step if isinstance(value, Ref) else str(value)


def _path(text: Text) -> Path:
    return Path(str(text.base.resolve() / Path(text).expanduser()))


def _plain(value: Any) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, str) else value
