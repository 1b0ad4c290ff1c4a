"""Pieces of a page that are shown by themselves, such as between the cells of a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from amnestic.core.records import digest
from amnestic.report.html import fill
from amnestic.report.inline import inline_svg


class Tile(NamedTuple):
    """One picture.

    Attributes:
        caption: Its small print.
        png: Bytes of a PNG or JPEG, or `None` when it could not be read.
        hit: Whether it is a copy.
    """

    caption: str
    png: bytes | None
    hit: bool = False


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Pictures side by side.

    Attributes:
        title: What they have in common.
        prompt: The text that they were drawn for; hostile until shown otherwise.
        tiles: The pictures.
    """

    title: str = ""
    prompt: str = ""
    tiles: tuple[Tile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Block:
    """One piece; what is empty is left out.

    Attributes:
        title: A heading.
        words: Sentences.
        svg: A figure, one ``<svg>`` element.
        strips: Rows of pictures.
        head: Names of a table's columns.
        rows: Cells of a table, row by row.
        note: Small print below.
    """

    title: str = ""
    words: tuple[str, ...] = ()
    svg: str = ""
    strips: tuple[Strip, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    note: str = ""


def render_blocks(blocks: Sequence[Block]) -> str:
    """Pieces below each other, as HTML that stands anywhere on a page.

    Args:
        blocks: The pieces; every text stays text, and a figure that is no drawing is left out.

    Returns:
        One ``<div>`` in UTF-8 without scripts and without addresses to fetch from.
    """
    drawn = [inline_svg(b.svg, prefix=f"s{digest(b.svg)[:8]}-") if b.svg else None for b in blocks]
    return fill("blocks.html.j2", {"blocks": list(zip(blocks, drawn, strict=True))})
