"""Words, tables and figures of finished runs, records and findings."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.core.seal import check, printable
from amnestic.core.store import Record, Run
from amnestic.measures.overlap import expected_random_iou, iou
from amnestic.notebook.view import View, view_of
from amnestic.report import notebook_blocks as made
from amnestic.report.blocks import Block
from amnestic.report.locality_answer import answer
from amnestic.report.locality_page import locality_drawings
from amnestic.report.notebook_figures import losses_figure
from amnestic.report.wording import number
from amnestic.stages.finished import summary_of
from amnestic.stages.locating import units_of

if TYPE_CHECKING:
    from amnestic.report.findings import Findings

LOCALITY = {
    "starts": "From random starts", "map": "Map of ", "distances": "Distances", "activations": "What layers say",
    "units": "Units by ", "rounds": "Pruning again and again",
}  # fmt: skip
"""Parts of a study of locality, by how the titles of their figures begin."""


def show_summary(run: Path) -> View:
    """How many works replicate, with the interval, beside the controls.

    Args:
        run: Folder of a finished audit.

    Returns:
        The outcome in words, and rates as a figure.
    """
    return view_of(made.summary_blocks(summary_of(Run.open(run))))


def show_ladder(run: Path) -> View:
    """Similarity and rate by how often works were seen in training.

    Args:
        run: Folder of a finished audit.

    Returns:
        A figure.
    """
    return view_of(made.ladder_blocks(summary_of(Run.open(run))))


def show_change(run: Path) -> View:
    """What an edit changed: rates, means over the same prompts and seeds, and distances.

    Args:
        run: Folder of the audit of the edited model, made with ``before=FOLDER``.

    Returns:
        Words, a figure and a table.
    """
    return view_of(made.change_blocks(summary_of(Run.open(run))))


def show_layers(records: Mapping[str, Record]) -> View:
    """How many units of each layer were located.

    Args:
        records: Records of `amnestic.stages.locate`, by the name under which each is shown.

    Returns:
        A figure for each.
    """
    return view_of([block for name, one in records.items() for block in made.layers_blocks(name, one.data)])


def show_overlap(records: Mapping[str, Record]) -> View:
    """How much what was located overlaps, over all layers together, beside what chance gives for such sizes.

    Args:
        records: Two or more records of `amnestic.stages.locate`, by name, that chose units of the same layers.

    Returns:
        A table with a row per pair.

    Raises:
        InputError: If two of them searched different layers.
    """
    masks = {name: units_of(one).masks for name, one in records.items()}
    if len({tuple((site, mask.shape) for site, mask in one.items()) for one in masks.values()}) > 1:
        raise InputError(f"expected records of one kind of unit, got {', '.join(masks)}; compare those of one method")
    flat = {name: torch.cat([m.flatten() for m in one.values()]) for name, one in masks.items()}
    rows = []
    for (name, mask), (other, its) in combinations(flat.items(), 2):
        sizes = int(mask.sum()), int(its.sum())
        chance = expected_random_iou(sizes, len(mask))
        rows.append((f"{name} and {other}", *(f"{n:,}" for n in sizes), number(iou(mask, its)), number(chance)))
    head = ("pair", "units of the first", "units of the second", "IoU", "IoU by chance")
    return view_of([Block(head=head, rows=tuple(rows))])


def show_sharing(analyzed: Record) -> View:
    """Whether sets of works share a subspace: masks of disjoint sets beside those of control sets and chance.

    Args:
        analyzed: Record of `amnestic.stages.analyze`.

    Returns:
        Words and a figure.
    """
    return view_of(made.sharing_blocks(analyzed.data))


def show_verdict(attacked: Record) -> View:
    """What an attack brought back beside its controls, and reasons for doubt.

    Args:
        attacked: Record of `amnestic.stages.attack`.

    Returns:
        Words and tables.
    """
    return view_of(made.verdict_blocks(attacked.data))


def show_curve(attacked: Record, *, over: str = "step") -> View:
    """What came back by budget, works beside controls.

    Args:
        attacked: Record of `amnestic.stages.attack`.
        over: ``step`` or ``passes``, the only one that random search can be compared by.

    Returns:
        A figure.
    """
    return view_of(made.curve_blocks(attacked.data, over))


def show_locality(studied: Record, *parts: str) -> View:
    """What a study of locality found.

    Args:
        studied: Record of `amnestic.stages.locality`.
        *parts: Which figures: ``starts``, ``map``, ``distances``, ``activations``, ``units``, ``rounds``; none: the
            answer in words.

    Returns:
        Words or figures.

    Raises:
        InputError: If a part is unknown.
    """
    strange = [part for part in parts if part not in LOCALITY]
    if strange:
        hint = did_you_mean(strange[0], LOCALITY) or "; name another"
        raise InputError(f"expected parts of {', '.join(LOCALITY)}; got {strange[0]}{hint}")
    if not parts:
        told = answer(studied.data)
        return view_of([Block(words=(told.headline, *told.sentences))])
    wanted = tuple(LOCALITY[part] for part in parts)
    drawn = [d for d in locality_drawings(studied.data, studied.tensors) if d.title.startswith(wanted)]
    return view_of([Block(title=d.title, svg=str(d.svg), note=d.text) for d in drawn])


def show_losses(finetuned: Record) -> View:
    """Losses by step of training; the length of the gradient is left out.

    Args:
        finetuned: Record of `amnestic.stages.finetune`.

    Returns:
        A figure.
    """
    kept = {name.removeprefix("curve."): values for name, values in finetuned.tensors.items()}
    curves = {name: kept[name].tolist() for name in sorted(kept) if "gradient" not in name}
    data, name = finetuned.data, finetuned.made_by.name
    told = f"{name}: {data['steps']:,} steps, {data['seconds']} s, {data['weights']:,} weights changed."
    return view_of([Block(words=(told,), svg=losses_figure(curves))])


def show_findings(findings: "Findings") -> View:
    """The three findings in their own words, what was decided, and what they do not mean.

    Args:
        findings: Of `amnestic.stages.report`.

    Returns:
        Words.
    """
    return view_of(made.findings_blocks(findings))


def show_missing(findings: "Findings") -> View:
    """Everything that the findings do not know, and why.

    Args:
        findings: Of `amnestic.stages.report`.

    Returns:
        A table.
    """
    return view_of(made.missing_blocks(findings))


def show_gate(outcome: Mapping[str, Any]) -> View:
    """How a run was judged by limits on bounds.

    Args:
        outcome: Of `amnestic.stages.gate`.

    Returns:
        A line per limit.
    """
    return view_of(made.gate_blocks(outcome))


def show_seal(run: Path) -> View:
    """Whether a run is as it was sealed.

    Args:
        run: Run folder.

    Returns:
        The digest that stands for the whole run, and every file that differs.
    """
    found = check(run)
    rows = tuple((printable(d.name), str(d.kind)) for d in found.differences)
    differ = "1 file differs" if len(rows) == 1 else f"{len(rows)} files differ"
    said = f"{differ} from the seal" if rows else f"{found.files} files are as they were sealed"
    return view_of([Block(words=(f"{said}.",), rows=rows, note=f"digest: {found.digest}")])
