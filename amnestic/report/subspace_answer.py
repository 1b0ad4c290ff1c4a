"""Is the subspace shared? The outcome in plain words, without a claim that the numbers do not carry."""

from collections.abc import Sequence
from typing import NamedTuple

from amnestic.report.before_after_rows import p_equals
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.wording import NOT_MEASURED, Facts, percent, scaled

ALL_LAYERS, MEAN_OVER_LAYERS = "all layers", "mean over layers"
LEVEL = 0.05
KINDS = {"base": "ordinary prompts", "heldout": "prompts of held-out works"}


class Answer(NamedTuple):
    """The outcome: one sentence, and what it rests on."""

    headline: str
    sentences: tuple[str, ...]


def whole_of(data: Facts) -> Facts:
    """The row over all layers together, empty without one."""
    return next((row for row in listed(data.get("layers")) if row.get("site") == ALL_LAYERS), {})


def layers_of(data: Facts) -> list[Facts]:
    """The rows of single layers."""
    return [row for row in listed(data.get("layers")) if row.get("site") not in (ALL_LAYERS, MEAN_OVER_LAYERS)]


def is_found(row: Facts) -> bool:
    """Whether a layer's Holm-adjusted p-value is below the level."""
    p = real(row.get("p_adjusted"))
    return p is not None and p < LEVEL


def answer(data: Facts) -> Answer:
    """Whether memorized sets overlap more with each other than with control sets and than chance.

    Args:
        data: Of a record as `amnestic locate --analyze` leaves it; missing parts are said to be not measured.

    Returns:
        A headline that is "yes" only if the permutation test over all layers is below 0.05, and the numbers.
    """
    whole, test = whole_of(data), mapping(data.get("whole_test"))
    p = real(test.get("p_value"))
    kinds = _kinds(whole, controls_in_words(mapping(data.get("control_kinds"))), found=_is_more(whole, p))
    said = [_overlaps(whole), *_test(test), *kinds, _layers(layers_of(data)), *_sizes(whole)]
    return Answer(_headline(whole, p), tuple(said))


def _is_more(whole: Facts, p: float | None) -> bool:
    """Whether the test shows that memorized sets overlap more with each other than with control sets."""
    ours, theirs = real(whole.get("within_memorized")), real(whole.get("with_controls"))
    return ours is not None and theirs is not None and p is not None and p < LEVEL and ours > theirs


def _headline(whole: Facts, p: float | None) -> str:
    ours, theirs, chance = (real(whole.get(key)) for key in ("within_memorized", "with_controls", "random"))
    claim = "memorized sets overlap more with each other than with control sets"
    if ours is None or theirs is None or p is None:
        return f"Not measured: whether {claim}."
    if not _is_more(whole, p):
        return f"Undecided: the test does not show that {claim}."
    if chance is None:
        return f"Yes, {claim}; what chance gives was {NOT_MEASURED}."
    beside = "and more than by chance" if ours > chance else "but not more than by chance"
    return f"Yes, {claim}, {beside}."


def _overlaps(whole: Facts) -> str:
    keys = ("within_memorized", "with_controls", "within_controls", "random")
    ours, theirs, others, chance = (scaled(real(whole.get(key))) for key in keys)
    return (
        f"Mean IoU over all layers: {ours} for two memorized sets, {theirs} for a memorized and a control set, "
        f"{others} for two control sets, and {chance} for masks that choose as many units of every layer by chance."
    )


def _test(test: Facts) -> list[str]:
    p, n, gap = real(test.get("p_value")), count(test.get("n_permutations")), real(test.get("statistic"))
    if p is None:
        return [f"The permutation test for all layers together: {NOT_MEASURED}."]
    said = [
        f"The permutation test for all layers together compares memorized with memorized and memorized with control: "
        f"difference {scaled(gap, signed=True)}, p {p_equals(p)}."
    ]
    if p < LEVEL:
        return said
    least = 1 / (n + (not test.get("exact"))) if n else 0.0
    if least >= LEVEL:
        return [*said, f"With so few sets p cannot be below {least:.2g}, so nothing could be shown; make more sets."]
    return [*said, "That a difference was not shown does not mean that there is none."]


def controls_in_words(kinds: Facts) -> str:
    """What the controls are, by the numbers of each kind; empty where that was not recorded."""
    return " and ".join(words for kind, words in KINDS.items() if kinds.get(kind))


def _kinds(whole: Facts, controls: str, *, found: bool) -> list[str]:
    """Whether a difference may be one between kinds of prompts; those of one kind share a mask, memorized or not."""
    ours, others = real(whole.get("within_memorized")), real(whole.get("within_controls"))
    as_much = ours is not None and others is not None and others >= ours
    if controls == KINDS["heldout"]:
        return _against_heldout(found=found, as_much=as_much)
    said = [f"Controls are {controls}."] if controls else []
    if as_much:
        return [
            *said,
            "But control sets overlap with each other no less than memorized ones. So the masks may tell two kinds of "
            "prompts apart instead of memorization; controls of the same kind, such as works held out, would decide.",
        ]
    if controls and found:
        said += ["So the difference may be one of the kind of prompt; works held out as only controls would decide."]
    return said


def _against_heldout(*, found: bool, as_much: bool) -> list[str]:
    """Works held out are of the same kind."""
    said = [
        "Controls are prompts of held-out works, which are meant to differ from memorized ones in nothing but "
        "memorization."
    ]
    if not found:
        return [*said, "So nothing here shows that what sets share is memorization instead of the kind of prompt."]
    said += ["So the difference is one of memorization, not of the kind of prompt."]
    if as_much:
        said += [
            "But control sets overlap with each other no less than memorized ones: to share a mask is no mark of "
            "memorization by itself, only how the masks of both differ is."
        ]
    return said


def _layers(rows: Sequence[Facts]) -> str:
    tested = [row for row in rows if real(row.get("p_adjusted")) is not None]
    if not tested:
        return f"Layer by layer: {NOT_MEASURED}."
    found = sum(map(is_found, tested))
    left_out = len(rows) - len(tested)
    rest = f"; in {left_out} more it was {NOT_MEASURED}" if left_out else ""
    many = "1 layer" if len(tested) == 1 else f"{len(tested)} layers"
    return f"Layer by layer, Holm-adjusted p is below {LEVEL} in {found} of {many}{rest}."


def _sizes(whole: Facts) -> list[str]:
    """How unequal sizes of masks limit their overlap."""
    ours, theirs = real(whole.get("share_memorized")), real(whole.get("share_controls"))
    if not ours or not theirs:
        return []
    most = min(ours, theirs) / max(ours, theirs)
    limit = (
        f", and masks of these two sizes could have no IoU above {scaled(most)}, however alike" if most < 0.995 else ""
    )
    return [f"Memorized sets choose {percent(ours)} of the units on average, control sets {percent(theirs)}{limit}."]
