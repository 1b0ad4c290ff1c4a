"""Picks the image descriptor that decides what counts as a copy, and says why."""

from dataclasses import dataclass
from pathlib import Path

import torch

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.core.protocols import Encoder
from amnestic.core.records import Descriptor, Threshold
from amnestic.model import sscd_onnx
from amnestic.model.feeding import Size
from amnestic.model.sscd import config_beside, load_sscd, read_config, weights_file
from amnestic.model.sscd_weights import PUBLISHED, default_cache, file_digest

CHOICES = ("auto", "sscd", "sscd-onnx", "sscd-mini")
SMALL_PICTURE = 128
COPY = 0.7
COPY_SOURCE = "published: NeMo (Hintersdorf et al. 2024) and DoRI use SSCD > 0.7"


@dataclass(frozen=True, kw_only=True)
class _Wish:
    size: Size
    weights: Path | None
    preprocessing: str | None
    bundled: Path | None
    allow_torchscript: bool
    device: torch.device | str
    batch: int
    cache: Path

    @property
    def feeding(self) -> str:
        return self.preprocessing or ("native" if max(self.size) <= SMALL_PICTURE else "short-288")

    @property
    def pixels(self) -> str:
        height, width = self.size
        return f"{height} px" if height == width else f"{width} x {height} px"

    @property
    def feeding_why(self) -> str:
        if self.preprocessing:
            return "its preprocessing was asked for"
        if self.feeding == "native":
            return f"all pictures are fed at the model's {self.pixels}, since SSCD is unstable on enlarged ones"
        return "pictures are fed at short side 288, as its authors recommend"


def choose_descriptor(
    wanted: str = "auto",
    *,
    image_size: int | Size,
    weights: Path | None = None,
    preprocessing: str | None = None,
    bundled: Path | None = None,
    allow_torchscript: bool = False,
    device: torch.device | str = "cpu",
    batch: int = 32,
    cache: Path | None = None,
) -> Encoder:
    """The descriptor that was asked for, or the best one at hand.

    ``auto`` takes the first of: the weights that were given; the published weights when they are in
    the cache; the installed extra ``sscd-onnx``; the bundled sscd-mini when pictures have its size;
    the published weights, downloaded.

    Args:
        wanted: ``auto``, ``sscd``, ``sscd-onnx`` or ``sscd-mini``.
        image_size: Side of the model's pictures, or their height and width, in pixels; ``native`` feeds every picture
            at it, references too.
        weights: SSCD weight file, or a folder of sscd-mini.
        preprocessing: One of `amnestic.model.feeding.PREPROCESSINGS`; `None` for ``native`` up to
            128 pixels and ``short-288`` above, or what sscd-mini was trained with.
        bundled: Folder of the sscd-mini that comes with a testbed.
        allow_torchscript: Whether a TorchScript file, which is code, may be run.
        device: Where it computes; the int8 version always computes on the CPU.
        batch: Most pictures in one run.
        cache: Folder for downloads; `None` for the user's cache folder.

    Returns:
        The encoder; `descriptor.why` says in a sentence which one it is and why.

    Raises:
        InputError: If the name is unknown, options contradict, or nothing usable is at hand.
    """
    if wanted not in CHOICES:
        raise InputError(
            f"expected a descriptor out of {', '.join(CHOICES)}, got {wanted!r}{did_you_mean(wanted, CHOICES)}"
        )
    wish = _Wish(
        size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        weights=weights,
        preprocessing=preprocessing,
        bundled=bundled,
        allow_torchscript=allow_torchscript,
        device=device,
        batch=batch,
        cache=cache or default_cache(),
    )
    kind, reason = _pick(wish) if wanted == "auto" else (wanted, "it was asked for by name")
    if kind == "sscd-onnx":
        return _int8(wish, reason)
    return _mini(wish, reason) if kind == "sscd-mini" else _published(wish, reason)


def published_threshold(descriptor: Descriptor, *, bundled: Path | None = None) -> Threshold:
    """The threshold above which a similarity under this descriptor counts as a copy.

    Args:
        descriptor: Identity of the descriptor.
        bundled: Folder or weights of the sscd-mini that it came from; the ``config.json`` there holds the threshold.

    Returns:
        0.7 for the SSCD models trained on DISC, or the calibrated value of a small SSCD, on cosine
        similarity in [-1, 1]. The provenance says when the setting is not the published one.

    Raises:
        InputError: If there is none for this descriptor; calibrate one or give it.

    Source:
        Hintersdorf et al., NeurIPS 2024, for 0.7 with ``sscd_disc_mixup`` at ``square-320``.
    """
    if descriptor.name.startswith("sscd_disc_"):
        notes = (
            []
            if descriptor.preprocessing == "square-320"
            else [f"fed as {descriptor.preprocessing} instead of square-320"]
        )
        notes += ["int8 instead of float weights"] if descriptor.name.endswith("-int8") else []
        return Threshold(
            value=COPY, provenance="; here ".join([COPY_SOURCE, *([" and ".join(notes)] if notes else [])])
        )
    config = config_beside(bundled) if bundled is not None else None
    if bundled is None or config is None:
        raise InputError(f"no threshold is published for {descriptor.name}; give one with --threshold")
    if file_digest(weights_file(bundled)) != descriptor.digest:
        raise InputError(
            f"the threshold in {bundled} is of other weights than {descriptor.id}; give the matching folder"
        )
    if config.threshold is None:
        raise InputError(f"{config.name} in {bundled} has not been calibrated; give a threshold, or build it again")
    return Threshold(value=config.threshold, provenance="calibrated by the testbed builder")


def _pick(wish: _Wish) -> tuple[str, str]:
    """Which descriptor ``auto`` stands for, and the reason."""
    if wish.weights is not None:
        return "sscd", f"the weights {wish.weights.name} were given"
    if (wish.cache / PUBLISHED).exists():
        return "sscd", "the published weights are in the cache"
    if sscd_onnx.is_installed():
        return "sscd-onnx", "the published weights are not in the cache and the extra sscd-onnx is installed"
    if wish.bundled is not None and (read_config(wish.bundled / "config.json").size,) * 2 == wish.size:
        return "sscd-mini", f"no SSCD is at hand and pictures are {wish.pixels}, the size of the bundled one"
    return "sscd", "no descriptor was at hand, so the published weights were downloaded"


def _published(wish: _Wish, reason: str) -> Encoder:
    is_small = wish.weights is not None and config_beside(wish.weights) is not None
    return load_sscd(
        weights=wish.weights,
        cache=wish.cache,
        preprocessing=wish.preprocessing if is_small else wish.feeding,
        size=wish.size,
        allow_torchscript=wish.allow_torchscript,
        device=wish.device,
        batch=wish.batch,
        why=f"SSCD, because {reason}" + ("" if is_small else f"; {wish.feeding_why}"),
    )


def _int8(wish: _Wish, reason: str) -> Encoder:
    if wish.weights is not None:
        raise InputError("sscd-onnx has its own weights, got --sscd-weights too; leave one of the two out")
    why = f"SSCD in int8, because {reason}; {wish.feeding_why}"
    return sscd_onnx.load_sscd_onnx(preprocessing=wish.feeding, size=wish.size, batch=wish.batch, why=why)


def _mini(wish: _Wish, reason: str) -> Encoder:
    folder = wish.weights or wish.bundled
    if folder is None:
        raise InputError("sscd-mini comes with a testbed, and none was given; use a testbed's model, or sscd")
    read_config(weights_file(folder).with_name("config.json"))
    return load_sscd(
        weights=folder,
        cache=wish.cache,
        preprocessing=wish.preprocessing,
        device=wish.device,
        batch=wish.batch,
        why=f"sscd-mini, because {reason}; pictures are resized to its side when theirs differs",
    )
