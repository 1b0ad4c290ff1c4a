"""What a finished audit rests on: the scores that its summary was made from, and the descriptors behind them."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amnestic.core.errors import StoreError
from amnestic.core.records import Descriptor, digest
from amnestic.core.store import Record, Run
from amnestic.stages.finished import summary_of

_ABSENT = -2.0  # no cosine


def scored(run: Run) -> Record:
    """The scores that ``summary.json`` and ``matches.parquet`` hold.

    A run may have been scored several times, by other thresholds, descriptors or originals. Which record counts is
    read from what is in the files, never from how old they are: a copied run is the same run.

    Raises:
        StoreError: If the audit has not finished, or was interrupted while it was scored again.
    """
    names = run.records("score")
    if not names or not (run.folder / "matches.parquet").exists():
        raise StoreError(f"{run.folder} has not finished; issue its command again first")
    summary, paired, originals = summary_of(run), _paired(run), _originals(run)
    fitting = [record for record in map(run.record, sorted(names)) if _decided(record, summary, paired)]
    if not fitting:
        raise StoreError(f"{run.folder}: summary.json and its scores are not of one scoring; issue its command again")
    return max(fitting, key=lambda r: (r.parents[1:2] == (originals,), _agreeing(r.data, summary)))


def _decided(record: Record, summary: Mapping[str, Any], paired: Tensor) -> bool:
    """Whether these scores may be those of a summary and a table: of one protocol, and the same numbers."""
    same = all(record.data[key] == summary.get(key) for key in ("protocol", "descriptor", "threshold"))
    return same and torch.equal(record.tensors["paired"].float().flatten().nan_to_num(_ABSENT), paired)


def _agreeing(data: Mapping[str, Any], summary: Mapping[str, Any]) -> int:
    return sum(summary.get(key) == value for key, value in data.items())


def _paired(run: Run) -> Tensor:
    """Scores as the table holds them, in its order."""
    found = [row["sscd_paired"] for row in run.read_table("matches", ["sscd_paired"])]
    return torch.tensor([_ABSENT if value is None else value for value in found])


def _originals(run: Run) -> str:
    """Digest of the originals that the run names, as `amnestic.sources.references.ReferenceSet` has it; else empty."""
    try:
        rows = json.loads((run.folder / "references.json").read_text("utf-8"))
        return digest([[row["id"], row["sha256"], row["status"]] for row in rows])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def threshold_of(run: Run) -> float:
    """The threshold of a finished audit."""
    return float(scored(run).data["threshold"]["value"])


def described(run: Run) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Descriptors behind the scores of a finished audit.

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
