"""``amnestic extract``."""

from typing import Annotated

import typer

from amnestic.commands.options import Audited, Json
from amnestic.terminal import print_extraction, print_record_json, progress_bars


def extract(
    run: Audited,
    clique: Annotated[int, typer.Option(min=2, help="Near-identical images that make a claim.")] = 10,
    distance: Annotated[float, typer.Option(help="Two images are near up to this tiled L2 distance.")] = 0.15,
    as_json: Json = False,
) -> None:
    """Could a stranger tell? Claim near-identical images of one prompt as memorized, and judge the claims.

    Examples:
        amnestic extract runs/sd14
        amnestic extract runs/sd14 --clique 5 --distance 0.1
    """
    from amnestic import stages
    from amnestic.attacks.extraction import CliqueExtraction

    with progress_bars() as show:
        record = stages.extract(run, CliqueExtraction(clique=clique, distance=distance), progress=show)
    if record is None:
        return
    if as_json:
        print_record_json(record)
    else:
        print_extraction(record.id, record.data)
