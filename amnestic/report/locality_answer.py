"""Is memorization local? The outcome in plain words, without a claim that the numbers do not carry."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.wording import NOT_MEASURED, Facts, percent, scaled

ALL_LAYERS = "all layers"
NOT_CONFINED = "Not local among embeddings: searches from random points, far from any prompt, bring memorized images"


class Answer(NamedTuple):
    """The outcome: one sentence, and what it rests on."""

    headline: str
    sentences: tuple[str, ...]


def answer(data: Facts) -> Answer:
    """What the study says of embeddings, activations, weights and repeated pruning.

    Args:
        data: Of a record as `amnestic locality` leaves it; missing parts are said to be not measured.

    Returns:
        A headline that says "not local" only of images that random starts bring more often than any held-out one, with
        intervals over starts apart; and the numbers.
    """
    overall = mapping(data.get("overall"))
    ours, theirs = mapping(overall.get("memorized")), mapping(overall.get("heldout"))
    said = [_starts(ours, theirs), *_distances(data), _activations(listed(data.get("activations"))),
            *_weights(mapping(data.get("agreement"))), _rounds(mapping(data.get("rounds")))]  # fmt: skip
    return Answer(_headline(listed(data.get("starts"))), tuple(said))


def whole_of(found: Facts) -> Facts:
    """Kinds of pairs over all layers of one method, empty without them."""
    rows = listed(found.get("layers"))
    return mapping(next((row.get("kinds") for row in rows if row.get("site") == ALL_LAYERS), None))


def iou_of(kinds: Facts, kind: str) -> float | None:
    """Mean IoU of a kind of pairs by the convention of the record."""
    return real(mapping(kinds.get(kind)).get("mean"))


def _headline(rows: Sequence[Facts]) -> str:
    ours, theirs = ([mapping(r.get("came")) for r in rows if r.get("group") == g] for g in ("memorized", "heldout"))
    least = [low for rate in ours if (low := real(rate.get("lower"))) is not None]
    most = [high for rate in theirs if (high := real(rate.get("upper"))) is not None]
    if not least:
        return "Not measured: whether random starts lead to memorized images."
    if not most:
        return "Undecided: without held-out images, what random starts lead to may be the strength of the search alone."
    above = sum(low > max(most) for low in least)
    if not above:
        return "Undecided: random starts lead to no memorized image clearly more often than to held-out ones."
    return f"{NOT_CONFINED}: {above} of {len(least)}, each more often than any of {len(most)} held-out ones."


def _starts(ours: Facts, theirs: Facts) -> str:
    if real(ours.get("estimate")) is None:
        return f"Share of random starts that bring the image: {NOT_MEASURED}."
    return (
        f"Share of random starts that bring the image: {percent(real(ours.get('estimate')))} "
        f"({wording.interval(ours)}) for memorized works, {percent(real(theirs.get('estimate')))} "
        f"({wording.interval(theirs)}) for held-out ones. These intervals are for other works and rest on "
        f"{count(ours.get('n'))} of each kind; those of single images are for other starts."
    )


def _distances(data: Facts) -> Iterator[str]:
    rows = [mapping(row.get("geometry")) for row in listed(data.get("starts")) if row.get("group") == "memorized"]
    ratios = {key: _mean([real(row.get(key)) for row in rows]) for key in
              ("came_to_natural", "to_starts", "moved_to_starts", "own_nearest")}  # fmt: skip
    if ratios["to_starts"] is None:
        yield f"Distances of what was found: {NOT_MEASURED}."
        return
    back = ratios["came_to_natural"]
    yield (
        f"Distances of embeddings that bring one image: {NOT_MEASURED}. "
        if back is None
        else f"Embeddings that bring one image lie {scaled(back)} times as far apart as ordinary prompts. "
    ) + (
        f"But random starts are far apart by themselves: what was found is {scaled(ratios['to_starts'])} times as "
        f"dispersed as the starts, a search moved {scaled(ratios['moved_to_starts'])} times the distance of two "
        f"starts, and {percent(ratios['own_nearest'])} of the results lie nearest to the start that they came from."
    )


def _activations(rows: Sequence[Facts]) -> str:
    pairs = [(real(r.get("found")), real(r.get("memorized"))) for r in rows]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not known:
        return f"Activations of embeddings of one image beside those of different memorized prompts: {NOT_MEASURED}."
    more = sum(one > other for one, other in known)
    return (
        f"Embeddings of one image make {more} of {len(known)} layers speak more differently from each other than "
        "prompts of different memorized works do."
    )


def _weights(agreement: Facts) -> Iterator[str]:
    for name, found in agreement.items():
        kinds = whole_of(mapping(found))
        keys = ("within_found", "across_found", "within_memorized", "within_heldout", "within_natural")
        one, across, prompts, control, natural = (scaled(iou_of(kinds, key)) for key in keys)
        yield (
            f"Units by {name}, mean IoU over all layers together: {one} for embeddings of one image, {across} for "
            f"those of different memorized images, {control} for those of one held-out image, {prompts} for prompts of "
            f"different memorized works, {natural} for ordinary prompts."
        )


def _rounds(found: Facts) -> str:
    rows = listed(found.get("rows"))
    if not rows:
        return f"Pruning again and again: {NOT_MEASURED}."
    last, ended = rows[-1], found.get("ended")
    plain, attacked = (percent(real(mapping(last.get(key)).get("estimate"))) for key in ("plain", "attacked"))
    likeness, share = scaled(real(mapping(last.get("likeness")).get("median"))), percent(real(last.get("share")))
    times = count(last.get("round"))
    return (
        f"After {times} round{'' if times == 1 else 's'} of pruning ({share} of the weights) {plain} of the works come "
        f"back by their prompts and {attacked} under a fresh attack; images of ordinary prompts keep a likeness of "
        f"{likeness} to those of the unpruned model.{f' It ended because {ended}.' if ended else ''}"
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
