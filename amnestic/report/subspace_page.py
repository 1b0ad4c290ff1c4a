"""The page on whether memorized works share a subspace: one HTML file that stands on its own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from amnestic.report import wording
from amnestic.report.before_after_rows import STAGES, shown
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.html import fill, rows
from amnestic.report.subspace_answer import (
    MEAN_OVER_LAYERS,
    answer,
    controls_in_words,
    is_found,
    layers_of,
    whole_of,
)
from amnestic.report.subspace_figures import (
    growth_figure,
    iou_matrix_figure,
    layer_overlap_figure,
    short_site,
    step_heatmap_figure,
)
from amnestic.report.subspace_transfer import transfer_of
from amnestic.report.wording import NOT_MEASURED, Facts, percent, scaled

if TYPE_CHECKING:
    from torch import Tensor

_NOT_ASKED = "-"  # of a row that has no such number
_NUMBERS = ("within_memorized", "with_controls", "within_controls", "random", "random_with_controls")


class LayerRow(NamedTuple):
    """One line of the table of layers; every value is ready to be shown."""

    name: str
    path: str
    share_memorized: str
    share_controls: str
    within_memorized: str
    with_controls: str
    within_controls: str
    random: str
    random_with_controls: str
    empty_share: str
    p_value: str
    p_adjusted: str
    found: bool


class Drawn(NamedTuple):
    """A figure with its title, and how to read it or why it is not there."""

    svg: Markup
    title: str
    text: str


def render_subspace(data: Mapping[str, Any], tensors: Mapping[str, "Tensor"], made_by: Mapping[str, Any]) -> str:
    """What `amnestic locate --analyze` found, as one HTML file.

    Args:
        data: Of its record: ``layers matrix convention notes whole_test share_memorized share_controls sets transfer
            growth rungs steps control_kinds seconds``; any may be missing, and names of works may be hostile and stay
            text.
        tensors: Of its record: ``step_shares`` (K layers x T steps, in [0, 1]) where the method keeps steps.
        made_by: ``name`` and ``parameters`` of the localizer.

    Returns:
        HTML in UTF-8 without scripts and without addresses to fetch from; what is missing, `None` or NaN is said to be
        not measured.
    """
    found = answer(data)
    figures, left_out = _figures(data, tensors)
    context = {
        "keys": list(_keys(data)), "settings": list(_settings(data, made_by)), "answer": found, "figures": figures,
        "left_out": left_out, "groups": list(_groups(data)), "transfer": transfer_of(mapping(data.get("transfer"))),
        "convention": str(data.get("convention") or ""), "notes": [str(note) for note in data.get("notes") or ()],
        "sets": [(f"set {i}", [str(work or "without a name") for work in works]) for i, works in _sets(data)],
    }  # fmt: skip
    return fill("subspace.html.j2", context)


def _sets(data: Facts) -> Iterator[tuple[int, Sequence[object]]]:
    return enumerate(data.get("sets") or (), start=1)


def _keys(data: Facts) -> Iterator[tuple[str, str, str]]:
    """Name, value and small print of the figures in the header."""
    whole, test = whole_of(data), mapping(data.get("whole_test"))
    ours, theirs, chance = (scaled(real(whole.get(key))) for key in ("within_memorized", "with_controls", "random"))
    yield "IoU of memorized sets with each other", ours, f"chance: {chance}"
    yield "IoU of memorized with control sets", theirs, f"chance: {scaled(real(whole.get('random_with_controls')))}"
    yield "Permutation p, all layers together", wording.p_value(real(test.get("p_value"))), "one-sided"


def _settings(data: Facts, made_by: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    whole, test, transfer = whole_of(data), mapping(data.get("whole_test")), mapping(data.get("transfer"))
    yield "Method", str(made_by.get("name") or "not given")
    yield from rows(mapping(made_by.get("parameters")))
    sizes = sorted({len(works) for _, works in _sets(data)})
    each = f", of {' or '.join(map(str, sizes))} works each" if sizes else ""
    yield "Memorized sets", _how_many(data.get("share_memorized"), each)
    kinds = controls_in_words(mapping(data.get("control_kinds")))
    yield "Control sets", _how_many(data.get("share_controls"), f", of {kinds}" if kinds else "")
    yield "Units searched", f"{shown(count(whole.get('n_units')))} in {len(layers_of(data))} layers"
    n, exact = count(test.get("n_permutations")), test.get("exact")
    how = "" if not n else ", all there are" if exact else ", random ones"
    yield "Labellings of the test over all layers", (shown(n) if n else NOT_MEASURED) + how
    yield "Images per work and mask in the transfer matrix", shown(count(transfer.get("seeds")))
    yield "Threshold above which an image is a copy", wording.number(real(transfer.get("threshold")))
    yield "Time, in seconds", wording.number(real(data.get("seconds")), 1)


def _how_many(values: object, each: str) -> str:
    known = isinstance(values, Sequence) and not isinstance(values, str)
    return f"{len(values)}{each}" if known and isinstance(values, Sequence) else NOT_MEASURED


def _groups(data: Facts) -> Iterator[tuple[str, list[LayerRow]]]:
    """Layers by stage in order of computation, then the rows over layers."""
    layers = layers_of(data)
    for stage in dict.fromkeys([*STAGES, *(str(row.get("stage")) for row in layers)]):
        inside = [_layer_row(row) for row in layers if str(row.get("stage")) == stage]
        if inside:
            yield stage, inside
    over = [_layer_row(row) for row in listed(data.get("layers")) if row not in layers]
    if over:
        yield "over layers", over


def _layer_row(row: Facts) -> LayerRow:
    site, single = str(row.get("site")), bool(row.get("stage"))
    is_mean = site == MEAN_OVER_LAYERS
    values = {key: scaled(real(row.get(key))) for key in _NUMBERS}
    shares = {key: percent(real(row.get(key))) for key in ("share_memorized", "share_controls", "empty_share")}
    if is_mean:
        shares = dict.fromkeys(shares, _NOT_ASKED)
    return LayerRow(
        name=short_site(site), path=site if short_site(site) != site else "", **values, **shares,
        p_value=_NOT_ASKED if is_mean else wording.p_value(real(row.get("p_value"))),
        p_adjusted=wording.p_value(real(row.get("p_adjusted"))) if single else _NOT_ASKED,
        found=single and is_found(row),
    )  # fmt: skip


def _figures(data: Facts, tensors: Mapping[str, "Tensor"]) -> tuple[list[Drawn], list[Drawn]]:
    """The figures that there are, and what is not there."""
    every = [
        Drawn(Markup(svg), title, text if svg else why)  # noqa: S704 - made and escaped by matplotlib
        for svg, title, text, why in (_steps(data, tensors), _matrix(data), _overlap(data), *_growth(data))
    ]
    return [d for d in every if d.svg], [d for d in every if not d.svg]


_Entry = tuple[str, str, str, str]


def _steps(data: Facts, tensors: Mapping[str, "Tensor"]) -> _Entry:
    steps, shares = mapping(data.get("steps")), tensors.get("step_shares")
    svg = "" if shares is None or not steps else step_heatmap_figure(steps["sites"], steps["stages"], shares.tolist())
    return (
        svg, "Where and when, for set 1",
        "A row is a layer, a column a denoising step, and the colour the share of the layer's weights that the first "
        "memorized set chooses at this step. Bright rows are layers that hold much of it, bright columns steps at "
        "which it acts.",
        f"{NOT_MEASURED}; only wanda-subspace keeps what each denoising step chooses",
    )  # fmt: skip


def _matrix(data: Facts) -> _Entry:
    matrix = data.get("matrix") or ()
    n_memorized, n_controls = (len(data.get(key) or ()) for key in ("share_memorized", "share_controls"))
    labels = [*(f"set {i + 1}" for i in range(n_memorized)), *(f"control {i + 1}" for i in range(n_controls))]
    fits = len(labels) == len(matrix)
    return (
        iou_matrix_figure(labels, matrix, [i < n_memorized for i in range(len(labels))]) if fits else "",
        "Every two sets",
        "The block at the top left holds memorized sets, the one at the bottom right control sets. A shared subspace "
        "shows as a memorized block brighter than the blocks beside it; a picture that is bright all over says that "
        "the method chooses much the same for any prompts.",
        NOT_MEASURED,
    )  # fmt: skip


def _overlap(data: Facts) -> _Entry:
    return (
        layer_overlap_figure(listed(data.get("layers"))), "Layer by layer",
        "In each layer, a dot far to the right of the square means that memorized sets share more with each other than "
        "with control sets; the band is this difference. The bar is what chance gives for masks as large as the "
        "memorized ones. A star marks layers that pass the test after Holm's correction.",
        NOT_MEASURED,
    )  # fmt: skip


def _growth(data: Facts) -> Iterator[_Entry]:
    yield (
        growth_figure(listed(data.get("growth"))), "With more prompts",
        "If works share a subspace, the mask of a few already resembles that of all: both curves flatten early. A "
        "share that keeps growing means that each work adds units of its own. The lower curve ends at 1 by itself.",
        NOT_MEASURED,
    )  # fmt: skip
    yield (
        growth_figure(listed(data.get("rungs"))), "With more repetitions",
        "Each dot is the mask of equally many works of one rung of the ladder. The top rung is compared with other "
        "works of its own, which is what to measure the lower ones against.",
        f"{NOT_MEASURED}; it needs works on at least two rungs of a multiplicity ladder",
    )  # fmt: skip
