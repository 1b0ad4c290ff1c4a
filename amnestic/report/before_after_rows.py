"""Rows of the tables about an edit: rates, means and layers, ready to be shown."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.facts import count, mapping, real
from amnestic.report.wording import NOT_MEASURED, Facts

ALPHA = 0.05
STAGES = ("down", "mid", "up")


class RateRow(NamedTuple):
    """Rates of one group of works; every value is ready to be shown."""

    group: str
    works: str
    before: str
    before_note: str
    after: str
    after_note: str
    only_before: str
    only_after: str
    p_value: str
    reading: str


class MeanRow(NamedTuple):
    """A mean or a distance before and after; every value is ready to be shown."""

    name: str
    group: str
    unit: str
    better: str
    before: str
    after: str
    change: str
    relative: bool
    interval: str
    worst: str
    reading: str


class SiteRow(NamedTuple):
    """One layer; `filled` is its share relative to the highest one, in [0, 1], or `None` without a share."""

    name: str
    kind: str
    chosen: str
    size: str
    share: str
    filled: float | None


class StageRows(NamedTuple):
    """The layers of one stage of the U-Net, and their sum."""

    name: str
    total: str
    sites: tuple[SiteRow, ...]


def reading(before: float | None, after: float | None, p: float | None) -> str:
    """What a paired test lets one say of a rate.

    Args:
        before: Share in [0, 1], or `None`.
        after: The same works after the edit.
        p: Two-sided, of McNemar's test, or `None`.

    Returns:
        ``fell``, ``rose``, ``undecided`` (also without a test) or ``not measured``.

    Example:
        >>> reading(0.5, 0.1, 0.01), reading(0.5, 0.1, 0.05), reading(0.5, None, 0.01)
        ('fell', 'undecided', 'not measured')
    """
    if before is None or after is None:
        return NOT_MEASURED
    if p is None or p >= ALPHA or before == after:
        return "undecided"
    return "fell" if after < before else "rose"


def rate_row(row: Facts) -> RateRow:
    """One group of ``before_after["rates"]``."""
    before, after = wording.rate_of(row.get("before")), wording.rate_of(row.get("after"))
    test = mapping(row.get("mcnemar"))
    p = real(test.get("p_value"))
    return RateRow(
        group=wording.named(str(row.get("group", ""))),
        works=shown(count(row.get("works"))),
        before=wording.percent(estimate_of(row, "before")),
        before_note=_note(before),
        after=wording.percent(estimate_of(row, "after")),
        after_note=_note(after),
        only_before=shown(count(test.get("only_before"))),
        only_after=shown(count(test.get("only_after"))),
        p_value=f"p {p_equals(p)}" if p is not None else f"p {NOT_MEASURED}",
        reading=reading(estimate_of(row, "before"), estimate_of(row, "after"), p),
    )


def _note(rate: Facts | None) -> str:
    """What belongs below a rate: its interval, or the bound when there was no event."""
    if wording.is_zero(rate):
        return f"upper bound {wording.upper_bound(rate)}"
    known = real((rate or {}).get("estimate")) is not None
    ends = wording.interval(rate)
    return "" if not known else f"interval {NOT_MEASURED}" if ends == NOT_MEASURED else ends


def mean_row(row: Facts) -> MeanRow:
    """One entry of ``before_after["changes"]`` or ``before_after["distances"]``; relative if its method says so."""
    change = mapping(row.get("change"))
    estimate, lower, upper = (real(change.get(key)) for key in ("estimate", "lower", "upper"))
    relative = str(change.get("method") or "").startswith("relative")
    better = {"lower is better": "lower", "higher is better": "higher"}.get(str(row.get("direction")), "")
    ends = [_changed(end, relative=relative) for end in (lower, upper)]
    return MeanRow(
        name=str(row.get("name") or ""),
        group=wording.named(str(row["group"])) if row.get("group") else "",
        unit=str(row.get("unit") or ""),
        better=better,
        before=wording.scaled(real(row.get("before"))),
        after=wording.scaled(real(row.get("after"))),
        change=_changed(estimate, relative=relative),
        relative=relative,
        interval=NOT_MEASURED if NOT_MEASURED in ends else " to ".join(ends),
        worst=_worst(change, better, relative=relative),
        reading=_direction(estimate, lower, upper),
    )


def _worst(change: Facts, better: str, *, relative: bool) -> str:
    """The one-sided bound on the side where it hurts."""
    if not better:
        return "-"
    key, word = ("lower_one_sided", "at least") if better == "higher" else ("upper_one_sided", "at most")
    bound = _changed(real(change.get(key)), relative=relative)
    return bound if bound == NOT_MEASURED else f"{word} {bound}"


def _changed(value: float | None, *, relative: bool) -> str:
    return wording.signed_percent(value) if relative else wording.scaled(value, signed=True)


def _direction(estimate: float | None, lower: float | None, upper: float | None) -> str:
    if estimate is None or lower is None or upper is None:
        return NOT_MEASURED
    return "fell" if upper < 0 else "rose" if lower > 0 else "undecided"


def stage_rows(sites: Sequence[Facts]) -> Iterator[StageRows]:
    """Layers by stage, in the order in which they are computed."""
    highest = max((share for site in sites if (share := _site_share(site)) is not None), default=0.0)
    names = dict.fromkeys([*STAGES, *(str(site.get("stage", "")) for site in sites)])
    for name in names:
        inside = [site for site in sites if str(site.get("stage", "")) == name]
        if inside:
            rows = tuple(_site_row(site, highest) for site in inside)
            yield StageRows(name or "no stage", _stage_total(inside), rows)


def _stage_total(sites: Sequence[Facts]) -> str:
    chosen, size = ([count(site.get(key)) for site in sites] for key in ("chosen", "size"))
    known = [(c, s) for c, s in zip(chosen, size, strict=True) if c is not None and s is not None]
    if len(known) < len(sites):
        return NOT_MEASURED
    total, whole = sum(c for c, _ in known), sum(s for _, s in known)
    return f"{total:,} of {whole:,}, {wording.percent(total / whole if whole else None)}"


def _site_row(site: Facts, highest: float) -> SiteRow:
    share = _site_share(site)
    return SiteRow(
        name=str(site.get("name") or "without a name"),
        kind=str(site.get("kind") or ""),
        chosen=shown(count(site.get("chosen"))),
        size=shown(count(site.get("size"))),
        share=wording.percent(share),
        filled=None if share is None else share / highest if highest else 0.0,
    )


def _site_share(site: Facts) -> float | None:
    chosen, size = count(site.get("chosen")), count(site.get("size"))
    return chosen / size if chosen is not None and size else None


def estimate_of(row: Facts, side: str) -> float | None:
    """The share ``before`` or ``after``, or `None` when it was not measured."""
    return real((wording.rate_of(row.get(side)) or {}).get("estimate"))


def p_equals(p: float) -> str:
    """What stands after the letter p.

    Example:
        >>> p_equals(0.25).replace(chr(160), " "), p_equals(0.0001).replace(chr(160), " ")
        ('= 0.25', '< 0.001')
    """
    value = wording.p_value(p)
    return value if value.startswith("<") else f"=\u00a0{value}"


def shown(n: int | None) -> str:
    """A count, or "not measured"."""
    return NOT_MEASURED if n is None else f"{n:,}"
