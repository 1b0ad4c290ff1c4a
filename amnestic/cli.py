"""The command line: one thin command per question. Nothing heavy is imported until a command runs."""

import os
import sys
from collections.abc import Callable, Mapping

import typer

from amnestic.commands.attack import attack
from amnestic.commands.audit import audit
from amnestic.commands.compare import compare
from amnestic.commands.demo import demo
from amnestic.commands.doctor import doctor
from amnestic.commands.exits import EXIT_BROKEN_PIPE, EXIT_CODES, EXIT_INTERRUPTED, EXIT_RUNTIME, EXIT_USAGE
from amnestic.commands.extract import extract
from amnestic.commands.fetch import fetch
from amnestic.commands.finetune import finetune
from amnestic.commands.gate import gate
from amnestic.commands.list_methods import list_methods
from amnestic.commands.locality import locality
from amnestic.commands.locate import locate
from amnestic.commands.prune import prune, restore
from amnestic.commands.report import report
from amnestic.commands.run import run
from amnestic.commands.sign import sign
from amnestic.commands.status import status
from amnestic.commands.testbed import testbed_app
from amnestic.commands.tree import HouseCommand, HouseGroup, everywhere, is_usage, sentence
from amnestic.commands.verify import verify
from amnestic.core.errors import AmnesticError
from amnestic.terminal import errors

COMMANDS: Mapping[str, tuple[Callable[..., None], ...]] = {
    "Audit": (fetch, audit, status, locality),
    "Locate and remove": (locate, prune, restore, finetune),
    "Attack": (attack, extract),
    "Reports": (report, verify, sign, compare, gate),
    "House": (demo, run, list_methods, doctor),
}
NAMES: Mapping[Callable[..., None], str] = {list_methods: "list"}

app = typer.Typer(
    name="amnestic",
    cls=HouseGroup,
    callback=everywhere,
    epilog=f"A command's options: amnestic COMMAND --help. Exit codes: {EXIT_CODES}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(NAMES.get(command), cls=HouseCommand, rich_help_panel=panel)(command)
app.add_typer(testbed_app, name="testbed", no_args_is_help=True, rich_help_panel="House")


def main() -> None:
    """Run a command; user mistakes end in one sentence and the published exit code."""
    debug = "--debug" in sys.argv or bool(os.environ.get("AMNESTIC_DEBUG"))
    try:
        code = app(args=sys.argv[1:], prog_name="amnestic", standalone_mode=False) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = _unread()
    except SystemExit as end:
        code = _unread() if isinstance(end.__context__, BrokenPipeError) else end.code
    except Exception as error:
        if debug and not is_usage(error):
            raise
        code = _told(error)
    if code == EXIT_INTERRUPTED:
        errors.print("amnestic: interrupted; nothing written so far is lost, issue the same command to continue")
    sys.exit(code)


def _unread() -> int:
    """Whoever read the output has seen enough; what is left of it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


def _told(error: Exception) -> int:
    """Say what went wrong in one sentence; returns the exit code."""
    if isinstance(error, AmnesticError):
        told, code = str(error), error.exit_code
    elif is_usage(error):
        told, code = sentence(error), EXIT_USAGE
    elif isinstance(error, typer.Abort):
        told, code = "stopped, since a question was not answered", EXIT_INTERRUPTED
    else:
        first = (str(error).strip().splitlines() or [""])[0]
        told, code = f"{type(error).__name__}: {first}; add --debug for the traceback", EXIT_RUNTIME
    if told:
        errors.print(f"amnestic: {told}", markup=False)
    return code
