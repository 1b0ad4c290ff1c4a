"""What a finished step gives to others, and what is said of it in a line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amnestic.core.amounts import percent
from amnestic.core.edit_file import HEADER
from amnestic.core.records import digest
from amnestic.core.store import Record, Run
from amnestic.recipes.plan import Plan, Ref, Step
from amnestic.stages.scores import scored

MODEL = "model_index.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a step gave.

    Attributes:
        value: What a later step gets that names it: a path, or the name of a record.
        ident: Identity of what was made, as far as there is one.
        said: It in a line.
        files: Files that must be there as long as it counts as finished, from the folder of the recipe's results.
        nothing: Whether it located nothing.
        verdict: ``pass``, ``fail``, ``inconclusive`` or ``none``, of steps that judge.
        key: Identity of what was asked.
    """

    value: str
    ident: str
    said: str
    files: tuple[str, ...] = ()
    nothing: bool = False
    verdict: str = "none"
    key: str = ""


def result_of(plan: Plan, step: Step, made: Any, before: Mapping[str, Result]) -> Result:  # noqa: ANN401 - any stage's
    """The result of a step that has just finished.

    Args:
        plan: The plan.
        step: One of its steps.
        made: What its stage returned; `None` of a step that prunes where nothing was found.
        before: Results of earlier steps.
    """
    known: Mapping[str, Callable[[Plan, Step, Any, Mapping[str, Result]], Result]] = {
        "choose": _choose, "audit": _audit, "locate": _locate, "prune": _prune, "finetune": _finetune,
        "roll-back": _roll_back, "attack": _record, "locality": _record, "extract": _record,
        "report": _report, "gate": _judged, "compare": _judged, "verify": _judged,
    }  # fmt: skip
    return known.get(step.kind.name, _other)(plan, step, made, before)


def _choose(plan: Plan, step: Step, made: Any, before: Mapping[str, Result]) -> Result:  # noqa: ANN401
    names = {p.work or p.image for p in made if p.label not in ("base", "heldout")}
    said = f"{len(made)} prompts, works {', '.join(sorted(names)[:8])}{' ...' if len(names) > 8 else ''}"
    return Result(value=str(step.out), ident=digest(list(made)), said=said, files=_files(plan, step, ""))


def _audit(plan: Plan, step: Step, made: Any, before: Mapping[str, Result]) -> Result:  # noqa: ANN401
    run = Run.open(_out(step))
    return Result(
        value=str(step.out), ident=f"{run.manifest()['digest']}/{scored(run).id}", said=told_rate(made),
        files=_files(plan, step, "summary.json", "matches.parquet"), verdict=made["verdict"],
    )  # fmt: skip


def told_rate(summary: Mapping[str, Any]) -> str:
    """The leak rate of an audit with its number of works and interval."""
    rate, verdict = summary["leak_rate"], summary["verdict"]
    if rate["estimate"] is None:
        return "leak rate not measured"
    interval = "" if rate["lower"] is None else f", 95 % interval {percent(rate['lower'])} to {percent(rate['upper'])}"
    judged = "" if verdict == "none" else f", verdict {verdict}"
    return f"leak rate {percent(rate['estimate'])} of {rate['n']} works{interval}{judged}"


def _locate(plan: Plan, step: Step, made: Record, before: Mapping[str, Result]) -> Result:
    nothing = made.data["outcome"] != "found"
    said = f"{made.data['outcome']}: {len(made.data['works'])} works, {made.data.get('units', 0):,} units"
    return Result(value=made.id, ident=made.id, said=said, files=_record_file(plan, step, made.id, before),
                  nothing=nothing)  # fmt: skip


def _prune(plan: Plan, step: Step, made: Any, before: Mapping[str, Result]) -> Result:  # noqa: ANN401
    if made is None:
        model = str(Run.open(_run(step, before)).manifest()["settings"]["model"]["name"])
        return Result(value=model, ident=model, said="nothing was located, so the model stays as it was")
    said = f"{made['weights']:,} weights changed ({percent(made['share'])})"
    return Result(value=str(step.out), ident=made["result"], said=said, files=_files(plan, step, HEADER, MODEL))


def _finetune(plan: Plan, step: Step, made: Record, before: Mapping[str, Result]) -> Result:
    data, left = made.data, len(made.data["left_out"])
    said = f"{len(data['works'])} works{f' ({left} left out)' if left else ''}, {data['steps']} steps"
    return Result(value=str(step.out), ident=data["result"], said=said, files=_files(plan, step, HEADER, MODEL))


def _roll_back(plan: Plan, step: Step, made: Any, before: Mapping[str, Result]) -> Result:  # noqa: ANN401
    anew = f", {len(made['made_anew'])} made anew" if made["made_anew"] else ""
    said = f"{made['taken_back']} taken back, {len(made['kept'])} later edits as they were{anew}"
    return Result(value=str(step.out), ident=made["model"], said=said, files=_files(plan, step, MODEL))


def _record(plan: Plan, step: Step, made: Record, before: Mapping[str, Result]) -> Result:
    said = f"record {made.id}"
    verdict = made.data.get("verdict")
    if isinstance(verdict, Mapping) and "sentence" in verdict:
        said = str(verdict["sentence"])
    elif "claimed" in made.data:
        said = f"{made.data['claimed']} of {made.data['prompts']} prompts claimed"
    return Result(value=made.id, ident=made.id, said=said, files=_record_file(plan, step, made.id, before))


def _report(plan: Plan, step: Step, made: Any, before: Mapping[str, Result]) -> Result:  # noqa: ANN401
    left = f", left out: {', '.join(row.what for row in made.left_out)}" if made.left_out else ""
    said = f"{', '.join(file.name for file in made.files)}{left}"
    return Result(value=str(step.out), ident="", said=said)


def _judged(plan: Plan, step: Step, made: Mapping[str, Any], before: Mapping[str, Result]) -> Result:
    lines = [one["line"] for one in made.get("outcomes", ())]
    said = made.get("said") or made.get("sentence") or "; ".join(lines)
    return Result(value=str(step.out or ""), ident="", said=said, verdict=str(made["verdict"]))


def _other(plan: Plan, step: Step, made: Any, before: Mapping[str, Result]) -> Result:  # noqa: ANN401
    return Result(value=str(step.out or ""), ident="", said="done", files=_files(plan, step, ""))


def _out(step: Step) -> Path:
    if step.out is None:
        raise ValueError(f"{step.kind.name} has no place of its own")
    return step.out


def _run(step: Step, before: Mapping[str, Result]) -> Path:
    run = step.settings["run"]
    return Path(before[run.step].value if isinstance(run, Ref) else run)


def _files(plan: Plan, step: Step, *names: str) -> tuple[str, ...]:
    """Files of a step's place as paths from the plan's folder, where they lie inside, else absolute."""
    if step.out is None:
        return ()
    return tuple(_from(plan.out, step.out / name if name else step.out) for name in names)


def _record_file(plan: Plan, step: Step, name: str, before: Mapping[str, Result]) -> tuple[str, ...]:
    return (_from(plan.out, _run(step, before) / "records" / name / "record.json"),)


def _from(folder: Path, file: Path) -> str:
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)
