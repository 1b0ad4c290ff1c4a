"""The recipe that gives a finished run again, from its manifest and records."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from amnestic.audit.attack_goals import known_images
from amnestic.audit.selection import Selection
from amnestic.core.edit_file import load_edit
from amnestic.core.errors import InputError, StoreError
from amnestic.core.names import bundled_folder
from amnestic.core.store import Record, Run
from amnestic.recipes.command import given_to
from amnestic.recipes.recipe_file import MUST, TESTBED
from amnestic.recipes.runner import NOTES
from amnestic.recipes.written import dumped
from amnestic.stages.locating import selected
from amnestic.stages.scores import scored
from amnestic.stages.studying_locality import LocalityRequest

AUDIT = "audit"
MOST_PARTS = 6


@dataclass(kw_only=True)
class _Draft:
    """A recipe as it grows."""

    variables: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def needs(self, name: str, value: Any = None, why: str = "") -> str:  # noqa: ANN401 - plain data
        """A variable; one without a value has to be given."""
        self.variables.setdefault(name, MUST if value is None else value)
        if value is None and why:
            self.notes.append(f"{name}: {why}")
        return f"${{{name}}}"


def recipe_of(folder: Path) -> str:
    """The recipe of a finished audit with all that was made of it, or of the results of a recipe.

    What a run does not know, such as where a prompt list lies now, becomes a variable to be given; comments name it.

    Args:
        folder: A run folder, or the folder of a recipe's results.

    Returns:
        YAML.

    Raises:
        StoreError: If nothing has finished there.
    """
    if (folder / NOTES).is_file():
        try:
            return dumped(json.loads((folder / NOTES).read_text())["recipe"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{folder / NOTES} cannot be read ({error}); give the folder of an audit instead"
            ) from error
    run, draft = Run.open(folder), _Draft()
    score = scored(run)
    draft.variables["out"] = "runs/again"
    draft.steps.append(_audit(run, score, draft))
    for part in (_located, _pruned, _attacked, _finetuned, _extracted, _studied):
        draft.steps += part(run, draft)
    comments = [
        f"what {folder.resolve().name} was made of; digest of its settings {run.manifest()['digest']}",
        *draft.notes,
    ]
    content = {"variables": draft.variables, "defaults": draft.defaults, "steps": draft.steps}
    return "".join(f"# {' '.join(line.split())}\n" for line in comments) + dumped(content)


def _audit(run: Run, score: Record, draft: _Draft) -> dict[str, Any]:
    settings, data = run.manifest()["settings"], score.data
    known = given_to(run)
    model = _model_name(settings["model"]["name"])
    lists = "give the prompt list that was audited; its prompts have the digest " + settings["prompts"]
    found = {
        "name": AUDIT, "does": "audit", "model": draft.needs("model", model),
        "prompts": draft.needs("prompts", known.get("prompts"), lists),
        "references": draft.needs("references", known.get("references"), "give the folder of originals"),
        "n_seeds": len(settings["seeds"]), "sampling": _some(settings["sampling"]),
        **_some({k: settings["model"][k] for k in ("revision", "variant", "dtype")}),
    }  # fmt: skip
    judge = "sscd-mini" if data["descriptor"]["name"] == "sscd-mini" else "auto"
    draft.defaults["descriptor"] = known.get("descriptor", judge)
    if "sscd_weights" in known:
        told = f"give the weights of {data['descriptor']['id']}"
        draft.defaults["sscd_weights"] = draft.needs("sscd_weights", known["sscd_weights"], told)
    if str(data["threshold"]["provenance"]).startswith("given"):
        found["threshold"] = data["threshold"]["value"]
    if data["limit"] is not None:
        found["max_leak_rate"] = data["limit"]
    if isinstance(data.get("clip"), Mapping):
        found["clip"] = draft.needs("clip", known.get("clip"), f"give {data['clip']['descriptor']['name']}")
    found |= {
        name: known[name] for name in ("preprocessing", "clip_pretrained", "keep", "limit_prompts") if name in known
    }
    for name in ("before", "twin", "real_images"):
        if name in known:
            found[name] = draft.needs(name, known[name], "give what this audit was given")
    if "before" not in found and _compared(run):
        found["before"] = draft.needs("before", None, "give the audit that this one is compared with")
    return found


def _compared(run: Run) -> bool:
    file = run.folder / "summary.json"
    return file.is_file() and bool(json.loads(file.read_text()).get("before_after"))


def _model_name(name: str) -> str:
    path, home = Path(name).expanduser(), bundled_folder()
    if path.is_absolute() and path.is_relative_to(home):
        return f"${{{TESTBED}}}/{path.relative_to(home).as_posix()}"
    return str(path.resolve()) if path.exists() else name


def _located(run: Run, draft: _Draft) -> Iterator[dict[str, Any]]:
    for name in run.records("locate"):
        record = run.record(name)
        yield {
            "name": name, "does": "locate", "run": AUDIT, "method": record.made_by.name,
            "options": _some(record.made_by.parameters), "selection": _some(record.data["selection"]),
            "n_seeds": record.data["n_seeds"], **({"references": "${references}"} if record.parents[3] else {}),
        }  # fmt: skip


def _pruned(run: Run, draft: _Draft) -> Iterator[dict[str, Any]]:
    for file in sorted((run.folder / "edits").glob("*.safetensors")):
        edit, about = load_edit(file)
        if "instead_of" in about:
            draft.notes.append(f"{file.stem} was made when {about['without']} was rolled back, and is left out here")
            continue
        yield {
            "name": file.stem, "does": "prune", "run": AUDIT, "located": about["located"],
            "method": edit.made_by.name, "options": _some(edit.made_by.parameters),
        }  # fmt: skip


def _attacked(run: Run, draft: _Draft) -> Iterator[dict[str, Any]]:
    samples, matches = run.read_table("samples"), run.read_table("matches")
    for name in run.records("attack"):
        record = run.record(name)
        arms = {arm: run.record(one).data for arm, one in record.data["arms"].items()}
        works = arms["works"]
        found = {
            "name": name, "does": "attack", "run": AUDIT, "references": "${references}",
            "method": record.made_by.name, "options": _some(record.made_by.parameters),
            "selection": _selection(
                works["goals"], lambda how: [p.id for p in known_images(samples, matches, how).works], samples, draft,
                name,
            ),
            "n_controls": len(arms["heldout"]["goals"]) if "heldout" in arms else 0, "random": "random" in arms,
            "keep": works["steps"], "n_seeds": len(works["seeds"]), "early_stop": works["images_looked_at"] > 0
            if "images_looked_at" in works else False,
            "radii": sorted({float(arm.partition(" within ")[2]) for arm in arms if " within " in arm}),
        }  # fmt: skip
        for other in ("twin", "original"):
            if other in arms:
                told = f"give the model with digest {arms[other]['model']}"
                found[other] = draft.needs(f"{other}_model", None, told)
        yield found


def _finetuned(run: Run, draft: _Draft) -> Iterator[dict[str, Any]]:
    made = {load_edit(f)[1]["result"]: f.stem for f in sorted((run.folder / "edits").glob("*.safetensors"))}
    rows = run.read_table("samples")
    for name in run.records("finetune"):
        record = run.record(name)
        data = record.data
        goals = [*data["prompts"]]
        found: dict[str, Any] = {
            "name": name, "does": "finetune", "run": AUDIT, "references": "${references}",
            "method": record.made_by.name, "options": _some(record.made_by.parameters),
            "selection": _selection(
                goals if not data["left_out"] else None, lambda how: [p.id for p in selected(run, how).memorized], rows,
                draft, name,
            ),
        }  # fmt: skip
        if data["attack"]:
            found |= {"attack": data["attack"]["name"], "attack_options": _some(data["attack"]["parameters"])}
        if "surrogates" in data:
            drawn = run.record(data["surrogates"])
            model = made.get(drawn.data["model"])
            told = f"give the model with digest {drawn.data['model']}"
            asked = drawn.made_by.parameters
            found["surrogates_from"] = model or draft.needs("surrogates_from", None, told)
            found["surrogates"] = {"n": asked["n"], "below": asked["below"]}
            found["leave_out_copies"] = bool(data["left_out"])
        if data["retained_origin"] == "given":
            found["retain"] = draft.needs("retain", None, "give the captioned images that it was to stay capable of")
        if data["retained"]:
            found["n_retain"] = data["retained"]
        yield found


def _extracted(run: Run, draft: _Draft) -> Iterator[dict[str, Any]]:
    for name in run.records("extract"):
        yield {"name": name, "does": "extract", "run": AUDIT, "method": _some(run.record(name).made_by.parameters)}


def _studied(run: Run, draft: _Draft) -> Iterator[dict[str, Any]]:
    known = {f.name for f in fields(LocalityRequest)}
    for name in run.records("locality"):
        asked = run.record(name).made_by.parameters
        found = {k: v for k, v in asked.items() if k in known and v is not None and k != "clip"}
        if asked.get("clip"):
            found["clip"] = draft.needs("clip", None, f"give {asked['clip']}")
        found["selection"] = _some(asked["selection"])
        yield {"name": name, "does": "locality", "run": AUDIT, "references": "${references}", **found,
               "empty": asked["empty"]}  # fmt: skip


def _selection(
    ids: Sequence[str] | None, pick: Callable[[Selection], list[str]], rows: Sequence[Mapping[str, Any]], draft: _Draft,
    name: str,
) -> dict[str, Any]:  # fmt: skip
    """A selection that gives these works, since records keep the works and not how they were chosen."""
    if ids is None:  # works of which there were only copies were left out afterwards, so all were chosen
        return {}
    rungs = sorted({row["rung"] for row in rows if row["rung"] is not None})
    parts = [None, *((i, n) for n in range(2, MOST_PARTS + 1) for i in range(1, n + 1))]
    for rung in (None, *rungs):
        for part in parts:
            try:
                found = pick(Selection(rung=rung, part=part))
            except InputError:
                continue
            if found[: len(ids)] == list(ids):
                limit = len(ids) if len(found) > len(ids) else None
                chosen = _some({"rung": rung, "limit": limit})
                return chosen | ({"part": list(part)} if part else {})
    draft.notes.append(f"{name}: its works are the result of no selection by rung, part and limit; choose them anew")
    return {}


def _some(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without settings that have no value."""
    return {k: v for k, v in values.items() if v is not None and v != ""}
