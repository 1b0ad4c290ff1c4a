"""The whole story on the bundled testbed: audited, located, pruned, audited again."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amnestic.audit.request import AuditRequest
from amnestic.audit.selection import Selection
from amnestic.core.edit_file import HEADER
from amnestic.parallel import team
from amnestic.stages.audit import audit
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.locating import LocateRequest, locate
from amnestic.stages.pruning import PruneRequest, prune
from amnestic.testbed.bundled import Testbed

NEMO = {"similarity": "ssim"}
"""The testbed's latents are too small for the published three scales. Why NeMo: ``docs/results/pruning.json``."""
QUARTER = Selection(part=(1, 4))


def demo_request(testbed: Testbed, out: Path, *, quick: bool = False, shortcut: Sequence[str] = ()) -> AuditRequest:
    """The audit of a testbed's model at the settings of its contract.

    Args:
        testbed: Which one.
        out: Run folder.
        quick: Only a part of the prompts: some works of each rung and some controls.
        shortcut: The command that asks for it.
    """
    descriptors = testbed.folder / "descriptors"
    return AuditRequest(
        model=str(testbed.folder / "pipeline"), prompts=_quick_prompts(testbed, out) if quick else testbed.prompts,
        references=testbed.folder, out=out, sampling=testbed.sampling, clip=f"local-dir:{descriptors / 'clip-mini'}",
        bundled=descriptors / "sscd-mini", shortcut=tuple(shortcut),
    )  # fmt: skip


def demo(request: AuditRequest, testbed: Testbed, *, progress: Progress = silent) -> list[tuple[Path, dict[str, Any]]]:
    """Audit, locate a quarter of the works that replicate, prune, audit the pruned model beside the first audit.

    Args:
        request: From `demo_request`.
        testbed: The same one.
        progress: Told how far each stage is.

    Returns:
        Folder and summary of each audit; none in processes other than the main one.
    """
    before = audit(request, progress=progress)
    located = locate(
        LocateRequest(run=request.out, method="nemo", options=NEMO, selection=QUARTER),
        progress=progress,
    )
    if located is not None and located.data["outcome"] == "found":
        prune(PruneRequest(run=request.out, out=_pruned(request), located=located.id), progress=progress)
    team(request.device).wait()  # the others join again when the pruned model is there
    found = [] if before is None else [(request.out, before)]
    if not (_pruned(request) / HEADER).is_file():
        return found
    after = replace(
        request, model=str(_pruned(request)), out=request.out / "pruned" / "audit", before=request.out,
        real_images=testbed.folder / "base.parquet",
    )  # fmt: skip
    summary = audit(after, progress=progress)
    return found if summary is None else [*found, (after.out, summary)]


def _pruned(request: AuditRequest) -> Path:
    return request.out / "pruned" / "model"


def _quick_prompts(testbed: Testbed, run: Path) -> Path:
    kept: dict[tuple[str, str], int] = {}
    rows = []
    for row in testbed.rows():
        key = (row["label"], row["rung"])
        kept[key] = kept.get(key, 0) + 1
        if kept[key] <= (8 if row["label"] in ("heldout", "base") else 4):
            rows.append(row)
    path = run.parent / f".{run.name}-prompts.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
