"""Numbers in words: percentages, intervals and the verdict, without a claim that the numbers do not carry."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from amnestic.core.amounts import NOT_MEASURED as NOT_MEASURED
from amnestic.core.amounts import number as number
from amnestic.core.amounts import percent as plain_percent

NOT_A_FINDING = (
    "This is a measurement of visual similarity under one protocol. It is not a finding of infringement, and other "
    "prompts, seeds or attacks may bring out works that this run did not."
)

Facts = Mapping[str, Any]


def percent(share: float | None) -> str:
    """A share as a percentage that no line break takes apart; see `amnestic.core.amounts.percent`.

    Example:
        >>> percent(0.45).replace(chr(160), "_"), percent(0.99999).replace(chr(160), "_"), percent(None)
        ('45_%', '>_99.9_%', 'not measured')
    """
    text = plain_percent(share)
    return text if text == NOT_MEASURED else text.replace(" ", "\u00a0")


def scaled(value: float | None, *, signed: bool = False) -> str:
    """A number of any size with three digits that mean something, or "not measured".

    Args:
        value: Any number, or `None`.
        signed: Whether to write the sign of a rise too; for changes.

    Returns:
        Text with a true minus sign; `None`, NaN and infinity are "not measured".

    Example:
        >>> scaled(0.87654), scaled(0.000451), scaled(0.25, signed=True), scaled(None)
        ('0.877', '0.000451', '+0.250', 'not measured')
    """
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    size = abs(value)
    if 0 < size < 1e-6:
        text = f"{size:.3g}"
    else:
        text = f"{size:.{2 - math.floor(math.log10(size)) if 0 < size < 0.0995 else 3}f}"
    return _sign(value, signed=signed) + text


def signed_percent(share: float | None) -> str:
    """A relative change as a percentage with its sign; what is not nothing is never rounded to nothing.

    Args:
        share: Change over what it was before, at least -1 for what cannot become negative; or `None`.

    Returns:
        Text with a no-break space before the sign of per cent; `None`, NaN and infinity are "not measured".

    Example:
        >>> [signed_percent(s).replace(chr(160), " ") for s in (0.031, 0.0, 0.00001, None)]
        ['+3.1 %', '0 %', '< +0.01 %', 'not measured']
    """
    if share is None or not math.isfinite(share):
        return NOT_MEASURED
    sign, text = _sign(share, signed=True), percent(abs(share))
    if text[0] not in "<>":
        return sign + text
    if share < -0.5:
        return f">\u00a0{sign}100\u00a0%"
    above = share < 0 or share > 0.5
    return f"{'>' if above else '<'}\u00a0{sign}{text[2:]}"


def p_value(value: float | None) -> str:
    """A probability of a test: the number, or that it is below 0.001.

    Example:
        >>> p_value(0.03125), p_value(1.0), p_value(None)
        ('0.0312', '1', 'not measured')
    """
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    return "<\u00a00.001" if value < 0.001 else f"{value:.3g}"


def interval(facts: Facts | None, *, as_share: bool = True) -> str:
    """The two ends of an interval.

    Args:
        facts: Mapping with ``lower`` and ``upper``, or `None`.
        as_share: Whether the ends are shares in [0, 1] and shown as percentages.

    Returns:
        Such as "23.1 % to 68.5 %"; "not measured" when an end is missing.

    Example:
        >>> interval({"lower": 0.25, "upper": 0.5}, as_share=False)
        '0.250 to 0.500'
        >>> interval(None)
        'not measured'
    """
    show = percent if as_share else number
    ends = [show((facts or {}).get(end)) for end in ("lower", "upper")]
    return NOT_MEASURED if NOT_MEASURED in ends else " to ".join(ends)


def rate_of(entry: object) -> Facts | None:
    """The rate in a row of results, whether the row holds one, is one, or is a bare share.

    Example:
        >>> rate_of({"leak_rate": {"estimate": 0.5}}), rate_of({"estimate": 0.5}), rate_of(0.5), rate_of(None)
        ({'estimate': 0.5}, {'estimate': 0.5}, {'estimate': 0.5}, None)
    """
    if isinstance(entry, Mapping):
        return entry if "estimate" in entry else rate_of(entry.get("leak_rate"))
    return {"estimate": float(entry)} if isinstance(entry, Real) else None


def is_zero(rate: Facts | None) -> bool:
    """Whether a rate was measured and not one event was seen."""
    return rate is not None and rate.get("estimate") == 0 and bool(rate.get("n", 1))


def upper_bound(rate: Facts | None) -> str:
    """The one-sided 95 % upper bound of a rate as a percentage; "not measured" without one."""
    return percent((rate or {}).get("upper_one_sided"))


def named(name: str) -> str:
    """The usual word for the label of a group.

    Example:
        >>> named("VM"), named("heldout"), named("null pairs")
        ('verbatim (VM)', 'held-out', 'null pairs')
    """
    words = {"VM": "verbatim (VM)", "TM": "template (TM)", "heldout": "held-out", "held_out": "held-out"}
    words |= {"base": "base prompts", "none": "no label", "": "no label", "ok": "usable"}
    return words.get(name, name.replace("_", " "))


def main_control(controls: Mapping[str, Any]) -> str | None:
    """Name of the control to put beside the works: the held-out one, else the first with a rate."""
    rated = [name for name, entry in controls.items() if _measured(rate_of(entry))]
    held_out = [name for name in rated if name.lower().startswith("held")]
    return next(iter(held_out + rated), None)


def verdict(summary: Facts) -> list[str]:
    """The outcome in plain words; the first sentence is the headline.

    Args:
        summary: As `amnestic.report.page.Page.summary`.

    Returns:
        Sentences: what was counted, how sure that is, what the controls say, what it does not mean.
    """
    works, rate = summary.get("works") or {}, rate_of(summary)
    total, replicated = works.get("total"), works.get("replicated")
    if not total or replicated is None:
        headline = "No work was tested, so this run says nothing about memorization."
        return [headline, "A rate that was not measured is not a rate of zero.", NOT_A_FINDING]
    meaning = " ".join([_what_replicated_means((summary.get("protocol") or {}).get("n_seeds")), *_by_any_prompt(works)])
    if replicated == 0:
        sentences = [f"None of the {total} tested works was replicated under this protocol.", meaning]
        sentences.append(_zero_events(rate, total))
    else:
        was = "was" if replicated == 1 else "were"
        sentences = [f"{replicated} of {total} tested works {was} replicated.", meaning, _spread(rate)]
    return [*sentences, *_controls(summary.get("controls") or {}, rate, replicated), NOT_A_FINDING]


def _sign(value: float, *, signed: bool) -> str:
    return "\u2212" if value < 0 else "+" if signed and value > 0 else ""


def _measured(rate: Facts | None) -> bool:
    return percent((rate or {}).get("estimate")) != NOT_MEASURED


def decision(summary: Facts) -> str:
    """What the run decided against its limit; empty when nothing was recorded.

    Args:
        summary: With ``verdict`` (``pass``, ``fail``, ``inconclusive``, ``none`` or a sentence) and ``limit``, a share.

    Returns:
        One sentence.

    Example:
        >>> decision({"verdict": "none", "limit": None})
        'No limit was set, so nothing was passed or failed.'
    """
    recorded, limit = str(summary.get("verdict") or ""), summary.get("limit")
    if recorded == "none":
        return "No limit was set, so nothing was passed or failed."
    if recorded not in ("pass", "fail", "inconclusive") or limit is None:
        return recorded
    bound = upper_bound(rate_of(summary))
    return (
        f"{recorded.capitalize()}: the one-sided upper bound is {bound}, the limit set for this run {percent(limit)}."
    )


def _what_replicated_means(n_seeds: object) -> str:
    drawn = f"at least one of the {n_seeds} images" if n_seeds else "at least one of the images"
    return (
        f"A work counts as replicated when {drawn} of its first prompt is more similar to the original than the "
        "threshold."
    )


def _by_any_prompt(works: Mapping[str, Any]) -> list[str]:
    """What the further prompts of works add, if anything."""
    found = works.get("replicated_by_any_prompt")
    if found is None or found == works.get("replicated"):
        return []
    return [
        f"With all their prompts, {found} of {works['total']} works were replicated; the rate counts first prompts "
        "alone, so that every work is judged on equally many images."
    ]


def _zero_events(rate: Facts | None, total: int) -> str:
    bound = upper_bound(rate)
    if bound == NOT_MEASURED:
        return "Zero events are not an absence, and the upper bound that belongs to them was not measured."
    return (
        f"Zero events are an upper bound, not an absence: with {total} works tested, a memorization rate of up to "
        f"{bound} remains possible (one-sided 95\u00a0% bound)."
    )


def _spread(rate: Facts | None) -> str:
    if rate is None or not _measured(rate):
        return "The memorization rate and its interval were not measured."
    ends = interval(rate)
    if ends == NOT_MEASURED:
        return f"The memorization rate is {percent(rate.get('estimate'))}; its interval was not measured."
    how = f", {rate['method']}" if rate.get("method") else ""
    return f"The memorization rate is {percent(rate.get('estimate'))}, with a 95\u00a0% interval of {ends}{how}."


def _controls(controls: Mapping[str, Any], rate: Facts | None, replicated: int) -> list[str]:
    if main_control(controls) is None:
        return ["No control was measured, so this count cannot be told apart from coincidence."]
    said = [_control(name, rate_of(entry)) for name, entry in controls.items() if _measured(rate_of(entry))]
    ours, theirs = rate or {}, rate_of(controls[main_control(controls) or ""]) or {}
    lower, upper = ours.get("lower"), theirs.get("upper")
    if replicated and lower is not None and upper is not None:
        beside = named(main_control(controls) or "")
        said.append(
            f"The interval of the works lies above that of the control “{beside}”."
            if lower > upper
            else f"The intervals of the works and of the control “{beside}” overlap: coincidence is not excluded."
        )
    return said


def _control(name: str, rate: Facts | None) -> str:
    facts = rate or {}
    ends = upper_bound(facts) if is_zero(facts) else interval(facts)
    kind = "upper bound" if is_zero(facts) else "95\u00a0% interval"
    count = f"n = {facts['n']}, " if facts.get("n") is not None else ""
    return f"Control “{named(name)}” at the same threshold: {percent(facts.get('estimate'))} ({count}{kind} {ends})."
