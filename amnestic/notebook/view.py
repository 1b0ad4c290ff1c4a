"""Something to look at: what a notebook shows as HTML, and anything else as text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amnestic.report.blocks import Block, render_blocks


@dataclass(frozen=True)
class View:
    """Something to look at; the last line of a cell shows it.

    Attributes:
        html: One ``<div>`` without scripts and without addresses to fetch from.
        text: The same where no HTML can be shown, without figures and pictures.
    """

    html: str
    text: str

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        return self.html

    def __repr__(self) -> str:
        return self.text


def view_of(blocks: Sequence[Block]) -> View:
    """Pieces of a page as something to look at.

    Args:
        blocks: The pieces, below each other.
    """
    return View(html=render_blocks(blocks), text="\n".join(_lines(blocks)))


def _lines(blocks: Iterable[Block]) -> Iterable[str]:
    for block in blocks:
        yield from filter(None, (block.title, *block.words))
        yield from (" | ".join(row) for row in block.rows)
        yield from (f"{s.title} {s.prompt}: {', '.join(t.caption for t in s.tiles)}" for s in block.strips)
        if block.svg:
            yield "(a figure)"
