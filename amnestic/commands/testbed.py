"""``amnestic testbed``: the bundled model that memorizes, and how another one is made."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.exits import EXIT_GATE_FAILED
from amnestic.commands.options import Json
from amnestic.commands.tree import HouseCommand
from amnestic.terminal import out, print_contract, print_json, progress_bars

testbed_app = typer.Typer(help="The bundled model that memorizes, with a twin that never saw the works.")


@testbed_app.command("path", cls=HouseCommand)
def testbed_path() -> None:
    """Where the bundled testbed lies.

    Examples:
        amnestic testbed path
    """
    from amnestic.testbed.bundled import bundled

    print(bundled().folder)


@testbed_app.command("info", cls=HouseCommand)
def testbed_info(
    folder: Annotated[Path | None, typer.Argument(help="Default: the bundled one.")] = None, as_json: Json = False
) -> None:
    """The contract table: what the testbed promises and what was measured.

    Examples:
        amnestic testbed info
        amnestic testbed info --json
    """
    from amnestic.testbed.bundled import bundled, open_testbed

    testbed = open_testbed(folder) if folder else bundled()
    content = testbed.manifest
    if as_json:
        print_json(content)
        return
    out.print(f"testbed of seed {content['seed']}, sampling {content['sampling']}", markup=False)
    print_contract(content["measured"])


@testbed_app.command("build", cls=HouseCommand)
def testbed_build(
    folder: Annotated[Path, typer.Option("--out", help="Folder of the new testbed.")],
    seed: Annotated[int, typer.Option(help="Another seed gives another testbed of the same kind.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Checkpoints; default OUT with -work appended.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Sizes and schedules that differ from the default.")
    ] = None,
) -> None:
    """Train a testbed: about an hour and a half on two cores; issue the command again to continue it.

    Examples:
        amnestic testbed build --out testbeds/one --seed 1
    """
    from amnestic.testbed.build import Builder
    from amnestic.testbed.export import export
    from amnestic.testbed.recipe import Recipe
    from amnestic.testbed.recipe_file import read_recipe

    wanted = read_recipe(recipe) if recipe else Recipe()
    with progress_bars() as show:
        builder = Builder(
            seed=seed,
            recipe=wanted,
            work=work or folder.with_name(folder.name + "-work"),
            report=lambda name, done, total, loss: show(f"train {name}", done, total),
        )
        export(builder, folder, sampling={"num_inference_steps": 20, "guidance_scale": 2.0})
    out.print(f"testbed: {folder}\nnow measure it: amnestic testbed verify {folder}", markup=False)


@testbed_app.command("verify", cls=HouseCommand)
def testbed_verify(
    folder: Annotated[Path, typer.Argument(help="Testbed folder.")],
    run: Annotated[Path, typer.Option("--out", help="Folder of the runs.")] = Path("runs/verify"),
    record: Annotated[bool, typer.Option("--record", help="Write the result into the testbed's manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what a testbed promises, on its model and its twin.

    Examples:
        amnestic testbed verify testbeds/one --out runs/verify
    """
    from amnestic import stages
    from amnestic.core.store import write_json
    from amnestic.testbed.bundled import open_testbed

    with progress_bars() as show:
        measured = stages.verify_testbed(folder, run, progress=show)
    if not measured:
        return
    if record:
        write_json(folder / "manifest.json", open_testbed(folder).manifest | {"measured": measured})
    print_json(measured) if as_json else print_contract(measured)
    if not all(row["holds"] for row in measured["contract"]):
        raise typer.Exit(EXIT_GATE_FAILED)
