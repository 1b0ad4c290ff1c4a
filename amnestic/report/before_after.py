"""What an edit did, in words and rows: rates, means and distances of one model before and after it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from amnestic.report import wording
from amnestic.report.before_after_rows import (
    MeanRow,
    RateRow,
    StageRows,
    estimate_of,
    mean_row,
    p_equals,
    rate_row,
    reading,
    shown,
    stage_rows,
)
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.figures import before_after_figure
from amnestic.report.wording import NOT_MEASURED, Facts

ALL_WORKS = "all works"
STILL_THERE = (
    "Both models were given the same prompts and seeds. What is no longer drawn from them may still be in the weights, "
    "and other prompts, seeds or further training may bring it back."
)


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """The section about an edit.

    Attributes:
        sentences: The outcome in plain words; the first one is the headline.
        identity: Part -> facts about the two models and the edit.
        rates: Memorization rates by group.
        figure: The same as inline SVG; empty without rates.
        one_way: Whether a group replicated wholly before the edit, so that it could only fall.
        changes: Means.
        distances: Distances between sets of images.
        methods: How the intervals of changes and distances were made.
        stages: Layers by stage.
        not_measured: What was left out, and why.
    """

    sentences: tuple[str, ...]
    identity: Mapping[str, object]
    rates: tuple[RateRow, ...]
    figure: str
    one_way: bool
    changes: tuple[MeanRow, ...]
    distances: tuple[MeanRow, ...]
    methods: tuple[str, ...]
    stages: tuple[StageRows, ...]
    not_measured: tuple[tuple[str, str], ...]


def before_after(found: object) -> BeforeAfter | None:
    """Everything the section shows.

    Args:
        found: ``summary["before_after"]`` as `amnestic.report.page.Page` describes it.

    Returns:
        Words and rows, or `None` without a comparison.
    """
    if not isinstance(found, Mapping):
        return None
    edit = found.get("edit")
    rates, changes, distances = (listed(found.get(key)) for key in ("rates", "changes", "distances"))
    methods = [str(mapping(row.get("change")).get("method") or "") for row in [*changes, *distances]]
    return BeforeAfter(
        sentences=tuple(sentences(found)),
        identity={part: _identity(found.get(part.lower())) for part in ("Before", "After")} | {"Edit": _edit(edit)},
        rates=tuple(rate_row(row) for row in rates),
        figure=before_after_figure(rates),
        one_way=any(estimate_of(row, "before") == 1 for row in rates),
        changes=tuple(mean_row(row) for row in changes),
        distances=tuple(mean_row(row | {"direction": "lower is better"}) for row in distances),
        methods=tuple(dict.fromkeys(method for method in methods if method)),
        stages=tuple(stage_rows(listed(mapping(edit).get("sites")))),
        not_measured=tuple(_reasons(found.get("not_measured"))),
    )


def sentences(found: Facts) -> list[str]:
    """The outcome in plain words: what was edited, what became of the rate, what it cost, what that does not mean.

    Args:
        found: ``summary["before_after"]``.

    Returns:
        Sentences, the headline first; a change that the test does not support is said to be undecided, and zero events
        are an upper bound.
    """
    rates = listed(found.get("rates"))
    main = next((row for row in rates if row.get("group") == ALL_WORKS), rates[0] if rates else {})
    said = [f"{_what_was_edited(found.get('edit'))}; {_what_became(main)}; {_what_it_cost(found)}."]
    others = [row for row in rates if row is not main and str(row.get("group")).startswith("other works")]
    said += [f"On works that the edit was not made from, {_what_became(row)}." for row in others]
    return [*said, STILL_THERE]


def _what_was_edited(edit: object) -> str:
    if not isinstance(edit, Mapping):
        return "No edit was recorded between the two models"
    weights, share, works = count(edit.get("weights")), real(edit.get("share")), count(edit.get("selected"))
    many = "a number of weights that was not measured" if weights is None else _plural(weights, "weight")
    part = f"{wording.percent(share)} of the U-Net" if share is not None else f"share of the U-Net {NOT_MEASURED}"
    how = f"chosen by “{edit['located_by']}”" if edit.get("located_by") else "how they were chosen was not recorded"
    using = f" from {_plural(works, 'work')}" if works is not None and edit.get("located_by") else ""
    return f"The edit “{edit.get('method') or 'without a name'}” changed {many} ({part}, {how}{using})"


def _what_became(row: Facts) -> str:
    """The memorization rate of one group before and after, as a clause."""
    group, works = str(row.get("group", ALL_WORKS)), count(row.get("works"))
    rate = "the memorization rate" + ("" if group == ALL_WORKS else f" of “{wording.named(group)}”")
    before, after = estimate_of(row, "before"), estimate_of(row, "after")
    many = "" if works is None else _plural(works, "work")
    shares = f"{wording.percent(before)} before, {wording.percent(after)} after"
    if before is None or after is None:
        return f"whether {rate} fell was {NOT_MEASURED} ({shares})"
    p = real(mapping(row.get("mcnemar")).get("p_value"))
    test = f"McNemar test {NOT_MEASURED}" if p is None else f"McNemar p {p_equals(p)}"
    way = "fell" if after < before else "rose" if after > before else "changed"
    if reading(before, after, p) != way:
        said = f"whether {rate} {way} is undecided ({', '.join(t for t in (shares, many, test) if t)})"
    else:
        of = f" of {many}" if many else ""
        said = f"{rate} {way} from {wording.percent(before)} to {wording.percent(after)}{of} ({test})"
    return said + _zero_events(row)


def _zero_events(row: Facts) -> str:
    rate = wording.rate_of(row.get("after"))
    if not wording.is_zero(rate):
        return ""
    bound = wording.upper_bound(rate)
    if bound == NOT_MEASURED:
        return ", where the upper bound that belongs to zero events was not measured"
    return f", where zero events leave a rate of up to {bound} possible (one-sided 95\u00a0% bound)"


def _what_it_cost(found: Facts) -> str:
    """The first cost that was measured, as a clause: alignment before likeness before distances."""
    spared = [row for row in listed(found.get("changes")) if _is_cost(row)]
    spared.sort(key=lambda row: not str(row.get("name")).startswith("CLIP alignment"))
    for row in [*spared, *listed(found.get("distances"))]:
        shown = mean_row(row)
        if NOT_MEASURED not in (shown.change, shown.interval):
            of = f" of {shown.group}" if shown.group else ""
            open_ended = ", which leaves open whether it cost anything" if shown.reading == "undecided" else ""
            kind = " of its mean before" if shown.relative else ""
            return f"{shown.name}{of} changed by {shown.change}{kind} (interval {shown.interval}){open_ended}"
    return f"what it cost was {NOT_MEASURED}"


def _is_cost(row: Facts) -> bool:
    group = str(row.get("group", ""))
    return row.get("direction") == "higher is better" and group.startswith(("base", "held"))


def _identity(side: object) -> object:
    if not isinstance(side, Mapping):
        return None
    return {"Model": side.get("model"), "Digest": side.get("digest"), "Run": side.get("run")}


def _edit(edit: object) -> object:
    """Facts about the edit; its layers have a table of their own."""
    if not isinstance(edit, Mapping):
        return None
    weights, works = count(edit.get("weights")), count(edit.get("selected"))
    return {
        "Method": edit.get("method"),
        "Setting": edit.get("parameters") or "none",
        "Located by": edit.get("located_by"),
        "Located with": edit.get("located_parameters") or "none",
        "Weights changed": shown(weights),
        "Share of all weights of the U-Net": wording.percent(real(edit.get("share"))),
        "Works used to locate": shown(works),
    }


def _reasons(listed: object) -> Iterator[tuple[str, str]]:
    for entry in listed if isinstance(listed, Sequence) and not isinstance(listed, str) else ():
        parts = [entry] if isinstance(entry, str) or not isinstance(entry, Sequence) else list(entry)
        what, why = [*parts, None, None][:2]
        yield str(what or "without a name"), str(why or "no reason given")


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
