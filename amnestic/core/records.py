"""The vocabulary that crosses walls: units, sampling settings, identities, rates.

Everything here is frozen plain data that turns into JSON and back.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

SCHEMA = 1


class Unit(NamedTuple):
    """The smallest piece of work: one image.

    Attributes:
        prompt_id: Which prompt.
        seed: Which starting noise.
    """

    prompt_id: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One row of a prompt list.

    Attributes:
        id: Unique, used in file names (letters, digits, dot, dash, underscore).
        prompt: The text given to the model; hostile until shown otherwise.
        image: Path of the original, relative to the reference folder, or empty.
        label: ``VM`` (verbatim), ``TM`` (template), ``heldout``, ``base`` or ``none``.
        work: Identifier of the work when the list names one, or empty.
        rung: Rung of a multiplicity ladder when the list names one; higher was seen more often.
        mask: Path of the mask of a template's varying region, relative, or empty.
    """

    id: str
    prompt: str
    image: str = ""
    label: str = "none"
    work: str = ""
    rung: int | None = None
    mask: str = ""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are drawn.

    Attributes:
        scheduler: Name of a diffusers scheduler class, or ``model`` for the model's own.
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance; 1 switches it off.
        height: Pixels, or ``None`` for the model's own size.
        width: Pixels, or ``None`` for the model's own size.
    """

    scheduler: str = "DDIMScheduler"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None

    @property
    def rows_per_image(self) -> int:
        """Rows through the U-Net that an image costs: one a step, and another with guidance."""
        return self.num_inference_steps * (2 if self.guidance_scale > 1 else 1)


class Keep(StrEnum):
    """What a run keeps of each image it draws: the image, the latent it is decoded from, or both."""

    IMAGES = "images"
    LATENTS = "latents"
    BOTH = "both"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA that was put into a model's weights.

    Attributes:
        name: File or hub id, as it was given.
        scale: How strongly.
        sha256: Hash of its file.
    """

    name: str
    scale: float
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TargetId:
    """Which model, exactly.

    Attributes:
        name: Hub id, folder name or class of a live pipeline.
        family: Supported model family.
        revision: Hub revision, or empty.
        variant: Weight variant such as ``fp16``, or empty.
        dtype: Precision that computes.
        digest: Hash over all weights and configs, adapters included.
        config: Folder with the settings of a checkpoint in one file, or empty.
        adapters: LoRAs that are in the weights, in order.
    """

    name: str
    family: str
    revision: str = ""
    variant: str = ""
    dtype: str = "float32"
    digest: str = ""
    config: str = ""
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Which image descriptor, exactly; scores of different descriptors are never compared.

    Attributes:
        name: Such as ``sscd_disc_mixup`` or ``sscd-mini``.
        preprocessing: How pictures are fed, such as ``short-288``, ``square-320``, ``native``.
        digest: Hash of its weights.
        why: Why this one was picked.
    """

    name: str
    preprocessing: str
    digest: str
    why: str = ""

    @property
    def id(self) -> str:
        """Name, preprocessing and the start of the weights' hash."""
        return f"{self.name}/{self.preprocessing}/{self.digest[:8]}"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share with what is needed to judge it.

    Attributes:
        estimate: Events over trials, or ``None`` without trials.
        lower: Lower end of the two-sided 95 % interval.
        upper: Upper end of the two-sided 95 % interval.
        upper_one_sided: One-sided 95 % Clopper-Pearson upper bound.
        n: Number of independent units.
        method: How the interval was made.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    upper_one_sided: float | None
    n: int
    method: str


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A decision threshold on a similarity score; a copy scores above it.

    Attributes:
        value: Threshold on cosine similarity, in [-1, 1].
        provenance: ``published``, ``calibrated`` or ``given``, and from what.
        false_positive_rate: Declared rate on null pairs when calibrated.
        n_null: Null pairs used for it.
    """

    value: float
    provenance: str
    false_positive_rate: float | None = None
    n_null: int = 0


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that must agree before two memorization rates may be compared.

    Attributes:
        n_seeds: Seeds per prompt.
        sampling: Sampling settings.
        descriptor: Descriptor with its preprocessing.
        threshold: Threshold that decides replication.
    """

    n_seeds: int
    sampling: Sampling
    descriptor: str
    threshold: float

    @property
    def id(self) -> str:
        """Short digest of all of the above."""
        return digest(self)[:12]


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """Name and parameters of a method, enough to build it again."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def plain(value: Any) -> Any:  # noqa: ANN401 - JSON values are of any type
    """A dataclass, tuple or mapping as JSON-ready values."""
    if hasattr(value, "__dataclass_fields__"):
        return {k: plain(v) for k, v in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    return value


def digest(*values: Any) -> str:  # noqa: ANN401 - anything that is plain data
    """SHA-256 over the canonical JSON of some plain values.

    Example:
        >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
        True
    """
    text = json.dumps([plain(v) for v in values], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
