"""What a finished audit rests on: its latest scores, and the descriptors behind them."""

import torch
from torch import Tensor

from amnestic.core.errors import StoreError
from amnestic.core.records import Descriptor
from amnestic.core.store import Record, Run


def scored(run: Run) -> Record:
    """The latest scores of a finished audit.

    Raises:
        StoreError: If it has not finished.
    """
    names = run.records("score")
    if not names or not (run.folder / "matches.parquet").exists():
        raise StoreError(f"{run.folder} has not finished; issue its command again first")
    return run.record(names[-1])


def threshold_of(run: Run) -> float:
    """The threshold of a finished audit."""
    return float(scored(run).data["threshold"]["value"])


def described(run: Run) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Descriptors behind the latest scores of a finished audit.

    Returns:
        Those of the images ``(P, S, D)``, those of the originals ``(R, D)``, and the row of each original by its id.

    Raises:
        StoreError: If they are not there any more.
    """
    score, settings = scored(run), run.manifest()["settings"]
    wanted, references = score.data["descriptor"]["id"], score.parents[1]
    for record in map(run.record, reversed(run.records("embed"))):
        if Descriptor(**record.data["descriptor"]).id == wanted and record.parents[1] == references:
            generated = record.tensors["generated"].reshape(settings["n_prompts"], len(settings["seeds"]), -1)
            place = {name: i for i, name in enumerate(record.data["references"])}
            return generated, torch.as_tensor(record.tensors["references"]), place
    raise StoreError(f"{run.folder} lacks the descriptors behind its scores; issue its command again")
