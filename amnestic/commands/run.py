"""``amnestic run``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from amnestic.commands.exits import VERDICT_EXIT
from amnestic.core.errors import InputError
from amnestic.terminal import out, progress_bars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amnestic.recipes.plan import Plan
    from amnestic.recipes.runner import Outcome


def run(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="YAML or TOML file, or the name of a shipped recipe.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A variable of the recipe; repeatable.")
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print it with everything filled in.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and what it costs.")] = False,
    time: Annotated[bool, typer.Option("--time", help="With --dry-run: time the model on this device first.")] = False,
    only: Annotated[str | None, typer.Option(metavar="STEP", help="Run this step alone.")] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="STEP", help="Leave out the steps before it.")] = None,
    shipped: Annotated[bool, typer.Option("--list", help="List the recipes that come with amnestic.")] = False,
    of: Annotated[
        Path | None, typer.Option("--of", metavar="RUN", help="Print the recipe that gives a finished run again.")
    ] = None,
) -> None:
    """Run a recipe: audits, edits and attacks in one file; issue the same command again to continue it.

    Examples:
        amnestic run --list
        amnestic run recipe.yaml --dry-run
        amnestic run recipe.yaml --only audit
    """
    modes = [shipped, of is not None, recipe is not None]
    if sum(modes) != 1:
        raise InputError("expected a RECIPE, --list or --of RUN, and one of them only; see amnestic run --help")
    if time and not dry_run:
        raise InputError("--time tells how long steps would take; give it with --dry-run")
    if shipped:
        print_recipes()
    elif of is not None:
        from amnestic.recipes.of_run import recipe_of

        print(recipe_of(of), end="")
    else:
        plan = _planned(str(recipe), given or [])
        if print_config:
            from amnestic.recipes.written import written

            print(written(plan), end="")
        elif dry_run:
            _show_costs(plan, timed=time)
        else:
            _run(plan, only, start)


def print_recipes() -> None:
    """The recipes that come with the package, with what they are for and what they need to be given."""
    from amnestic.recipes.recipe_file import MUST, read_recipe, shipped

    table = Table("recipe", "what it is for", "to be given")
    for name, file in shipped().items():
        found = read_recipe(file).recipe
        needed = [key for key, value in found.variables.items() if value == MUST]
        table.add_row(name, found.about, "\n".join(f"--set {key}=..." for key in needed))
    out.print(table)


def _planned(recipe: str, words: list[str]) -> "Plan":
    from amnestic.core.registry import options_from
    from amnestic.recipes.reader import plan_of
    from amnestic.recipes.recipe_file import open_recipe

    return plan_of(open_recipe(recipe), options_from(words))


def _run(plan: "Plan", only: str | None, start: str | None) -> None:
    from amnestic.recipes.runner import run_recipe

    with progress_bars() as show:
        outcomes = run_recipe(
            plan, only=only, start=start, progress=show, tell=lambda text: out.print(text, markup=False)
        )
    if outcomes is None:
        return
    _show_outcomes(plan, outcomes)
    codes = [VERDICT_EXIT.get(o.result.verdict, 0) for o in outcomes if o.result is not None]
    worst = next((code for code in codes if code), 0)
    if worst:
        raise typer.Exit(worst)


def _show_outcomes(plan: "Plan", outcomes: "Sequence[Outcome]") -> None:
    table = Table("step", "does", "found", title=plan.name)
    for one in outcomes:
        said = "not finished" if one.result is None else one.result.said
        table.add_row(one.step.name, one.step.kind.name, said)
    out.print(table)
    out.print(f"results: {plan.out}", markup=False)


def _show_costs(plan: "Plan", *, timed: bool) -> None:
    from amnestic.recipes.cost import costs_of

    with progress_bars() as show:
        found = costs_of(plan, timed=timed, progress=show)
    table = Table("step", "does", "from", "state", "rows forward", "rows backward", "minutes", title=plan.name)
    for one in found.steps:
        table.add_row(
            one.step.name, one.step.kind.name, ", ".join(one.step.refs()), one.state, _rows(one.forward, one.bound),
            _rows(one.backward, one.bound), _minutes(one.minutes, one.bound),
        )  # fmt: skip
    out.print(table)
    for sentence in found.notes:
        out.print(sentence, markup=False)
    out.print("nothing was run", markup=False)


def _rows(rows: int | None, bound: str) -> str:
    return "not known" if rows is None else f"{bound} {rows:,}".strip()


def _minutes(minutes: float | None, bound: str) -> str:
    return "not known" if minutes is None else f"{bound} {minutes:.1f}".strip()
