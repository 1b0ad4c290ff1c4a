"""Pictures beside each other: originals, and what models drew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amnestic.audit.evidence import EVIDENCE_SIDE, thumbnail
from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.core.records import Prompt, Unit
from amnestic.core.store import Record, Run
from amnestic.notebook.view import View, view_of
from amnestic.report.blocks import Block, Strip, Tile
from amnestic.report.wording import named, number
from amnestic.sources.images import ImageProblem, open_image
from amnestic.stages.originals import pictures_of
from amnestic.stages.scores import threshold_of

if TYPE_CHECKING:
    from PIL import Image


def show_pairs(run: Path, references: Path, *, n: int = 4, label: str = "VM") -> View:
    """Originals beside what the model drew for their captions, most similar first; copies are framed.

    Args:
        run: Folder of a finished audit.
        references: Folder of the originals.
        n: Prompts.
        label: Which prompts: a label of the prompt list, such as ``VM``, ``heldout`` or ``base``.

    Returns:
        Pictures.
    """
    opened = Run.open(run)
    scores = _scores(opened)
    chosen = _listed(opened, label, {name: max(some.values()) for name, some in scores.items()})[:n]
    originals, threshold = _originals(opened, references, chosen), threshold_of(opened)
    strips = []
    for prompt in chosen:
        drawn = sorted(scores[prompt.id].items(), key=lambda one: (-one[1], one[0]))
        tiles = [_original(originals, prompt)] if prompt.image else []
        tiles += [_drawn(opened, prompt, seed, score, threshold) for seed, score in drawn]
        strips.append(Strip(title=_title(prompt), prompt=prompt.prompt, tiles=tuple(tiles)))
    return view_of([Block(strips=tuple(strips), note=_told(label, threshold))])


def show_before_after(before: Path, after: Path, references: Path, *, n: int = 4, label: str = "VM") -> View:
    """Originals, and what two models drew for the same captions and seeds.

    Args:
        before: Folder of the audit of the model before an edit.
        after: The same of the model after it.
        references: Folder of the originals.
        n: Prompts, those that were most similar before first.
        label: Which prompts: a label of the prompt list.

    Returns:
        Pictures.
    """
    one, other = Run.open(before), Run.open(after)
    scores = _scores(one), _scores(other)
    chosen = _listed(one, label, {name: max(some.values()) for name, some in scores[0].items()})
    chosen = [p for p in chosen if p.id in scores[1]][:n]
    originals, threshold = _originals(one, references, chosen), threshold_of(one)
    strips = []
    for prompt in chosen:
        tiles = [_original(originals, prompt)] if prompt.image else []
        for when, run, found in (("before", one, scores[0]), ("after", other, scores[1])):
            tiles += [_drawn(run, prompt, seed, score, threshold, f"{when}, ")
                      for seed, score in sorted(found[prompt.id].items())]  # fmt: skip
        strips.append(Strip(title=_title(prompt), prompt=prompt.prompt, tiles=tuple(tiles)))
    return view_of([Block(strips=tuple(strips), note=_told(label, threshold))])


def show_attempts(run: Path, attacked: Record, references: Path, *, arm: str = "works", n: int = 4) -> View:
    """Originals, and what the model drew before the search and with what was found.

    Args:
        run: Folder of the audit whose model was attacked.
        attacked: Record of `amnestic.stages.attack`.
        references: Folder of the originals.
        arm: Such as ``works`` or ``heldout``.
        n: Works.

    Returns:
        Pictures.

    Raises:
        InputError: If the attack has no such arm.
    """
    arms, opened = attacked.data["arms"], Run.open(run)
    if arm not in arms:
        hint = did_you_mean(arm, arms) or "; name another"
        raise InputError(f"expected an arm of {', '.join(arms)}, got {arm}{hint}")
    record = opened.record(arms[arm])
    prompts = {p.id: p for p in _prompts(opened)}
    chosen = [prompts[name] for name in record.data["goals"]][:n]
    originals, threshold = _originals(opened, references, chosen), float(record.data["threshold"])
    strips = []
    for place, prompt in enumerate(chosen):
        tiles = [_original(originals, prompt)]
        for when, step in (("before", 0), ("after", -1)):
            score = float(record.tensors["scores"][place, 0, step, 0])
            png = thumbnail(record.tensors[f"image_{when}"][place].numpy())
            tiles.append(Tile(f"{when}, {number(score)}", png, score > threshold))
        strips.append(Strip(title=_title(prompt), prompt=prompt.prompt, tiles=tuple(tiles)))
    return view_of([Block(strips=tuple(strips), note=f"{_told(arm, threshold)} First seed of each.")])


def show_pictures(pictures: Mapping[str, "Image.Image | np.ndarray"]) -> View:
    """Pictures side by side.

    Args:
        pictures: 8-bit RGB, as Pillow images or arrays ``(H, W, 3)``, by caption.

    Returns:
        Pictures.
    """
    tiles = tuple(Tile(caption, thumbnail(np.asarray(one))) for caption, one in pictures.items())
    return view_of([Block(strips=(Strip(tiles=tiles),))])


def _prompts(run: Run) -> list[Prompt]:
    """Every prompt of an audit once, in its order."""
    rows = {row["prompt_id"]: row for row in reversed(run.read_table("samples"))}
    return [
        Prompt(id=name, prompt=r["prompt"], image=r["original"] or "", label=r["label"], rung=r["rung"])
        for name, r in reversed(rows.items())
    ]


def _scores(run: Run) -> dict[str, dict[int, float]]:
    """Similarity by prompt and seed: with its own original, or with the nearest one where it has none."""
    found: dict[str, dict[int, float]] = {}
    for row in run.read_table("matches"):
        own = row["sscd_paired"]
        found.setdefault(row["prompt_id"], {})[row["seed"]] = row["sscd_nearest"] if own is None else own
    return found


def _listed(run: Run, label: str, best: Mapping[str, float]) -> list[Prompt]:
    prompts = _prompts(run)
    chosen = [p for p in prompts if p.label == label and p.id in best]
    if not chosen:
        there = sorted({p.label for p in prompts})
        raise InputError(
            f"expected a label of {', '.join(there)}, got {label}{did_you_mean(label, there)}; name another"
        )
    return sorted(chosen, key=lambda p: -best[p.id])


def _originals(run: Run, references: Path, prompts: Sequence[Prompt]) -> Mapping[str, Any]:
    """Pictures of originals by prompt id, in the size of the images where these were kept."""
    named_ones = [p for p in prompts if p.image]
    seeds = run.manifest()["settings"]["seeds"]
    files = (run.image_file(Unit(p.id, seed)) for p in named_ones for seed in seeds)
    kept = next((file for file in files if file.is_file()), None)
    side = EVIDENCE_SIDE if kept is None else open_image(kept).shape[0]
    return pictures_of(run, references, named_ones, side)


def _original(originals: Mapping[str, Any], prompt: Prompt) -> Tile:
    return Tile("original", thumbnail(originals[prompt.id]) if prompt.id in originals else None)


def _drawn(run: Run, prompt: Prompt, seed: int, score: float, threshold: float, when: str = "") -> Tile:
    try:
        png = thumbnail(open_image(run.image_file(Unit(prompt.id, seed))))
    except ImageProblem:  # only its latent was kept, or it is gone
        png = None
    return Tile(f"{when}seed {seed}: {number(score)}", png, score > threshold)


def _title(prompt: Prompt) -> str:
    return prompt.id if prompt.rung is None else f"{prompt.id} (rung {prompt.rung})"


def _told(label: str, threshold: float) -> str:
    what = "the nearest original" if label == "base" else "the original"
    name = named(label)
    return f"{name[:1].upper()}{name[1:]}. Numbers are similarities with {what}; framed above {number(threshold)}."
