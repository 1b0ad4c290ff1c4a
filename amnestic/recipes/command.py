"""What an audit was given, from the command that its manifest keeps."""

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

from amnestic.core.errors import InputError
from amnestic.core.names import bundled_folder
from amnestic.core.records import digest
from amnestic.core.store import Run
from amnestic.recipes.recipe_file import TESTBED
from amnestic.recipes.steps import FOLDER
from amnestic.sources.prompts import read_prompts

HOME = "$(amnestic testbed path)"
PATHS = ("prompts", "references", "sscd_weights", "before", "twin", "real_images")


def given_to(run: Run) -> dict[str, Any]:
    """Options of the audit that a run keeps the command of, by setting.

    Args:
        run: The audit.

    Returns:
        Values; `None` for a path that leads nowhere from here, or to another prompt list. Empty where the run keeps no
        command, or one that stands for an audit of its own, such as ``amnestic demo``.
    """
    command = run.manifest().get("provenance", {}).get("command")
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return {}
    if words[:2] != ["amnestic", "audit"]:
        return {}
    options = {w.removeprefix("--").replace("-", "_"): v for w, v in pairwise(words)
               if w.startswith("--")}  # fmt: skip
    found: dict[str, Any] = {name: _there(options[name]) for name in PATHS if name in options}
    found |= {k: options[k] for k in ("descriptor", "preprocessing", "clip_pretrained", "keep") if k in options}
    if "limit" in options:
        found["limit_prompts"] = run.manifest()["settings"]["n_prompts"]
    if "clip" in options:
        given = options["clip"]
        inside = _there(given.removeprefix(FOLDER)) if given.startswith(FOLDER) else given
        found["clip"] = None if inside is None else f"{FOLDER}{inside}" if given.startswith(FOLDER) else given
    if found.get("prompts") and not _same(run, str(found["prompts"])):
        found["prompts"] = None
    return found


def _there(word: str) -> str | None:
    if word.startswith(HOME):
        return f"${{{TESTBED}}}{word.removeprefix(HOME)}"
    path = Path(word).expanduser()
    return str(path.resolve()) if path.exists() else None


def _same(run: Run, place: str) -> bool:
    """Whether the prompt list that lies there now is the one that was audited."""
    home, settings = f"${{{TESTBED}}}", run.manifest()["settings"]
    path = Path(place.replace(home, str(bundled_folder())))
    try:
        prompts = read_prompts(path)[: settings["n_prompts"]]
    except InputError:
        return False
    return bool(digest([[p.id, p.prompt] for p in prompts]) == settings["prompts"])
