"""The pictures of a work for the report: redacted unless originals were asked for, each with its hashes."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from amnestic.report.findings_ordinary import Pair
from amnestic.report.findings_parts import Missing
from amnestic.report.redaction import (
    AGREES,
    ORIGINAL_SIDE,
    agreement,
    blurred,
    data_uri,
    opened_picture,
    overlaid,
    perceptual_hash,
    reduced,
)

Opened = Callable[[str], bytes | None]
"""The bytes of a file by its path; `None` where it is not there."""

NO_ORIGINALS = "not opened: give --references FOLDER to amnestic report"
NOT_KEPT = "not kept as a picture in the run folder"
NOT_THERE = "no such picture in the folder that was given"
CHANGED = "not shown: its SHA-256 is not the one that the audit recorded"
NO_PICTURE = "cannot be read as a picture"


def nothing(name: str) -> bytes | None:
    """A source without files."""
    return None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the report finds pictures and records.

    Attributes:
        run: Files of the run by their path inside.
        originals: Originals by their path in the reference folder, or `None` where no folder was given.
        before: Files of the run of the model before a mitigation, or `None`.
        show_originals: Whether pictures are shown as they are, instead of blurred.
    """

    run: Opened = nothing
    originals: Opened | None = None
    before: Opened | None = None
    show_originals: bool = False


class Tile(NamedTuple):
    """One picture of a work.

    Attributes:
        title: What it is.
        uri: It, or empty.
        alt: What is to be seen, in words.
        why: Why there is none, or what is drawn.
        sha256: Over the bytes of the file, as recorded; empty for what was made for this report.
        perceptual: Its perceptual hash, or empty.
        crisp: Whether it is enlarged without smoothing.
    """

    title: str
    uri: str
    alt: str
    why: str = ""
    sha256: str = ""
    perceptual: str = ""
    crisp: bool = False


def tiles_of(pair: Pair, sources: Sources) -> tuple[Tile, ...]:
    """The original, what the model drew of it, where both agree, and what the model before a mitigation drew.

    Args:
        pair: Where both lie.
        sources: What opens them.

    Returns:
        Two to four pictures; the third and fourth only where there is something to show.
    """
    return tuple(_tiles(pair, sources))


def _tiles(pair: Pair, sources: Sources) -> Iterator[Tile]:
    shown, of = sources.show_originals, f"of work {pair.work} with seed {pair.seed}"
    original = _found(sources.originals, pair.original, pair.original_sha256, NO_ORIGINALS)
    drawn = _found(sources.run, pair.image, pair.image_sha256, NOT_KEPT)
    title = "Generation" if sources.before is None else "After the mitigation"
    yield _tile("Original", original, f"Original of work {pair.work}", shown=shown)
    yield _tile(title, drawn, f"{title}: image {of}", shown=shown)
    if original.image is not None and drawn.image is not None:
        yield _overlay(original.image, drawn.image)
    if sources.before is not None:
        # Prompts and seeds of both runs are equal, so the file has the same name; its checksum lies in that run.
        earlier = _found(sources.before, pair.image, None, NOT_KEPT)
        yield _tile("Before the mitigation", earlier, f"Before the mitigation: image {of}", shown=shown)


class _Found(NamedTuple):
    image: NDArray[np.uint8] | None
    why: str
    sha256: str


def _found(opened: Opened | None, path: str, recorded: str | Missing | None, without: str) -> _Found:
    """A picture as it was recorded, or why there is none."""
    known = recorded if isinstance(recorded, str) else ""
    content = opened(path) if opened is not None and path else None
    if content is None:
        return _Found(None, without if opened is None or without == NOT_KEPT else NOT_THERE, known)
    sha256 = hashlib.sha256(content).hexdigest()
    if known and sha256 != known:
        return _Found(None, CHANGED, known)
    image = opened_picture(content)
    return _Found(image, "" if image is not None else NO_PICTURE, sha256)


def _tile(title: str, found: _Found, alt: str, *, shown: bool) -> Tile:
    if found.image is None:
        return Tile(title=title, uri="", alt="", why=found.why, sha256=found.sha256)
    return Tile(
        title=title, uri=data_uri(reduced(found.image) if shown else blurred(found.image)),
        alt=alt if shown else f"{alt}, blurred", sha256=found.sha256, perceptual=perceptual_hash(found.image),
        crisp=shown and max(found.image.shape[:2]) <= ORIGINAL_SIDE,
    )  # fmt: skip


def _overlay(original: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> Tile:
    cells = agreement(drawn, original)
    words = f"{int((cells >= AGREES).sum())} of {cells.size} fields agree"
    return Tile(
        title="Where both agree", uri=data_uri(overlaid(drawn, cells)), why=words,
        alt=f"Blurred generation in grey, orange where it agrees with the original: {words}",
    )  # fmt: skip
