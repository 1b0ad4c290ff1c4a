"""The page on whether works can be brought back by an attack: one HTML file that stands on its own."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from amnestic.report import redaction, wording
from amnestic.report.attack_figures import arm_name, budget_figure, radius_figure, steps_figure
from amnestic.report.attack_rows import (
    agreement_rows,
    arm_rows,
    arms_of,
    control_rows,
    counted,
    hidden_rows,
    note,
    rate_at,
    work_rows,
)
from amnestic.report.before_after_rows import shown
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.html import fill, rows
from amnestic.report.wording import NOT_MEASURED, Facts

THUMBNAIL = 192
NEVER_SEEN = ("heldout", "twin")
_UNTOLD = "Not measured: whether works can be brought back."

ImageArray = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One work beside what the model drew before and after the attack.

    Attributes:
        work: Its name.
        arm: Arm that it belongs to.
        prompt: Its ordinary prompt; hostile until shown otherwise.
        original: Its picture ``(H, W, 3)`` in 8 bits, or `None` when it could not be read.
        before: What the model drew before the search, or `None`.
        after: What it drew with the input that was found, or `None`.
        score_before: Similarity of `before` to the original.
        score_after: Similarity of `after`.
        text: The prompt that was found, by attacks that search for one; hostile as well.
    """

    work: str
    arm: str = "works"
    prompt: str = ""
    original: ImageArray | None = field(default=None, repr=False)
    before: ImageArray | None = field(default=None, repr=False)
    after: ImageArray | None = field(default=None, repr=False)
    score_before: float | None = None
    score_after: float | None = None
    text: str | None = None


class Card(NamedTuple):
    """An attempt, ready to be shown: name, picture, score and whether it is a copy, three times."""

    work: str
    arm: str
    prompt: str
    text: str | None
    back: bool
    pictures: tuple[tuple[str, bytes | None, str, bool], ...]


class Drawn(NamedTuple):
    """A figure with its title, and how to read it or why it is not there."""

    svg: Markup
    title: str
    text: str


def render_attack(
    data: Mapping[str, Any], made_by: Mapping[str, Any], attempts: Sequence[Attempt] = (), *, unshown: int = 0,
    blurred: bool = True,
) -> str:  # fmt: skip
    """What an attack shows, as one HTML file.

    Args:
        data: Of its record: ``verdict``, an `AttackVerdict` as plain data, and ``seconds``, ``searches`` (what the
            attack varies), ``settings`` (further names and values) if they were recorded; any may be missing.
        made_by: ``name`` and ``parameters`` of the attack.
        attempts: Works with their pictures, in the order in which they are shown.
        unshown: How many more works there are.
        blurred: Leave no more of pictures than the colours of 8 by 8 fields, so that the page copies no work.

    Returns:
        HTML in UTF-8 without scripts and without addresses to fetch from. What is missing, `None` or NaN is said to be
        not measured. Names and prompts stay text.

    Raises:
        ValueError: If a picture is not one of 8 bits with three channels.
    """
    verdict = mapping(data.get("verdict"))
    threshold = real(verdict.get("threshold"))
    figures, left_out = _figures(verdict)
    context = {
        "keys": list(_keys(verdict)), "headline": str(verdict.get("sentence") or _UNTOLD),
        "why": [str(sentence) for sentence in verdict.get("why") or ()], "flags": listed(verdict.get("flags")),
        "arms": list(arm_rows(verdict)), "controls": list(control_rows(verdict)), "figures": figures,
        "left_out": left_out, "works": work_rows(verdict), "hidden": hidden_rows(verdict),
        "agreement": agreement_rows(verdict), "unshown": unshown, "blurred": blurred,
        "cards": [_card(attempt, threshold, blurred) for attempt in attempts],
        "threshold": threshold, "swept": bool(mapping(verdict.get("radius"))),
        "not_measured": _not_measured(verdict), "notes": [str(one) for one in verdict.get("notes") or ()],
        "settings": list(_settings(data, verdict, made_by)), "caveat": wording.NOT_A_FINDING,
    }  # fmt: skip
    return fill("attack.html.j2", context)


def thumbnail(image: ImageArray | None, *, side: int = THUMBNAIL, blurred: bool = False) -> bytes | None:
    """A picture as PNG, no longer than `side` on either side; blurred, a JPEG that holds no pixel of it.

    Example:
        >>> import numpy as np
        >>> thumbnail(np.zeros((2, 2, 3), dtype=np.uint8))[1:4], thumbnail(None)
        (b'PNG', None)
    """
    if image is None:
        return None
    array = np.ascontiguousarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"expected a picture of 8 bits (H, W, 3), got {array.dtype} {array.shape}; convert it first")
    if blurred:
        return redaction.blurred(array)
    small, written = Image.fromarray(array), io.BytesIO()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.save(written, "PNG", optimize=True)
    return written.getvalue()


def _keys(verdict: Facts) -> Iterator[tuple[str, str, str]]:
    """Name, value and small print of the figures in the header."""
    arms = arms_of(verdict)
    works, at = arms.get("works", {}), real(verdict.get("judged_at"))
    budget = real(works.get("budget"))
    step = budget if at is None else at
    by = "" if step is None else f", by step {step:.0f}"
    yield f"Works back{by}", counted(rate_at(works, step)), note(rate_at(works, step)) or NOT_MEASURED
    name = next((n for n in NEVER_SEEN if n in arms), None)
    if name is None:
        yield "Works the model never saw", NOT_MEASURED, "nothing to compare with"
    else:
        found = rate_at(arms[name], step)
        title = "Never trained on" if name == "heldout" else "Model that never saw them"
        yield f"{title}{by}", counted(found), note(found) or NOT_MEASURED
    original = rate_at(arms["original"]) if "original" in arms else None
    yield "Unedited model", counted(original), note(original) or "whether the attack works is not known"


def _settings(data: Facts, verdict: Facts, made_by: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    arms = arms_of(verdict)
    works = arms.get("works", {})
    yield "Attack", str(made_by.get("name") or "not given")
    yield "What it varies", str(data.get("searches") or "not given")
    yield from rows(mapping(made_by.get("parameters")))
    yield "Tries per work", shown(count(works.get("tries")))
    yield "Images per input that score", shown(count(works.get("seeds")))
    kept = [str(count(point.get("step"))) for point in listed(works.get("curve"))]
    yield "Kept steps", ", ".join(kept) or NOT_MEASURED
    yield "Threshold above which an image is a copy", wording.number(real(verdict.get("threshold")))
    yield "Rate up to which a control counts as quiet", wording.percent(real(verdict.get("level")))
    for name, arm in arms.items():
        forward, backward = (shown(count(arm.get(kind))) for kind in ("forward", "backward"))
        yield f"Passes, {arm_name(name)}", f"{forward} forward, {backward} backward"
    yield "Time, in seconds", wording.number(real(data.get("seconds")), 1)
    yield from rows(mapping(data.get("settings")))


def _not_measured(verdict: Facts) -> list[tuple[str, str]]:
    found = verdict.get("not_measured")
    if found is None:
        return [("Everything", "no verdict was recorded")]
    return [(str(what), str(why)) for what, why in found]


def _card(attempt: Attempt, threshold: float | None, blurred: bool) -> Card:
    sides = (("before", attempt.before, attempt.score_before), ("after", attempt.after, attempt.score_after))
    over = {name: threshold is not None and (score or -2.0) > threshold for name, _, score in sides}
    pictures = [("original", thumbnail(attempt.original, blurred=blurred), "", False)]
    pictures += [
        (name, thumbnail(image, blurred=blurred), wording.number(score), over[name]) for name, image, score in sides
    ]
    return Card(
        work=attempt.work, arm=arm_name(attempt.arm), prompt=attempt.prompt, text=attempt.text, back=over["after"],
        pictures=tuple(pictures),
    )  # fmt: skip


def _figures(verdict: Facts) -> tuple[list[Drawn], list[Drawn]]:
    """The figures that there are, and what is not there."""
    every = [
        Drawn(Markup(svg), title, text if svg else why)  # noqa: S704 - made and escaped by matplotlib
        for svg, title, text, why in _entries(verdict)
    ]
    return [d for d in every if d.svg], [d for d in every if not d.svg]


def _entries(verdict: Facts) -> Iterator[tuple[str, str, str, str]]:
    arms, threshold = arms_of(verdict), real(verdict.get("threshold"))
    alike = {name: arm for name, arm in arms.items() if name != "random"}
    yield (
        budget_figure(alike, threshold, horizon=real(verdict.get("judged_at"))), "By steps",
        "What is in the model comes back early and from works alone. Where the curve of works that the model never "
        "saw rises as well, the search makes images up. Bands are 95\u00a0% intervals; a work that was back once stays "
        "counted. Random search has no steps in common with the attack and is in the next figure.",
        NOT_MEASURED,
    )  # fmt: skip
    yield (
        budget_figure(arms, threshold, over="passes"), "By passes",
        "The same over what it costs: rows through the U-Net, forward and backward, of all tries for a work that never "
        "comes back. This is where random search can be compared.",
        f"{NOT_MEASURED}; passes were not counted",
    )  # fmt: skip
    yield (
        steps_figure(alike), "When works came back",
        "Bars at the left are works that needed little or no search. Inputs were looked at at kept steps alone: a work "
        "came back somewhere between the one before and the one named.",
        NOT_MEASURED,
    )  # fmt: skip
    yield (
        radius_figure(mapping(verdict.get("radius")), threshold), "By radius",
        "How far from its start an input must move. Works that come back close to ordinary prompts are more likely to "
        "be met in use.",
        f"{NOT_MEASURED}; no sweep over the radius was made",
    )  # fmt: skip
