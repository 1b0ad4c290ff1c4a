"""The reference of the command line, made from the commands themselves."""

import inspect
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import typer
from method_pages import cell, markdown
from rich.text import Text

from amnestic.cli import app
from amnestic.commands.tree import EVERYWHERE

INTRODUCTION = """# Command reference

Made from the commands themselves; `amnestic COMMAND --help` shows the same. Options may stand in any order, before or
after the arguments. Each may also be given by an environment variable that is named after command and option, such as
`AMNESTIC_AUDIT_BATCH_SIZE` or `AMNESTIC_QUIET`; what is given on the command line counts more."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with the words that call it, in the order of the help."""
    yield from _below(typer.main.get_command(app), ())


def _below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - typer's own class
    for name, command in group.commands.items():
        if getattr(command, "hidden", False):
            continue
        if hasattr(command, "commands"):
            yield from _below(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def page() -> str:
    """The whole reference as one page."""
    shared = [p for p in typer.main.get_command(app).params if not getattr(p, "hidden", False)]
    everywhere = ["## Options of every command", _table("option", ((_spelled(p), p) for p in shared), "AMNESTIC")]
    told = [part for words, command in commands() for part in _told(words, command)]
    return "\n\n".join([INTRODUCTION, *everywhere, *told]) + "\n"


def _told(words: str, command: Any) -> Iterator[str]:  # noqa: ANN401 - typer's own class
    command_name = f"AMNESTIC {words}".upper().replace(" ", "_")
    yield f"## amnestic {words}"
    examples = "\n".join(command.examples)
    yield markdown(_plain(command.help).strip())
    own = [p for p in command.params if getattr(p, "rich_help_panel", None) != EVERYWHERE]
    told = [p for p in own if not getattr(p, "hidden", False)]
    arguments = [p for p in told if p.param_type_name == "argument"]
    options = [p for p in told if p.param_type_name == "option"]
    usage = " ".join(_placeholder(p) for p in arguments)
    needed = " ".join(f"{p.opts[0]} {p.name.upper()}" for p in options if p.required)
    yield f"```text\n{' '.join(f'amnestic {words} {usage} {needed}'.split())}{' [OPTIONS]' if options else ''}\n```"
    if examples:
        yield f"```text\n{inspect.cleandoc(examples)}\n```"
    if arguments:
        yield _table("argument", ((f"`{p.metavar or p.name.upper()}`", p) for p in arguments), command_name)
    if options:
        yield _table("option", ((_spelled(p), p) for p in options), command_name)


def _placeholder(argument: Any) -> str:  # noqa: ANN401 - typer's own class
    name = argument.metavar or argument.name.upper()
    name = f"{name}..." if argument.nargs == -1 else name
    return name if argument.required else f"[{name}]"


def _spelled(option: Any) -> str:  # noqa: ANN401 - typer's own class
    """All spellings, and what follows them."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return f"{names} `{option.metavar}`" if option.metavar else names


def _table(kind: str, rows: Any, prefix: str) -> str:  # noqa: ANN401 - pairs of spelling and typer's own class
    lines = [f"| {spelled} | {_default(p, prefix)} | {cell(_plain(p.help or ''))} |" for spelled, p in rows]
    return "\n".join([f"| {kind} | default | meaning |", "|---|---|---|", *lines])


def _default(parameter: Any, prefix: str) -> str:  # noqa: ANN401 - typer's own class
    """What it is without being given, and the variable that gives it where that has a name of its own."""
    value = parameter.default
    if parameter.required:
        told = "required"
    elif value is None or value == () or callable(value):
        told = ""
    elif isinstance(value, bool):
        told = "on" if value else "off"
    else:
        told = f"`{value.value if isinstance(value, Enum) else value}`"
    variables: Sequence[str] = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ()
    usual = {f"{prefix}_{word.lstrip('-').replace('-', '_').upper()}" for word in (*parameter.opts, parameter.name)}
    return f"{told} {' '.join(f'`{name}`' for name in variables if name not in usual)}".strip()


def _plain(text: str | None) -> str:
    """Help without the marks of rich, one paragraph a line."""
    return inspect.cleandoc(Text.from_markup((text or "").split("\f")[0]).plain)
