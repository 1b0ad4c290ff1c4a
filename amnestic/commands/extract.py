"""``amnestic extract``."""

from typing import Annotated

import typer

from amnestic.commands.options import Audited
from amnestic.terminal import print_extraction, progress_bars


def extract(
    run: Audited,
    clique: Annotated[int, typer.Option(min=2, help="Near-identical images that make a claim.")] = 10,
    distance: Annotated[float, typer.Option(help="Two images are near up to this tiled L2 distance.")] = 0.15,
) -> None:
    """Could a stranger tell? Claim near-identical images of one prompt as memorized, and judge the claims."""
    from amnestic import stages
    from amnestic.attacks.extraction import CliqueExtraction

    with progress_bars() as show:
        record = stages.extract(run, CliqueExtraction(clique=clique, distance=distance), progress=show)
    if record is not None:
        print_extraction(record.id, record.data)
