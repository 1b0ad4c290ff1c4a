"""Which SVG may stand inside a page: drawings alone, nothing that runs and nothing that fetches."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from markupsafe import Markup

_DRAWN = frozenset(
    "svg g defs path use rect line circle ellipse polygon polyline text tspan title desc clipPath image style "
    "linearGradient radialGradient stop".split()
)
_FETCHES = re.compile(r"url\(\s*(?!#)|@import|expression\(", re.IGNORECASE)


def inline_svg(svg: str, *, prefix: str = "") -> Markup | None:
    """An SVG as markup that needs no escaping, or `None` for anything else.

    Args:
        svg: One ``<svg>`` element, well-formed and without comments, declarations or processing instructions; with
            drawn elements alone, no handlers of events, and links into itself or to PNGs that it holds.
        prefix: Put before each of its ids, so that several drawings made alike fit on one page.

    Returns:
        The same drawing, marked as safe.

    Example:
        >>> inline_svg('<svg onload="alert(1)"/>') is inline_svg("<script>alert(1)</script>") is None
        True
    """
    if not svg.startswith("<svg") or "<!" in svg or "<?" in svg:
        return None
    try:
        whole = ElementTree.fromstring(f'<x xmlns:xlink="http://www.w3.org/1999/xlink">{svg}</x>')  # noqa: S314
    except ElementTree.ParseError:
        return None
    alone = len(whole) == 1 and not (whole.text or "").strip() and not (whole[0].tail or "").strip()
    harmless = alone and all(_is_drawn(element) for element in whole[0].iter())
    return Markup(_prefixed(svg, prefix)) if harmless else None  # noqa: S704 - all of it was looked at


def _prefixed(svg: str, prefix: str) -> str:
    svg = re.sub(r'(?<=[\s:])((?:id|aria-labelledby)=")(?=[^"])', rf"\1{prefix}", svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{prefix}", svg)


def _is_drawn(element: ElementTree.Element) -> bool:
    name = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
    styled = element.text or "" if name == "style" else ""
    return name in _DRAWN and not _FETCHES.search(styled) and all(_attributes(element))


def _attributes(element: ElementTree.Element) -> Iterator[bool]:
    """Whether each attribute is harmless."""
    for name, value in element.items():
        local = name.rpartition("}")[2].lower()
        linked = local != "href" or value.startswith(("#", "data:image/png;base64,"))
        yield linked and not local.startswith("on") and local != "src" and not _FETCHES.search(value)
