"""What all commands have in common: variables, examples, options that stand everywhere, and words for usage errors."""

import copy
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from amnestic import __version__
from amnestic.commands.config_file import defaults_from, key_of, resolved
from amnestic.commands.options import PANELS
from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.terminal import Manner, errors, manner

PREFIX, EVERYWHERE, MANY, WIDE = "AMNESTIC", "Of every command", 10, 120
PRINT_CONFIG = "amnestic.print_config"


class HouseCommand(TyperCommand):
    """A command that can print its options instead of running."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - a typer context
        """Run, or print what would be run.

        Args:
            ctx: Where the parsed options are.
        """
        path = _path(ctx)
        _warn_of_variables(path, {str(p.envvar) for p in self.params})
        if not ctx.meta.get(PRINT_CONFIG):
            return super().invoke(ctx)
        options: dict[str, Any] = resolved(self, ctx.params)
        for name in reversed(path):
            options = {name: options}
        sys.stdout.write(yaml.safe_dump(options, sort_keys=False, allow_unicode=True))
        return None


class HouseGroup(TyperGroup):
    """All commands, each with a variable for every option, its examples, and the options that stand everywhere."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - those of typer
        """Take what typer gives, and prepare the commands."""
        super().__init__(**settings)
        shared = [p for p in self.params if getattr(p, "rich_help_panel", None) == EVERYWHERE]
        for path, command in leaves(self):
            _prepare(command, path)
            _share(command, shared)


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401
    """All commands below a group, with the words that call them.

    Args:
        group: A typer group.
        path: Words that call the group itself.
    """
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


def variable(path: tuple[str, ...], key: str) -> str:
    """Environment variable of an option.

    Example:
        >>> variable(("audit",), "num-inference-steps")
        'AMNESTIC_AUDIT_NUM_INFERENCE_STEPS'
    """
    return "_".join((PREFIX, *path, key)).replace("-", "_").upper()


def _prepare(command: Any, path: tuple[str, ...]) -> None:  # noqa: ANN401
    text, _, examples = (command.help or "").partition("\nExamples:\n")
    command.examples = tuple(line.strip() for line in examples.strip().splitlines())
    lines = [f"  $ {escape(line)}" for line in command.examples]
    options = [p for p in command.params if p.param_type_name == "option"]
    parts = ["\n".join(["[bold]Examples[/bold]", *lines])] if lines else []
    if options:
        such = variable(path, key_of(options[-1]))
        parts.append(f"[bold]Variables[/bold]\n  {variable(path, 'OPTION')}, such as {such}")
    command.help, command.epilog = text.strip(), "\n\n".join(parts)
    for option in options:
        key = key_of(option)
        option.envvar, option.show_envvar = variable(path, key), get_terminal_size().columns >= WIDE
        if len(options) > MANY and not option.required and option.rich_help_panel is None:
            option.rich_help_panel = next((panel for panel, keys in PANELS.items() if key in keys), None)


def _share(command: Any, shared: list[Any]) -> None:  # noqa: ANN401
    taken = {name for p in command.params for name in (p.name, *p.opts, *p.secondary_opts)}
    for option in shared:
        if taken.isdisjoint((option.name, *option.opts)):
            own = copy.copy(option)
            own.envvar, own.expose_value = None, False  # the variable has been read with the options before the command
            command.params.append(own)


def _path(ctx: Any) -> tuple[str, ...]:  # noqa: ANN401
    return () if ctx.parent is None else (*_path(ctx.parent), ctx.info_name)


def _warn_of_variables(path: tuple[str, ...], known: set[str]) -> None:
    """Say which variables look like options of a command and are none."""
    for name in sorted(os.environ):
        if name.startswith(variable(path, "")) and name not in known:
            errors.print(f"amnestic: {name} is no option{did_you_mean(name, known)}; it is ignored", markup=False)


def _read_config(ctx: typer.Context, value: Path | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    found: Any = defaults_from(value, ctx.find_root().command)
    for name in _path(ctx):
        found = found.get(name, {})
    ctx.default_map = found


def _print_config(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.meta[PRINT_CONFIG] = True


def _show_version(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        print(f"amnestic {__version__}")
        raise typer.Exit


def _be_quiet(ctx: typer.Context, value: bool) -> None:
    if ctx.parent is None:
        manner.set(Manner())  # what an earlier command of this process was told is over
    if value and not ctx.resilient_parsing:
        manner.set(replace(manner.get(), quiet=True))
        ctx.find_root().with_resource(warnings.catch_warnings(action="ignore"))
        logging.disable(logging.WARNING)
        ctx.find_root().call_on_close(lambda: logging.disable(logging.NOTSET))


def _be_verbose(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        if manner.get().quiet:
            raise InputError("expected --quiet or --verbose, got both; give one of them")
        manner.set(replace(manner.get(), verbose=True))
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")


def everywhere(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Options by command: .yaml, .toml or .json.", is_eager=True,
            callback=_read_config, envvar=f"{PREFIX}_CONFIG", show_envvar=True, rich_help_panel=EVERYWHERE,
        ),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print the options as such a file instead of running.", is_eager=True,
            callback=_print_config, rich_help_panel=EVERYWHERE, allow_from_autoenv=False,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Only results and errors.", is_eager=True, callback=_be_quiet,
            envvar=f"{PREFIX}_QUIET", show_envvar=True, rich_help_panel=EVERYWHERE,
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Also what the libraries say.", is_eager=True, callback=_be_verbose,
            envvar=f"{PREFIX}_VERBOSE", show_envvar=True, rich_help_panel=EVERYWHERE,
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="A traceback instead of a sentence.", envvar=f"{PREFIX}_DEBUG", show_envvar=True,
            rich_help_panel=EVERYWHERE,
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:  # fmt: skip
    """Audit text-to-image diffusion models for memorized training images, and make them forget."""


def is_usage(error: Exception) -> bool:
    """Whether typer raised it, for a mistake on the command line.

    Args:
        error: Any error.
    """
    return hasattr(error, "format_message")


def sentence(error: Any) -> str:  # noqa: ANN401 - a usage error of typer
    """A usage error in one sentence, with what may have been meant and where help is.

    Args:
        error: Any error of typer that has a message.

    Returns:
        The sentence without a full stop; empty where help was shown instead.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    ctx, param = getattr(error, "ctx", None), getattr(error, "param", None)
    if hasattr(error, "possibilities"):
        known = error.possibilities or _long_options(ctx)
        told = f"No such option {error.option_name}{did_you_mean(error.option_name, known)}"
    elif param is not None and type(error).__name__ == "MissingParameter":
        told = f"Missing {param.param_type_name} {_hint(param)}"
    elif param is not None:
        told = f"Invalid value for {_hint(param)}{_origin(ctx, param)}: {_refusal(error, param)}"
    else:
        told = error.format_message().replace(". Did you mean ", "; did you mean ").replace("(s)", "s")
    told = " ".join(told.split()).rstrip(".")
    return told if ctx is None or told.endswith("?") else f"{told}; see {ctx.command_path} --help"


def _long_options(ctx: Any) -> list[str]:  # noqa: ANN401
    return [] if ctx is None else [name for p in ctx.command.params for name in p.opts if name.startswith("--")]


def _hint(param: Any) -> str:  # noqa: ANN401
    names = [param.display_name_raw] if param.param_type_name == "argument" else param.opts
    return " / ".join(f"'{name}'" for name in names)


def _origin(ctx: Any, param: Any) -> str:  # noqa: ANN401
    source = ctx.get_parameter_source(param.name) if ctx is not None else None
    words = {"ENVIRONMENT": f" from {param.envvar}", "DEFAULT_MAP": " from the config file"}
    return words.get(getattr(source, "name", ""), "")


def _refusal(error: Any, param: Any) -> str:  # noqa: ANN401
    """What is wrong with a value, the value itself, and what may have been meant."""
    told, cause = error.message.removeprefix("Value error, ").rstrip("."), error.__cause__
    if cause is None:
        return str(told)
    given = str(cause.errors()[0]["input"])
    got = "" if repr(given) in told else f", got {given!r}"
    return (
        f"{told}{got}{did_you_mean(given, [str(getattr(c, 'value', c)) for c in param.type_descriptor.choices or ()])}"
    )
