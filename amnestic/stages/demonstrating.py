"""The whole story on the bundled testbed: audited, pruned, brought back by an attack, unlearned, attacked in vain."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amnestic.audit.request import AuditRequest
from amnestic.audit.selection import Selection
from amnestic.core.edit_file import HEADER
from amnestic.core.store import Record, Run, write_atomically
from amnestic.parallel import team
from amnestic.stages.attacking import AttackRequest, attack
from amnestic.stages.auditing import audit
from amnestic.stages.finetuning import FinetuneRequest, finetune
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.locating import LocateRequest, locate
from amnestic.stages.pruning import PruneRequest, prune_here
from amnestic.stages.sealing import seal_run
from amnestic.stages.surrogates import Wanted
from amnestic.testbed.bundled import Testbed

NEMO = {"similarity": "ssim", "refine": "witnessed"}
"""The testbed's latents are too small for the published three scales. Why NeMo: ``docs/results/pruning.json``."""
UNLEARNING = "guarded-retrack"
SETTINGS: dict[str, Any] = {
    "steps": 80, "forget_rows": 16, "retain_rows": 8, "learning_rate": 2e-3, "decay": "linear", "weight_decay": 0.0,
}  # fmt: skip
"""What unlearning few works takes on the testbed; how it was found: ``docs/adr/``."""
KEEP = (0, 10, 25, 50)
RETAIN, REAL = 0, 1
"""Every second ordinary pair is trained on, the others judge; audited base prompts are of the latter kind."""
N_TOP, N_LOWER, N_CONTROLS, ATTACKED = 8, 4, 8, 5


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One model of the story.

    Attributes:
        name: ``original``, ``pruned`` or ``unlearned``.
        folder: Of its audit.
        summary: Of its audit.
        attacked: The record of the attack on it, or `None` where none was made.
    """

    name: str
    folder: Path
    summary: Mapping[str, Any]
    attacked: Record | None = None


def demo_request(
    testbed: Testbed, out: Path, *, full: bool = False, shortcut: Sequence[str] = ()
) -> AuditRequest:  # fmt: skip
    """The audit of a testbed's model at the settings of its contract.

    Args:
        testbed: Which one.
        out: Run folder.
        full: All prompts, not some works of each rung and some controls.
        shortcut: The command that asks for it.
    """
    descriptors = testbed.folder / "descriptors"
    return AuditRequest(
        model=str(testbed.folder / "pipeline"), prompts=_listed(testbed, out, full=full),
        references=testbed.folder, out=out, sampling=testbed.sampling, clip=f"local-dir:{descriptors / 'clip-mini'}",
        bundled=descriptors / "sscd-mini", show_originals=True,  # the testbed's works are drawn by a program
        shortcut=tuple(shortcut),
    )  # fmt: skip


def demo(
    request: AuditRequest, testbed: Testbed, *, attacked: bool = True, progress: Progress = silent
) -> list[Chapter]:
    """Audit, locate all works that replicate, prune, audit again; attack some of the top rung, unlearn, attack again.

    Args:
        request: From `demo_request`.
        testbed: The same one.
        attacked: Whether the pruned model is attacked and an unlearned one is made; else the story ends after pruning.
        progress: Told how far each stage is.

    Returns:
        One chapter per model; none in processes other than the main one.
    """
    top = max(int(row["rung"]) for row in testbed.rows() if row["rung"])
    works = Selection(rung=top, limit=ATTACKED)
    return [c for c in _chapters(request, testbed, works, attacked, progress) if c is not None]


def _chapters(
    request: AuditRequest, testbed: Testbed, works: Selection, attacked: bool, progress: Progress
) -> Iterator[Chapter | None]:
    before = audit(request, progress=progress)
    yield None if before is None else Chapter(name="original", folder=request.out, summary=before)
    crew = team(request.device)
    located = locate(LocateRequest(run=request.out, method="nemo", options=NEMO), progress=progress)
    model = request.out / "pruned" / "model"
    crew.on_main(lambda: _cut(request, located, model, progress))
    if not (model / HEADER).is_file():
        return
    yield _edited("pruned", model, request, testbed, works if attacked else None, progress)
    if not attacked:
        return
    learned = request.out / "unlearned" / "model"
    finetune(
        FinetuneRequest(
            run=request.out, out=learned, references=testbed.folder, method=UNLEARNING, options=SETTINGS,
            surrogates_from=str(model), surrogates=Wanted(n=6), leave_out_copies=True,
            retain=_pairs(request, testbed, "retain", RETAIN),
        ), progress=progress,
    )  # fmt: skip
    team(request.device).wait()
    yield _edited("unlearned", learned, request, testbed, works, progress)


def _cut(request: AuditRequest, located: Record | None, model: Path, progress: Progress) -> None:
    if located is not None and located.data["outcome"] == "found":
        prune_here(PruneRequest(run=request.out, out=model, located=located.id), progress)


def _edited(
    name: str, model: Path, request: AuditRequest, testbed: Testbed, works: Selection | None, progress: Progress
) -> Chapter | None:
    """The audit of an edited model beside the first one, and the attack on it."""
    after = replace(
        request, model=str(model), out=request.out / name / "audit", before=request.out,
        real_images=_pairs(request, testbed, "real", REAL),
    )  # fmt: skip
    summary = audit(after, progress=progress)
    record = None
    if works is not None:
        team(request.device).wait()
        asked = AttackRequest(
            run=after.out,
            references=testbed.folder,
            selection=works,
            keep=KEEP,
            random=False,
            n_seeds=2,
            show_originals=True,
        )
        record = attack(asked, progress=progress)
    return None if summary is None else Chapter(name=name, folder=after.out, summary=summary, attacked=record)


def _pairs(request: AuditRequest, testbed: Testbed, name: str, half: int) -> Path:
    """Captioned images of one half of the ordinary prompts."""
    from pyarrow import parquet

    path, crew = request.out / f"{name}.parquet", team(request.device)
    if crew.is_main and not path.exists():
        table = parquet.read_table(testbed.folder / "base.parquet")
        parquet.write_table(table.take(list(range(half, len(table), 2))), path)
        seal_run(Run.open(request.out), path.name)
    crew.wait()
    return path


def _listed(testbed: Testbed, run: Path, *, full: bool) -> Path:
    """All prompts, or some works of each rung, more of the top one, and some controls; base prompts that only judge."""
    kept: dict[tuple[str, str], int] = {}
    rows, top, seen = [], max(row["rung"] for row in testbed.rows()), 0
    for row in testbed.rows():
        if row["label"] == "base":
            seen += 1
            if (seen - 1) % 2 != REAL:
                continue
        key = (row["label"], row["rung"])
        kept[key] = kept.get(key, 0) + 1
        most = N_CONTROLS if row["label"] in ("heldout", "base") else N_TOP if key == ("VM", top) else N_LOWER
        if full or kept[key] <= most:
            rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(testbed.rows()[0]))
    writer.writeheader()
    writer.writerows(rows)
    path = run.parent / f".{run.name}-prompts.csv"
    write_atomically(path, text.getvalue())
    return path
