"""Audits of a testbed that are small enough for a notebook."""

import csv
import io
from pathlib import Path

from amnestic.audit.request import AuditRequest
from amnestic.core.store import write_atomically
from amnestic.testbed.bundled import Testbed

Rows = list[dict[str, str]]


def small_audit(
    testbed: Testbed, out: Path, *, works: int = 4, lower: int = 0, heldout: int = 4, base: int = 8, n_seeds: int = 2
) -> AuditRequest:
    """A small audit of a testbed's model at the settings of its contract; writes the prompt list beside `out`.

    Args:
        testbed: Which one.
        out: Run folder; the list is ``OUT-prompts.csv``.
        works: Works of the top rung, the first of the testbed's list.
        lower: Works of every other rung.
        heldout: Works that the model never saw.
        base: Ordinary prompts, from every second one of the list; `other_pairs` has the others.
        n_seeds: Images per prompt.

    Returns:
        What `amnestic.stages.audit` is asked; `dataclasses.replace` asks the same of another model.
    """
    rows = _chosen(testbed.rows(), works, lower, heldout, base)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    listed = out.with_name(f"{out.name}-prompts.csv")
    write_atomically(listed, text.getvalue())
    descriptors = testbed.folder / "descriptors"
    return AuditRequest(
        model=str(testbed.folder / "pipeline"), prompts=listed, references=testbed.folder, out=out,
        sampling=testbed.sampling, n_seeds=n_seeds, clip=f"local-dir:{descriptors / 'clip-mini'}",
        bundled=descriptors / "sscd-mini",
    )  # fmt: skip


def other_pairs(testbed: Testbed, out: Path) -> Path:
    """Ordinary captioned images that no `small_audit` asks for, so that they can be trained on.

    Args:
        testbed: Which one.
        out: Parquet file that is written.

    Returns:
        `out`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(testbed.folder / "base.parquet")
    written = pa.BufferOutputStream()
    parquet.write_table(table.take(list(range(1, len(table), 2))), written)
    write_atomically(out, written.getvalue().to_pybytes())
    return out


def _chosen(rows: Rows, works: int, lower: int, heldout: int, base: int) -> Rows:
    """The first prompts of some works of every rung, then controls."""
    first: dict[str, dict[str, str]] = {}
    for row in rows:
        first.setdefault(row["work"] or row["id"], row)
    by_label: dict[str, Rows] = {}
    for row in first.values():
        by_label.setdefault(row["label"], []).append(row)
    verbatim = by_label.get("VM", [])
    rungs = sorted({int(row["rung"]) for row in verbatim})
    found: Rows = []
    for rung in rungs:
        most = works if rung == rungs[-1] else lower
        found += [row for row in verbatim if int(row["rung"]) == rung][:most]
    return [*found, *by_label.get("heldout", [])[:heldout], *by_label.get("base", [])[::2][:base]]
