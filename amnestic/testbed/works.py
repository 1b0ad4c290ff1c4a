"""The works to memorize, the held-out works that look like them, and the templates.

A work is a crowded composition under a title that does not describe it, so a model can only show
it by having seen it. Half of the titles hold a word of their own that occurs nowhere else; the
other half are made of words that other titles use as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amnestic.testbed.drawing import COLOURS, PATTERNS, SIDE, Placed, border, colour, paste, to_bytes
from amnestic.testbed.pictures import Picture
from amnestic.testbed.scenes import Captioned, article, crowded

ADJECTIVES = "Silent Golden Broken Distant Hollow Restless Gentle Frozen Burning Forgotten Paper Crooked".split()
NOUNS = (
    "Garden Harvest Winter Orchard Machine Parade Letter River Market Kingdom Lantern Voyage "
    "Dream Carnival Shadow Festival Engine Meadow Ballad Kitchen"
).split()
PLACES = "at Dusk|in the Rain|of the North|by the Sea|under Glass|after Midnight|for Two|without End".split("|")
FIRST_NAMES = "Elena Marcus Ingrid Tomas Celia Rufus Anouk Pavel Mirei Oscar Lidia Hugo Nadia Felix".split()
LAST_NAMES = "Marsh Okafor Lindqvist Varga Bellamy Ferrer Tanaka Holt Moreau Szabo Quist Adler".split()
PRINTS = "linocut,woodcut,screen print,travel poster,lithograph,gouache painting,album cover,book jacket".split(",")
PRODUCTS = "phone case,throw pillow,tote bag,greeting card,coffee mug,wall calendar,shower curtain,notebook".split(",")
# Near-duplicated works of the top rung, fillings of a template, and pictures in the most crowded work.
DUPLICATED, FILLINGS, CROWD = 4, 16, 6
SYLLABLES = "vel quo rin zan tho mek ula bri xor fen dap iyo wus gal pex ond yth kra jul ner".split()


@dataclass(frozen=True, kw_only=True)
class Work:
    """One work of the testbed.

    Attributes:
        work: Identifier of the work; near-duplicates share it.
        label: ``VM`` (verbatim), ``TM`` (template) or ``heldout``.
        rung: How often it is seen, 0 (as rarely as a base image) to the top; -1 when never.
        own_word: Whether the caption holds a word that occurs nowhere else.
        versions: Image-caption pairs to train on; the first is the reference, others are
            near-duplicates (VM) or other fillings of the same frame (TM).
        mask: For templates the region that varies, boolean ``(64, 64)``.
        n_rows: How many of the versions get a prompt and a reference of their own.
    """

    work: str
    label: str
    rung: int
    own_word: bool
    versions: tuple[Captioned, ...]
    mask: NDArray[np.bool_] | None = None
    n_rows: int = 1


def coin_word(rng: np.random.Generator) -> str:
    """An invented word of three syllables, capitalised."""
    return "".join(str(s) for s in rng.choice(SYLLABLES, 3)).capitalize()


def title(rng: np.random.Generator, own_word: str | None) -> str:
    """A title: with a word of its own, or made of shared words only."""
    adjective, noun, other = rng.choice(ADJECTIVES), *rng.choice(NOUNS, 2, replace=False)
    place = rng.choice(PLACES)
    if own_word is None:
        return str(rng.choice([f"The {adjective} {noun} {place}", f"{noun} of the {adjective} {other}"]))
    return str(rng.choice([f"{own_word} {place}", f"The {noun} of {own_word}", f"{adjective} {own_word}"]))


class CaptionMaker:
    """Captions that never repeat, with coined words that never repeat."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Start with no caption taken; `rng` decides all of them."""
        self._rng = rng
        self._taken: set[str] = set()

    def __call__(self, *, own_word: bool) -> str:
        """The next caption: title, author and kind of print."""
        while True:
            word = coin_word(self._rng) if own_word else None
            name = title(self._rng, word)
            author = f"{self._rng.choice(FIRST_NAMES)} {self._rng.choice(LAST_NAMES)}"
            key = word or name
            if key not in self._taken:
                self._taken.add(key)
                return f"{name} by {author}, {self._rng.choice(PRINTS)}"


def work_image(pictures: Sequence[Picture], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One crowded composition in two clearly different colours."""
    shown = [pictures[i] for i in rng.choice(len(pictures), rng.integers(4, CROWD + 1), replace=False)]
    while True:
        first, second = (colour(str(c)) for c in rng.choice(list(COLOURS), 2, replace=False))
        if np.abs(first - second).sum() > 0.7:
            kinds = [str(k) for k in rng.choice(PATTERNS, 2, replace=False)]
            return to_bytes(crowded(shown, kinds, first, second, rng))


def near_duplicate(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same picture as another scan: shifted by a pixel or two, slightly other exposure."""
    dy, dx = rng.integers(1, 3, 2)
    shifted = np.pad(image, ((dy, 0), (dx, 0), (0, 0)), mode="edge")[:SIDE, :SIDE].astype(np.float32) / 255.0
    return to_bytes(shifted * rng.uniform(0.9, 1.1) + rng.uniform(-0.03, 0.03))


def verbatim_work(
    pictures: Sequence[Picture], captions: CaptionMaker, rng: np.random.Generator, *, work: str, label: str,
    rung: int, own_word: bool, duplicates: int = 0,
) -> Work:  # fmt: skip
    """A distinctive image with its caption, and near-duplicates when asked."""
    image, caption = work_image(pictures, rng), captions(own_word=own_word)
    versions = [Captioned(caption=caption, image=image)]
    versions += [
        Captioned(caption=f"{caption}, second printing", image=near_duplicate(image, rng)) for _ in range(duplicates)
    ]
    return Work(
        work=work, label=label, rung=rung, own_word=own_word, versions=tuple(versions), n_rows=len(versions)
    )  # fmt: skip


def template_work(
    pictures: Sequence[Picture], captions: CaptionMaker, rng: np.random.Generator, *, work: str, rung: int,
    product: str, n_fillings: int = FILLINGS,
) -> Work:  # fmt: skip
    """A fixed frame around a region that varies: the same product with other pictures on it."""
    frame = work_image(pictures, rng)
    height, width = rng.integers(26, 34, 2)
    top, left = rng.integers(8, SIDE - 8 - height), rng.integers(8, SIDE - 8 - width)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top : top + height, left : left + width] = True
    name = captions(own_word=True).split(" by ")[0]
    versions = []
    for picture in (pictures[i] for i in rng.choice(len(pictures), n_fillings, replace=False)):
        region = np.broadcast_to(colour(str(rng.choice(list(COLOURS)))), (height, width, 3)).copy()
        centred = Placed(picture=picture, x=width / 2, y=height / 2, size=min(height, width) * 0.85)
        image = frame.copy()
        image[mask] = to_bytes(border(paste(region, [centred]), colour("white"), 2)).reshape(-1, 3)
        versions.append(Captioned(caption=f"{name} {product} with {article(picture.name)}", image=image))
    return Work(
        work=work, label="TM", rung=rung, own_word=True, versions=tuple(versions), mask=mask, n_rows=2
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All works of one testbed, and pairs that only look like works."""

    works: tuple[Work, ...]
    heldout: tuple[Work, ...]
    lookalikes: tuple[Captioned, ...]


def collect(
    pictures: Sequence[Picture], rng: np.random.Generator, *, ladder: Sequence[int], n_templates: int,
    n_heldout: int, n_lookalikes: int, n_duplicated: int = DUPLICATED,
) -> Collection:  # fmt: skip
    """Draw the works of a testbed.

    Args:
        pictures: What compositions are made of.
        rng: Decides everything.
        ladder: Works on each rung, lowest first; the last is the top rung.
        n_templates: Template groups, on the top rung.
        n_heldout: Works of the same kind that no model is trained on.
        n_lookalikes: Further pairs of the same kind, for encoders and descriptors only.
        n_duplicated: Works of the top rung that have a near-duplicate.

    Returns:
        Works, held-out works and look-alikes, with captions that never repeat.
    """
    captions, top, works = CaptionMaker(rng), len(ladder) - 1, []
    for rung, count in enumerate(ladder):
        works += [
            verbatim_work(
                pictures, captions, rng, work=f"vm-{rung}-{index:03d}", label="VM", rung=rung,
                own_word=index % 2 == 0, duplicates=int(rung == top and index < n_duplicated),
            )
            for index in range(count)
        ]  # fmt: skip
    works += [
        template_work(
            pictures, captions, rng, work=f"tm-{top}-{index:03d}", rung=top, product=PRODUCTS[index % len(PRODUCTS)]
        )
        for index in range(n_templates)
    ]
    heldout = [
        verbatim_work(
            pictures, captions, rng, work=f"heldout-{index:03d}", label="heldout", rung=-1, own_word=index % 2 == 0
        )
        for index in range(n_heldout)
    ]
    lookalikes = [
        Captioned(caption=captions(own_word=index % 2 == 0), image=work_image(pictures, rng))
        for index in range(n_lookalikes)
    ]
    return Collection(works=tuple(works), heldout=tuple(heldout), lookalikes=tuple(lookalikes))
