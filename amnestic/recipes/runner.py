"""Runs a recipe: calls its stages one after the other, and leaves out what has been finished before."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from amnestic.core.errors import InputError, StoreError
from amnestic.core.records import SCHEMA, digest, plain
from amnestic.core.store import write_json
from amnestic.parallel import Team, team
from amnestic.recipes.plan import Plan, Step
from amnestic.recipes.results import Result, result_of
from amnestic.recipes.written import as_data
from amnestic.stages.inputs import Progress, silent

NOTES = "steps.json"
"""What lies in the folder of a recipe's results: the recipe, and what its finished steps gave."""
INDIFFERENT = ("device", "batch_size", "allow_pickle", "allow_torchscript")
"""Settings that do not decide a result."""

Tell = Callable[[str], None]


def untold(_sentence: str) -> None:
    """Messages for nobody."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a step.

    Attributes:
        step: The step.
        result: What it gave; `None` of a step that was left out and had not finished.
        skipped: Why it was not run now, or empty.
    """

    step: Step
    result: Result | None
    skipped: str = ""


@dataclass(kw_only=True)
class Notes:
    """Results of the steps of a plan that have finished.

    Attributes:
        folder: Of the plan's results.
        results: By name of the step.
    """

    folder: Path
    results: dict[str, Result] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Notes":
        """The notes of a folder; none where nothing has finished.

        Raises:
            StoreError: If they are damaged.
        """
        file = folder / NOTES
        if not file.is_file():
            return cls(folder=folder)
        try:
            content = json.loads(file.read_text())
            results = TypeAdapter(dict[str, Result]).validate_python(content["steps"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{file} cannot be read ({error}); delete it, finished stages are found again") from error
        if content.get("schema") != SCHEMA:
            raise StoreError(f"{file} was written with schema {content.get('schema')}; give another folder as out")
        return cls(folder=folder, results=results)

    def write(self, plan: Plan) -> None:
        """Keep them, with the recipe they belong to."""
        steps = {name: plain(result) for name, result in self.results.items()}
        write_json(self.folder / NOTES, {"schema": SCHEMA, "recipe": as_data(plan), "steps": steps})

    def finished(self, step: Step) -> Result | None:
        """What a step gave, if it has finished as it is asked for now and all of it is still there.

        Steps that only read are never finished, as there may be more to read.
        """
        if step.kind.reads:
            return None
        known, key = self.results.get(step.name), self.key(step)
        if known is None or key is None or known.key != key:
            return None
        return known if all((self.folder / file).exists() for file in known.files) else None

    def key(self, step: Step) -> str | None:
        """Identity of a step: what is asked, files as they are now, what earlier steps gave; `None` before they did."""
        gave = {name: self.results.get(name) for name in step.refs()}
        if any(one is None for one in gave.values()):
            return None
        settings = {k: v for k, v in step.settings.items() if k not in INDIFFERENT}
        read = [signature(path) for path in _read(step)]
        asked = plain({k: _text(v) for k, v in settings.items()})
        given = {name: [one.value, one.ident] for name, one in gave.items() if one is not None}
        return digest(step.kind.name, asked, str(step.out), step.go_on, given, read)


def _read(step: Step) -> list[Path]:
    """Files and folders that a step reads; of an audit what it is, since steps add to it."""
    found = list[Path]()
    for name, value in sorted(step.settings.items()):
        audits = step.kind.takes.get(name) == "audit"
        parts = value if isinstance(value, tuple) else (value,)
        there = [Path(one) for one in parts if isinstance(one, str | Path) and one and Path(one).exists()]
        found += [one / "manifest.json" if audits else one for one in there]
    return found


def signature(path: Path) -> list[Any]:
    """Names, sizes and times of a file, or of all files of a folder; enough to see that something was changed.

    Args:
        path: A file or folder.
    """
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    stats = [(f.relative_to(path).as_posix(), f.stat()) for f in files]
    return [[name, one.st_size, one.st_mtime_ns] for name, one in stats]


def run_recipe(
    plan: Plan, *, only: str | None = None, start: str | None = None, progress: Progress = silent, tell: Tell = untold
) -> list[Outcome] | None:
    """Run the steps of a plan that have not finished.

    Stages resume by themselves, so issuing the same command again continues where it stopped.

    Args:
        plan: From `plan_of`.
        only: Run this step alone.
        start: Leave out the steps before this one.
        progress: Told how far each stage is.
        tell: Told in a sentence what begins, ends and is left out.

    Returns:
        One outcome per step; `None` in processes other than the main one.

    Raises:
        InputError: If a step needs one that is left out and has not finished, or a stage refuses what it is asked.
        StoreError: If a folder holds something else.
    """
    wanted = _wanted(plan, only, start)
    crew = team(next((str(s.settings["device"]) for s in plan.steps if "device" in s.settings), "auto"))
    say = tell if crew.is_main else untold
    notes, outcomes = Notes.read(plan.out), list[Outcome]()
    _require_reachable(plan, wanted, notes)
    for number, step in enumerate(plan.steps, start=1):
        known, title = notes.finished(step), f"step {number} of {len(plan.steps)}, {step.name}"
        if step.name not in wanted:
            outcomes.append(Outcome(step=step, result=known, skipped="left out"))
            continue
        if known is not None:
            say(f"{title}: finished before ({known.said})")
            outcomes.append(Outcome(step=step, result=known, skipped="finished before"))
            continue
        say(f"{title}: {step.kind.name}")
        _run_step(plan, step, notes, crew, progress)
        notes = Notes.read(plan.out)
        result = notes.results[step.name]
        say(f"{title}: {result.said}")
        outcomes.append(Outcome(step=step, result=result))
    return outcomes if crew.is_main else None


def _run_step(plan: Plan, step: Step, notes: Notes, crew: Team, progress: Progress) -> None:
    """Call the stage; the main process notes what it gave, and the others wait for that."""
    made: Any = None
    if not (step.go_on and _found_nothing(plan, step, notes)):
        request = step.request(lambda name: notes.results[name].value)
        if any(f.name == "bundled" for f in fields(step.kind.type)):
            request = replace(request, bundled=plan.descriptor(step))
        made = crew.on_main(lambda: _called(step, request, progress)) if step.kind.reads else _called(
            step, request, progress)  # fmt: skip

    def note() -> None:
        result = result_of(plan, step, made, notes.results)
        notes.results[step.name] = replace(result, key=notes.key(step) or "")
        notes.write(plan)

    crew.on_main(note)
    crew.wait()


def _called(step: Step, request: Any, progress: Progress) -> Any:  # noqa: ANN401 - what the stage returns
    try:
        return step.kind.run(request, progress)
    except InputError as error:
        raise type(error)(f"{step.where}: {error}") from error


def _found_nothing(plan: Plan, step: Step, notes: Notes) -> bool:
    return any(notes.results[name].nothing for name in step.refs() if plan.step(name).kind.gives == "units")


def _wanted(plan: Plan, only: str | None, start: str | None) -> set[str]:
    names = [step.name for step in plan.steps]
    if only is not None and start is not None:
        raise InputError("expected --only or --from, got both; give one of them")
    if only is not None:
        return {plan.step(only).name}
    return set(names[names.index(plan.step(start).name) :]) if start is not None else set(names)


def _require_reachable(plan: Plan, wanted: set[str], notes: Notes) -> None:
    """Steps that are left out must have finished where others need them."""
    for step in plan.steps:
        for name in step.refs() if step.name in wanted else ():
            if name not in wanted and notes.finished(plan.step(name)) is None:
                raise InputError(
                    f"step {step.name} needs {name}, which has not finished as this recipe asks for it; run it first, "
                    "or do not leave it out"
                )


def _text(value: Any) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, Path):
        return str(value)
    return [_text(one) for one in value] if isinstance(value, tuple) else value
