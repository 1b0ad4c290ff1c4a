"""What the command line and the registry of methods would say against a documented command."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from amnestic.cli import app
from amnestic.core.errors import InputError
from amnestic.core.registry import build, options_from


def wrong(words: Sequence[str]) -> str:
    """What the command line would say against a call, or an empty string.

    Args:
        words: Without ``amnestic``; ``...`` at the end stands for further options.
    """
    given = [w for w in words if w != "..."]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and given:
        if given[0] in {"--help", "--version", "--debug"} or given[0].startswith(("--install", "--show")):
            return ""
        if given[0] not in command.commands:
            return f"there is no command {given[0]} among {', '.join(command.commands)}"
        command, given = command.commands[given[0]], given[1:]
    if "--help" in given:
        return ""
    try:
        context = command.make_context(command.name, [w for w in given if w != "--debug"])
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return _refused(command.name, context.params)


def _refused(command: str, values: Mapping[str, Any]) -> str:
    """What the registry of methods says against a method or its settings."""
    families = {"locate": "localizer", "prune": "mitigation", "attack": "attack", "finetune": "finetuning"}
    asked = [(families[command], values.get("method"), values.get("option"))] if command in families else []
    if command == "finetune":
        asked.append(("attack", values.get("attack"), values.get("attack_option")))
    for family, method, options in asked:
        try:
            if method:
                build(family, method, options_from(options or []))
        except InputError as error:
            return str(error)
    return ""


def wrong_inline(text: str) -> str:
    """The same for a command that prose mentions, whose arguments may be left out."""
    command: Any = typer.main.get_command(app)
    words = text.replace("|", " ").split()[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return "" if words[0].isupper() or words[0] == "..." else f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if not hasattr(command, "params") or hasattr(command, "commands"):
        return ""
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help", "--debug"}
    unknown = [w for w in words if w.startswith("-") and w.partition("=")[0].rstrip(",.") not in known and len(w) > 1]
    return f"{command.name} has no option {', '.join(unknown)}" if unknown else ""
