"""``amnestic demo``."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.core.errors import InputError
from amnestic.terminal import out, print_story, print_summary, progress_bars


def demo(
    run: Annotated[Path, typer.Option("--out", help="Run folder; issue the same command again to continue it.")] = Path(
        "runs/demo"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Only up to the pruned model: a minute and a half.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All prompts of the testbed: about an hour.")] = False,
) -> None:
    """The whole story on the bundled model that memorizes: audit, prune, bring it back, unlearn, attack in vain.

    Examples:
        amnestic demo --quick
        amnestic demo --out runs/demo
    """
    from amnestic import stages
    from amnestic.testbed.bundled import bundled

    if quick and full:
        raise InputError("expected --quick or --full, got both; give one of them")
    testbed = bundled()
    words = ("amnestic", "demo", "--out", str(run), *(["--quick"] if quick else []), *(["--full"] if full else []))
    request = stages.demo_request(testbed, run, full=full, shortcut=words)
    with progress_bars() as show:
        found = stages.demo(request, testbed, attacked=not quick, progress=show)
    for chapter in found:
        print_summary(chapter.summary)
        out.print(f"report: {chapter.folder / 'report.html'}\n", markup=False)
    print_story(found)
