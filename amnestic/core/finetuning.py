"""What fine-tuning is given, and what its author writes: the losses of some rows of one step, from named draws."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, ClassVar, Protocol

from amnestic.core.attacks import Attack, AttackCase, Goal
from amnestic.core.errors import InputError
from amnestic.core.methods import Method
from amnestic.core.records import Prompt, Sampling, digest
from amnestic.core.seeds import generator
from amnestic.core.target import Target

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

PARAMETERS = ("full", "cross-attention", "not-cross-attention", "value", "lora")
LORA_LAYERS = ("attention", "attention+ff")
PRECISIONS = ("no", "bf16", "fp16")
DECAYS = ("none", "linear")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image with its caption, of which the model shall stay capable.

    Attributes:
        prompt: The caption.
        latents: The image ``(C, H, W)``, scaled as the U-Net sees it.
        image: Hash of the picture, which tells it from others wherever its latents are computed.
    """

    prompt: Prompt
    latents: "Tensor" = field(repr=False, compare=False)
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a model is to forget, what to draw instead, and what to keep.

    Attributes:
        forget: Images to forget, each with its prompt.
        surrogates: By id of the goal, images ``(M, C, H, W)`` of the same meaning that are no copies.
        retain: Ordinary pairs.
        natural: Ordinary prompts: starting points of searches.
        memorized: Prompts of other memorized images: starting points of searches.
        sampling: How the model draws.
        attack: Searches adversarial embeddings while the model learns; `None`: none is made.
        describe: From pictures ``(N, 3, H, W)`` in [0, 1] to unit vectors; differentiable, and never the judge.
        describe_id: Which one.
    """

    forget: tuple[Goal, ...]
    surrogates: "Mapping[str, Float[Tensor, 'M C H W']]" = field(default_factory=dict, repr=False, compare=False)
    retain: tuple[Pair, ...] = field(default=(), repr=False)
    natural: tuple[Prompt, ...] = ()
    memorized: tuple[Prompt, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    attack: Attack | None = None
    describe: "Callable[[Tensor], Tensor] | None" = field(default=None, repr=False, compare=False)
    describe_id: str = ""

    def case(self, places: Sequence[int]) -> AttackCase:
        """What an attack on some of the images to forget is given."""
        return AttackCase(
            goals=tuple(self.forget[i] for i in places), natural=self.natural, memorized=self.memorized,
            sampling=self.sampling, describe=self.describe,
        )  # fmt: skip

    def digest(self) -> str:
        """SHA-256 over everything: prompts, images, the attack, which descriptor."""
        images = hashlib.sha256()
        some = [*((g.original, g.image) for g in self.forget), *((p.latents, p.image) for p in self.retain)]
        for known in [name for _, name in some if name]:
            images.update(known.encode())
        unnamed = [one for one, name in some if not name]
        for tensor in [*unnamed, *(self.surrogates[k] for k in sorted(self.surrogates))]:
            images.update(str(tuple(tensor.shape)).encode())
            images.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        told = [[[p.id, p.prompt] for p in some] for some in (
            [g.prompt for g in self.forget], [p.prompt for p in self.retain], self.natural, self.memorized,
        )]  # fmt: skip
        attack = self.attack.spec() if self.attack is not None else None
        described = [self.describe_id] if self.describe_id else []
        return digest(told, sorted(self.surrogates), self.sampling, attack, images.hexdigest(), *described)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of one step that are computed at once; rows count within their step, from 0.

    Attributes:
        step: Which step, from 0.
        forget: Rows about images to forget.
        retain: Rows about ordinary pairs.
        seed: Root seed of everything drawn for them.
    """

    step: int
    forget: tuple[int, ...] = ()
    retain: tuple[int, ...] = ()
    seed: int = 0

    def rng(self, what: str, row: int) -> "torch.Generator":
        """The generator of a named draw for a row of this step; the same whatever else is computed beside it."""
        return generator(self.seed, "finetune", what, str(self.step), str(row))


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What some rows of a step cost, by name of the term.

    Attributes:
        forget: Terms of one value per row in ``part.forget``; weights are multiplied in.
        retain: Terms of one value per row in ``part.retain``, likewise.

    A step minimises the sum over terms of their means over all rows of the step, however they were split.
    """

    forget: "Mapping[str, Float[Tensor, 'n']]" = field(default_factory=dict)
    retain: "Mapping[str, Float[Tensor, 'm']]" = field(default_factory=dict)


class Trainee(Target, Protocol):
    """A target that learns: `predict` is differentiable in its weights as well."""

    @property
    def trained(self) -> "Mapping[str, torch.nn.Parameter]":
        """What learns, by path in the U-Net; float32."""
        ...

    def at_rest(self) -> AbstractContextManager[None]:
        """Weights need no gradient inside: for searches against the current weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class FineTuning(Method):
    """Teaches a model to forget images; changes a copy, never the model it is given.

    Attributes:
        steps: Steps of the optimiser.
        epochs: Passes over the images to forget, instead of `steps`.
        forget_rows: Rows per step about images to forget, over all processes.
        retain_rows: Rows per step about ordinary pairs, over all processes.
        learning_rate: Of AdamW.
        warmup: Steps over which the learning rate rises to it.
        decay: ``none``, or ``linear``: from there it falls to nothing at the last step.
        weight_decay: Of AdamW.
        max_grad_norm: Longer gradients are shortened to it; 0: never.
        ema: Decay of the average of the weights that is kept; 0 keeps the last weights.
        accumulation: Into how many parts a step's rows are split, one after the other; less memory, the same step.
        parameters: What learns: ``full`` (the U-Net), ``cross-attention``, ``not-cross-attention``, ``value``
            (of cross-attention) or ``lora``.
        lora_rank: Rank with ``lora``.
        lora_layers: ``attention`` or ``attention+ff``.
        precision: ``no`` (float32), ``bf16`` or ``fp16``: what the U-Net computes in; weights stay float32.
        checkpointing: Compute activations again in the backward pass instead of keeping them; slower, less memory.
        seed: Seed of all draws.
    """

    family: ClassVar[str] = "finetuning"
    needs_surrogates: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    needs_attack: ClassVar[bool] = False
    balances: ClassVar[bool] = False
    """Whether `balance` is asked; then each term's gradient is computed by itself, at the memory of one more each."""
    steps: int = 400
    epochs: float | None = None
    forget_rows: int = 8
    retain_rows: int = 8
    learning_rate: float = 1e-5
    warmup: int = 0
    decay: str = "none"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema: float = 0.0
    accumulation: int = 1
    parameters: str = "full"
    lora_rank: int = 16
    lora_layers: str = "attention"
    precision: str = "no"
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings without meaning; authors who add settings call it with theirs."""
        known = ((self.parameters, PARAMETERS), (self.lora_layers, LORA_LAYERS), (self.precision, PRECISIONS),
                 (self.decay, DECAYS))  # fmt: skip
        for value, allowed in known:
            if value not in allowed:
                raise ValueError(f"expected {', '.join(allowed)}; got {value}")
        if min(self.steps, self.forget_rows, self.accumulation, self.lora_rank) < 1 or self.learning_rate <= 0:
            raise ValueError("steps, forget_rows, accumulation, lora_rank and learning_rate must be positive")
        if self.epochs is not None and self.epochs <= 0:
            raise ValueError(f"epochs must be positive, got {self.epochs}")
        if min(self.retain_rows, self.warmup, self.weight_decay, self.max_grad_norm) < 0 or not 0 <= self.ema < 1:
            raise ValueError("retain_rows, warmup, weight_decay, max_grad_norm must not be negative, ema in [0, 1)")
        if self.balances and self.precision == "fp16":
            raise ValueError("gradients of single terms underflow in fp16; use precision bf16 or no")

    @abstractmethod
    def losses(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: "Mapping[str, Tensor]"
    ) -> Losses:
        """Losses of some rows of a step, drawn with ``part.rng``.

        Args:
            trainee: The model as it is now; differentiable in its weights.
            frozen: The model before; its rows are counted as well.
            lesson: What to forget and to keep.
            part: The rows; `goals_of` and `pairs_of` say whose they are.
            kept: What `refresh` returned so far.

        Returns:
            One value per row and term, float32.
        """

    def stale(self, step: int, lesson: Lesson) -> tuple[int, ...]:
        """Places of the goals for which `refresh` is called before a step; each process is given its share."""
        return ()

    def refresh(
        self, step: int, trainee: Trainee, frozen: Target, lesson: Lesson, places: Sequence[int],
        kept: "Mapping[str, Tensor]",
    ) -> "Mapping[str, Tensor]":  # fmt: skip
        """Tensors made against the current weights, such as adversarial embeddings; checkpoints keep them.

        Args:
            step: Before which step.
            trainee: The model as it is now.
            frozen: The model before.
            lesson: What to forget and to keep.
            places: For which goals, a share of `stale`.
            kept: What was returned so far, by name.

        Returns:
            Tensors by name, on the CPU; they take the place of those of the same names.
        """
        return {}

    def balance(self, norms: Mapping[str, float]) -> Mapping[str, float]:
        """Factor of each term's gradient, from the lengths of all of them; asked where `balances` is set."""
        return dict.fromkeys(norms, 1.0)

    def movable(self, kept: "Mapping[str, Tensor]") -> "Mapping[str, Tensor]":
        """By path, a mask of the entries of a parameter that may change; parameters without one change entirely.

        Asked once before the first step, after `refresh`, and when training is taken up again; weight decay respects
        it too.
        """
        return {}

    def total_steps(self, lesson: Lesson) -> int:
        """Steps of the optimiser for a lesson."""
        if self.epochs is None:
            return self.steps
        return max(1, ceil(self.epochs * len(lesson.forget) / self.forget_rows))

    def rate_at(self, step: int, total: int) -> float:
        """Learning rate of a step, from 0, of so many."""
        rising = min(1.0, (step + 1) / max(self.warmup, 1))
        falling = (total - step) / max(total - self.warmup, 1) if self.decay == "linear" else 1.0
        return self.learning_rate * rising * min(1.0, falling)

    def parts(self, step: int, n: int) -> list[Part]:
        """The rows of a step in `n` times `accumulation` parts, some perhaps empty, for `n` processes."""
        pieces = n * self.accumulation
        forget, retain = (tuple(range(rows)) for rows in (self.forget_rows, self.retain_rows))
        return [Part(step=step, forget=forget[k::pieces], retain=retain[k::pieces], seed=self.seed)
                for k in range(pieces)]  # fmt: skip

    def goals_of(self, lesson: Lesson, part: Part) -> list[int]:
        """Place in ``lesson.forget`` of each forget row: all come once, in a drawn order, before any comes again."""
        return self._places("forget", len(lesson.forget), self.forget_rows, part.step, part.forget)

    def pairs_of(self, lesson: Lesson, part: Part) -> list[int]:
        """Place in ``lesson.retain`` of each retain row, likewise."""
        return self._places("retain", len(lesson.retain), self.retain_rows, part.step, part.retain)

    def _places(self, what: str, n: int, rows: int, step: int, wanted: Sequence[int]) -> list[int]:
        import torch

        orders: dict[int, list[int]] = {}
        found = []
        for row in wanted:
            epoch, place = divmod(step * rows + row, n)
            if epoch not in orders:
                drawn = torch.randperm(n, generator=generator(self.seed, "finetune", "order", what, str(epoch)))
                orders[epoch] = drawn.tolist()
            found.append(orders[epoch][place])
        return found

    def require_fit(self, target: Target, lesson: Lesson) -> None:
        """Refuse a lesson that lacks what this method needs.

        Raises:
            InputError: The sentence says what is missing.
        """
        name = self.spec().name
        if not lesson.forget:
            raise InputError("expected at least one image to forget, got none; choose other works")
        if self.needs_retain and self.retain_rows and not lesson.retain:
            raise InputError(f"{name} needs ordinary pairs to keep the model capable, got none; give some, or "
                             "retain_rows=0")  # fmt: skip
        if self.needs_attack and lesson.attack is None:
            raise InputError(f"{name} searches adversarial embeddings, but was given no attack; give one")
        lacking = [g.id for g in lesson.forget if self.needs_surrogates and not len(lesson.surrogates.get(g.id, ()))]
        if lacking:
            raise InputError(f"{name} needs a surrogate for every image to forget, got none for {', '.join(lacking)}")
        shape = target.noise_shape()
        shapes = {
            **{g.id: tuple(g.original.shape) for g in lesson.forget},
            **{p.prompt.id: tuple(p.latents.shape) for p in lesson.retain},
            **{name: tuple(s.shape[1:]) for name, s in lesson.surrogates.items()},
        }
        for owner, came in shapes.items():
            if came != shape:
                raise InputError(f"expected latents of shape {shape} for {owner}, got {came}; encode at the model's "
                                 "own size")  # fmt: skip
