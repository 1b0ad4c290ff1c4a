"""One HTML file that stands on its own: no script, nothing fetched, pictures and figures inside it."""

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real
from typing import Any, NamedTuple

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from amnestic.core.records import plain
from amnestic.report import wording
from amnestic.report.before_after import before_after
from amnestic.report.figures import histogram_figure, ladder_figure, leak_figure
from amnestic.report.inline import inline_svg
from amnestic.report.page import Evidence, Page

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

FIELD_NAMES = {
    "name": "Name", "family": "Family", "revision": "Revision", "variant": "Variant", "dtype": "Precision",
    "digest": "Digest", "id": "Identity", "n_seeds": "Seeds per prompt", "sampling.scheduler": "Scheduler",
    "sampling.num_inference_steps": "Denoising steps", "sampling.guidance_scale": "Guidance scale",
    "sampling.height": "Height", "sampling.width": "Width", "preprocessing": "Preprocessing",
    "why": "Why this one", "value": "Value", "provenance": "Provenance", "descriptor": "Descriptor",
    "false_positive_rate": "False-positive rate", "n_null": "Null pairs", "threshold": "Threshold",
    "seeds": "Seeds",
}  # fmt: skip

METRICS = {
    "SSCD_Orig": ("similarity of the generations to the original", "lower means less memorized"),
    "SSCD_Gen": ("similarity to the same seed before an edit", "only after an edit"),
    "D_SSCD": ("similarity of the generations among themselves", "lower means more diverse"),
    "A_CLIP": ("agreement of image and prompt, CLIP", "higher follows the prompt better"),
    "CLIP image": ("similarity to the original, CLIP", "content and style, not copying"),
}

PIXEL_MEASURES = {
    "ssim": "SSIM", "tiled_l2": "tiled L2",
    "error_outside_mask": "error outside mask", "error_inside_mask": "error inside mask",
}  # fmt: skip


class Picture(NamedTuple):
    """A PNG or JPEG as data URI.

    Attributes:
        uri: The whole picture.
        width: Pixels.
        height: Pixels.
        small: Whether it is enlarged without smoothing.
    """

    uri: str
    width: int
    height: int
    small: bool


Shown = tuple[float, bytes]


class ResultRow(NamedTuple):
    """One line of the table of results; every value is ready to be shown."""

    name: str
    n: str
    replicated: str
    rate: str
    interval: str
    upper: str
    images: str
    max_score: str


def render(page: Page) -> str:
    """The report as one HTML file.

    Args:
        page: Everything to show; prompts, titles and names may be hostile and stay text.

    Returns:
        HTML in UTF-8 without scripts and without addresses to fetch from. Characters that no file can hold, or
        that would turn the text of a prompt around, are shown by their code.
    """
    parts = ("before_after.html.j2", "results.html.j2", "evidence.html.j2")
    return fill("template.html.j2", _context(page), parts)


def fill(template: str, context: Mapping[str, Any], parts: Sequence[str] = ()) -> str:
    """A page of this room from its template.

    Args:
        template: Name of the template's file.
        context: What it shows; every text is escaped.
        parts: Names of the templates that it includes.

    Returns:
        HTML as `render` describes it.
    """
    folder, names = files("amnestic.report"), (template, *parts)
    environment = Environment(
        loader=DictLoader({name: folder.joinpath(name).read_text("utf-8") for name in names}),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": wording.number, "percent": wording.percent, "interval": wording.interval}
    environment.filters |= {"named": wording.named, "rate_of": wording.rate_of, "picture": picture, "rows": rows}
    environment.filters |= {"by_seed": by_seed}
    style = Markup(folder.joinpath("style.css").read_text("utf-8"))  # noqa: S704 - a file of this package
    text = environment.get_template(template).render(style=style, **context)
    return _UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def picture(content: bytes | None) -> Picture | None:
    """A PNG or JPEG as data URI with its size, or `None` for other bytes.

    Example:
        >>> picture(b"GIF89a") is None
        True
    """
    try:
        with Image.open(io.BytesIO(content or b""), formats=("PNG", "JPEG")) as opened:
            (width, height), kind = opened.size, str(opened.format).lower()
    except OSError:
        return None
    uri = f"data:image/{kind};base64," + base64.b64encode(content or b"").decode("ascii")
    return Picture(uri=uri, width=width, height=height, small=max(width, height) <= 160)


def rows(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of every value in nested mappings, in order.

    Example:
        >>> list(rows({"n_seeds": 4, "sampling": {"guidance_scale": 7.5, "height": None}}))
        [('Seeds per prompt', '4'), ('Guidance scale', '7.5'), ('Height', "the model's own")]
    """
    if not isinstance(value, Mapping):
        empty = "the model's own" if prefix in ("sampling.height", "sampling.width") else "not given"
        yield FIELD_NAMES.get(prefix, prefix or "Value"), _text(value, empty)
        return
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        yield from rows(inner, name)


def by_seed(evidence: Evidence) -> list[tuple[int, Shown | None, Shown | None]]:
    """Seed, and what was drawn from it before and after an edit; the seeds with the highest scores first.

    Args:
        evidence: With `before`.

    Returns:
        One entry per seed of either side, with `None` where it is missing.
    """
    sides = evidence.before, evidence.generations
    before, after = ({seed: (score, png) for seed, score, png in side} for side in sides)
    pairs = [(seed, before.get(seed), after.get(seed)) for seed in sorted({*before, *after})]
    return sorted(pairs, key=lambda pair: -max((s[0] for s in pair[1:] if s and s[0] == s[0]), default=-2.0))


def _text(value: object, empty: str = "not given") -> str:
    if value is None or value == "":
        return empty
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{float(value):.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(v) for v in value)
    return str(value)


def _context(page: Page) -> dict[str, Any]:
    summary: dict[str, Any] = plain(page.summary)
    controls = summary.get("controls") or {}
    evidence = sorted(page.evidence, key=_by_score)
    threshold = _threshold(summary.get("threshold"))
    rates = {"works": wording.rate_of(summary)} | {k: wording.rate_of(v) for k, v in controls.items()}
    edited = before_after(summary.get("before_after"))
    figures = {
        "leak": leak_figure(rates),
        "before_after": edited.figure if edited else "",
        "ladder": ladder_figure(summary.get("ladder") or (), threshold=threshold),
        "histogram": histogram_figure(page.scores, threshold),
    }
    return {
        "page": page,
        "summary": summary,
        "verdict": wording.verdict(summary),
        "key_figures": list(_key_figures(summary)),
        "tested": [(part, list(rows(summary.get(part)))) for part in ("model", "protocol", "descriptor", "threshold")],
        "results": _results(summary),
        "controls": [_result_row(name, entry) for name, entry in controls.items()],
        "edited": edited,
        "drawings": list(_drawings(page.figures)),
        "figures": {name: Markup(svg) for name, svg in figures.items()},  # noqa: S704 - made and escaped by matplotlib
        "similarity": [_similarity(name, value) for name, value in (summary.get("similarity") or {}).items()],
        "problems": list(_reference_rows(summary.get("references") or {})),
        "replicated": [e for e in evidence if e.replicated],
        "others": [e for e in evidence if not e.replicated],
        "threshold": threshold,
        "pixel_measures": PIXEL_MEASURES,
        "decision": wording.decision(summary),
        "other_rates": list(_other_rates(summary)),
        "timings": list(rows(summary.get("timings") or {})),
        "provenance": list(rows(page.provenance)),
    }


def _drawings(figures: Mapping[str, str]) -> Iterator[tuple[str, Markup | None]]:
    """Caption and drawing; what was not measured has no drawing, and `None` stands for what is none."""
    for i, (caption, svg) in enumerate(figures.items()):
        if svg:
            yield caption, inline_svg(svg, prefix=f"drawing-{i}-")


def _by_score(evidence: Evidence) -> tuple[bool, float, str]:
    score = evidence.best_score
    known = score is not None and score == score
    return not known, -(score or 0.0) if known else 0.0, evidence.work


def _threshold(value: object) -> float | None:
    found = value.get("value") if isinstance(value, Mapping) else value
    return float(found) if isinstance(found, Real) else None


def _key_figures(summary: wording.Facts) -> Iterator[tuple[str, str, str]]:
    """Name, value and small print of the three figures in the header."""
    works, rate = summary.get("works") or {}, wording.rate_of(summary)
    total, replicated = works.get("total"), works.get("replicated")
    known = bool(total) and replicated is not None
    yield "Works replicated", f"{replicated} of {total}" if known else wording.NOT_MEASURED, "above the threshold"
    yield "Memorization rate", *_headline(rate)
    controls = summary.get("controls") or {}
    name = wording.main_control(controls)
    if name is None:
        yield "Control", wording.NOT_MEASURED, "nothing to compare with"
    else:
        yield f"Control: {wording.named(name)}", *_headline(wording.rate_of(controls[name]))


def _headline(rate: wording.Facts | None) -> tuple[str, str]:
    estimate = wording.percent((rate or {}).get("estimate"))
    if wording.is_zero(rate):
        return estimate, f"upper bound {wording.upper_bound(rate)}"
    return estimate, f"95\u00a0% interval {wording.interval(rate)}"


def _results(summary: wording.Facts) -> list[ResultRow]:
    whole = {**(summary.get("works") or {}), "leak_rate": summary.get("leak_rate")}
    return [_result_row(name, entry) for name, entry in {"all works": whole, **(summary.get("by_label") or {})}.items()]


def _result_row(name: str, entry: object) -> ResultRow:
    facts: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    works, rate = facts.get("works"), wording.rate_of(entry) or {}
    counts = works if isinstance(works, Mapping) else facts
    n = next((c for c in (counts.get("total"), works, rate.get("n"), facts.get("n")) if isinstance(c, Integral)), None)
    events = counts.get("replicated")
    return ResultRow(
        name=wording.named(name),
        n=wording.NOT_MEASURED if n is None else str(n),
        replicated="-" if events is None else str(events),
        rate=wording.percent(rate.get("estimate")),
        interval=wording.interval(rate),
        upper=wording.upper_bound(rate),
        images=wording.percent((wording.rate_of(facts.get("images")) or {}).get("estimate")),
        max_score=wording.number(facts.get("max_score")),
    )


def _similarity(name: str, value: object) -> dict[str, str]:
    facts: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    median, mad = wording.number(facts.get("median")), wording.number(facts.get("mad"))
    known = median != wording.NOT_MEASURED
    reason = value if isinstance(value, str) and value else wording.NOT_MEASURED
    meaning, direction = next((METRICS[known] for known in METRICS if name.startswith(known)), ("", ""))
    return {
        "name": name, "meaning": meaning, "direction": direction, "value": f"{median} ± {mad}" if known else reason,
        "n": str(facts.get("n", "-")), "unit": str(facts.get("unit", "")),
    }  # fmt: skip


def _other_rates(summary: wording.Facts) -> Iterator[tuple[str, str, str, str, str]]:
    """Name, value, n, unit and meaning of rates beside the one that decides."""
    above = "share whose first prompt has a median over the seeds above the threshold"
    by_clip = "share of works above the threshold calibrated for CLIP; likeness, not copying"
    for name, key, unit, meaning in (
        ("Memorization rate (median seed)", "median_based_rate", "works", above),
        ("Rate under CLIP (best seed)", "clip", "works", by_clip),
    ):
        if key in summary:
            rate = wording.rate_of(summary[key]) or {}
            ends = wording.interval(rate)
            yield name, wording.percent(rate.get("estimate")), str(rate.get("n", "-")), unit, f"{meaning}; {ends}"


def _reference_rows(references: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Outcome, count or case, and reason; cases that are fine are only counted."""
    for outcome, found in references.items():
        if outcome == "counts" and isinstance(found, Mapping):
            yield from _reference_rows(found)
        elif isinstance(found, Mapping):
            for name, value in found.items():
                counted = isinstance(value, Integral)
                yield wording.named(outcome), *((_text(value), str(name)) if counted else (str(name), _text(value)))
        elif isinstance(found, list):
            cases = [case if isinstance(case, Mapping) else {"id": case} for case in found]
            for case in (case for case in cases if case.get("status") != "ok"):
                yield wording.named(case.get("status", outcome)), _text(case.get("id")), _text(case.get("reason"))
        else:
            yield wording.named(outcome), _text(found), ""
