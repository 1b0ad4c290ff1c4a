"""The page on whether memorization is local: one HTML file that stands on its own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from amnestic.report import wording
from amnestic.report.before_after_rows import shown
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.html import fill, rows
from amnestic.report.locality_answer import answer, iou_of
from amnestic.report.locality_figures import (
    activations_figure,
    agreement_figure,
    distances_figure,
    map_figure,
    rounds_figure,
    starts_figure,
)
from amnestic.report.subspace_figures import short_site
from amnestic.report.subspace_page import Drawn
from amnestic.report.wording import NOT_MEASURED, Facts, percent, scaled

if TYPE_CHECKING:
    from torch import Tensor

KINDS = {
    "within_found": "found, one image", "across_found": "found, different images",
    "within_memorized": "prompts, memorized works", "found_with_memorized": "found with memorized prompts",
    "within_natural": "ordinary prompts", "within_heldout": "found, one held-out image",
}  # fmt: skip
SETS = {
    "found": "found, one image", "memorized": "prompts, memorized works", "natural": "ordinary prompts",
    "heldout": "found, one held-out image", "starts": "random starts",
}  # fmt: skip
CONVENTIONS = {
    1.0: "Two empty masks count as IoU 1, as in the paper.",
    0.0: "Two empty masks count as IoU 0, as in the code of ConceptPrune.",
}
_WORDS = {"starts": "starts", "found": "found", "came": "came back", "moved": "moved"}
LEFT_OUT = "Two empty masks have no IoU: such pairs are left out."


def render_locality(data: Mapping[str, Any], tensors: Mapping[str, "Tensor"], made_by: Mapping[str, Any]) -> str:
    """What `amnestic locality` found, as one HTML file.

    Args:
        data: Of its record; any part may be missing, and names of works may be hostile and stay text.
        tensors: Of its record: coordinates of the maps.
        made_by: What was asked, as ``parameters``.

    Returns:
        HTML in UTF-8 without scripts and without addresses to fetch from; what is missing, `None` or NaN is said to be
        not measured.
    """
    found = locality_drawings(data, tensors)
    context = {
        "keys": list(_keys(data)), "settings": list(rows(mapping(made_by.get("parameters")))), "answer": answer(data),
        "figures": [d for d in found if d.svg], "left_out": [d for d in found if not d.svg],
        "starts": [_start_row(row) for row in listed(data.get("starts"))],
        "sets": list(SETS.values()), "activations": [_activation_row(row) for row in listed(data.get("activations"))],
        "kinds": list(KINDS.values()), "agreement": list(_agreement(mapping(data.get("agreement")))),
        "rounds": [_round_row(row) for row in listed(mapping(data.get("rounds")).get("rows"))],
        "ended": str(mapping(data.get("rounds")).get("ended") or ""),
        "round_method": str(mapping(mapping(data.get("rounds")).get("method")).get("name") or NOT_MEASURED),
        "notes": [str(note) for note in data.get("notes") or ()],
    }  # fmt: skip
    return fill("locality.html.j2", context)


def _keys(data: Facts) -> Iterator[tuple[str, str, str]]:
    """Name, value and small print of the figures in the header."""
    overall, natural = mapping(data.get("overall")), mapping(data.get("natural"))
    for group, words in (("memorized", "memorized works"), ("heldout", "held-out works")):
        rate = mapping(overall.get(group))
        yield f"Random starts that bring the image, {words}", percent(real(rate.get("estimate"))), (
            f"95\u00a0% interval {wording.interval(rate)}"
        )  # fmt: skip
    yield "Distance of two ordinary prompts, median", scaled(real(natural.get("median"))), (
        f"two draws from N(0, I): {scaled(real(data.get('gaussian_distance')))}"
    )  # fmt: skip


def _start_row(row: Facts) -> tuple[str, ...]:
    geometry, came = mapping(row.get("geometry")), mapping(row.get("came"))
    medians = (scaled(real(mapping(geometry.get(key)).get("median"))) for key in ("starts", "found", "moved"))
    ratios = (scaled(real(geometry.get(key))) for key in ("came_to_natural", "to_starts"))
    share = f"{percent(real(came.get('estimate')))} of {shown(count(came.get('n')))}"
    return (
        str(row.get("work") or "without a name"), wording.named(str(row.get("group"))), share, wording.interval(came),
        percent(real(mapping(row.get("at_start")).get("estimate"))), *medians, *ratios,
        percent(real(geometry.get("own_nearest"))),
    )  # fmt: skip


def _activation_row(row: Facts) -> tuple[str, ...]:
    name = f"{short_site(str(row.get('site')))} ({row.get('kind')})"
    return (name, *(scaled(real(row.get(key))) for key in SETS))


def _agreement(found: Facts) -> Iterator[tuple[str, str, str, list[tuple[str, list[tuple[str, str]]]]]]:
    """Name, convention, how many units, and rows of IoU with the share of empty pairs."""
    for name, one in found.items():
        facts = mapping(one)
        empty = real(facts.get("empty"))
        counts = mapping(facts.get("units"))
        sizes = "; ".join(
            f"{SETS.get(group, group)}: median {_middle(values)} units" for group, values in counts.items()
        )
        lines = [(short_site(str(row.get("site"))), [_cell(mapping(row.get("kinds")), kind) for kind in KINDS])
                 for row in listed(facts.get("layers"))]  # fmt: skip
        yield (
            str(name),
            LEFT_OUT if empty is None else CONVENTIONS.get(empty, f"Two empty masks count {empty:g}."),
            sizes,
            lines,
        )


def _cell(kinds: Facts, kind: str) -> tuple[str, str]:
    share = real(mapping(kinds.get(kind)).get("empty_share"))
    return scaled(iou_of(kinds, kind)), "no pairs" if share is None else f"{percent(share)} empty"


def _middle(values: object) -> str:
    known = sorted(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    return str(known[(len(known) - 1) // 2]) if known else NOT_MEASURED


def _round_row(row: Facts) -> tuple[str, ...]:
    rates = [mapping(row.get(key)) for key in ("plain", "attacked", "heldout_attacked")]
    return (
        str(row.get("round")), shown(count(row.get("units"))), percent(real(row.get("share"))),
        *(f"{percent(real(rate.get('estimate')))} ({wording.interval(rate)})" if rate else NOT_MEASURED
          for rate in rates),
        *(_median(mapping(row.get(key))) for key in ("likeness", "alignment")),
    )  # fmt: skip


def _median(found: Facts) -> str:
    middle = real(found.get("median"))
    return NOT_MEASURED if middle is None else f"{scaled(middle)} ± {scaled(real(found.get('mad')))}"


_Entry = tuple[str, str, str, str]


def locality_drawings(data: Facts, tensors: Mapping[str, "Tensor"]) -> list[Drawn]:
    """Every figure with its title and how to read it; one without a drawing says why it is not there.

    Args:
        data: As `render_locality` takes it.
        tensors: Likewise.
    """
    entries = [_starts(data), *_maps(data, tensors), _distances(data), _activations(data), *_units(data), _rounds(data)]
    return [
        Drawn(Markup(svg), title, text if svg else why)  # noqa: S704 - made and escaped by matplotlib
        for svg, title, text, why in entries
    ]


def _starts(data: Facts) -> _Entry:
    return (
        starts_figure(listed(data.get("starts"))), "From random starts",
        "How many searches from N(0, I) end at an embedding that draws the image. Held-out images are what the same "
        "search can force out of the model without memory of them.",
        NOT_MEASURED,
    )  # fmt: skip


def _maps(data: Facts, tensors: Mapping[str, "Tensor"]) -> Iterator[_Entry]:
    drawable = [row for row in listed(data.get("maps")) if row.get("tensor") in tensors]
    for number, row in enumerate(drawable):
        principal = row.get("how") == "principal"
        by = "its two axes of largest variance" if principal else "t-SNE, whose distances mean nothing"
        yield (
            map_figure(tensors[str(row["tensor"])].numpy(), row, number), f"Map of {row.get('work')}",
            f"By {by}. A line joins a start with what was found from it. If one region held the image, lines would "
            "run together there.",
            NOT_MEASURED,
        )  # fmt: skip
    if not drawable:
        yield "", "Map of starts and results", "", NOT_MEASURED


def _distances(data: Facts) -> _Entry:
    sets: list[tuple[str, Facts]] = []
    if real(mapping(data.get("natural")).get("median")) is not None:
        sets.append(("ordinary prompts", mapping(data.get("natural"))))
    for row in listed(data.get("starts")):
        found = mapping(row.get("geometry"))
        apart = {word: mapping(found.get(key)) for key, word in _WORDS.items()}
        if apart[_WORDS["came"]] == apart[_WORDS["found"]]:
            del apart[_WORDS["came"]]  # all of them bring it
        sets += [(f"{row.get('work')} {word}", one) for word, one in apart.items()
                 if real(one.get("median")) is not None]  # fmt: skip
    return (
        distances_figure(sets, real(data.get("gaussian_distance"))), "Distances",
        "Dots are medians, thick bars hold half, thin ones 90 % of the distances of every two embeddings; “came back” "
        "are those that bring the image, “moved” is the way from each start to its result. Random starts are "
        "far apart in so many dimensions by themselves.",
        NOT_MEASURED,
    )  # fmt: skip


def _activations(data: Facts) -> _Entry:
    return (
        activations_figure(listed(data.get("activations"))), "What layers say",
        "How far apart activations are, layer by layer, beside ordinary prompts at 1. If one image meant one state of "
        "a layer, its dot would lie far to the left of the square. Value layers, then feed-forward layers.",
        NOT_MEASURED,
    )  # fmt: skip


def _units(data: Facts) -> Iterator[_Entry]:
    for number, (name, found) in enumerate(mapping(data.get("agreement")).items()):
        yield (
            agreement_figure(listed(mapping(found).get("layers")), str(name), number), f"Units by {name}",
            "How far the units agree that single inputs choose. If an image lay in certain weights, embeddings of one "
            "image would agree far more than those of different images.",
            NOT_MEASURED,
        )  # fmt: skip


def _rounds(data: Facts) -> _Entry:
    return (
        rounds_figure(listed(mapping(data.get("rounds")).get("rows"))), "Pruning again and again",
        "Round 0 is the unpruned model. Every round also removes what the last attack still used. A curve that stays "
        "up says that the image is not in what was removed; a fall of the lower curve is the cost.",
        f"{NOT_MEASURED}; ask for rounds",
    )  # fmt: skip
