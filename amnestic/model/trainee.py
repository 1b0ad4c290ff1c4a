"""A copy of a model's U-Net that learns, beside the model itself, which stays as it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amnestic.core.errors import UnsupportedModel
from amnestic.core.seeds import generator
from amnestic.model.target import PipelineTarget

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")


class LowRank(nn.Module):
    """A weight matrix plus a product of two thin ones; zero at first.

    Formula: ``W + B A`` with A of ``rank x in`` drawn from ``N(0, 1 / in)`` and B of ``out x rank`` zero.
    """

    def __init__(self, weight: Tensor, rank: int, rng: torch.Generator) -> None:
        """For one weight matrix, whose precision and device it takes."""
        super().__init__()
        out, inside = weight.shape
        down = torch.randn(rank, inside, generator=rng) / inside**0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(torch.zeros(out, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that computes."""
        return weight + self.up @ self.down


@dataclass(frozen=True, kw_only=True)
class TrainedCopy(PipelineTarget):
    """A target with a U-Net of its own, in float32, that learns; everything else is shared with the model.

    Attributes:
        trained: What learns, by path in the U-Net.
        dtype: Of the model before.
        precision: ``no``, ``bf16`` or ``fp16``: what the U-Net computes in.
    """

    trained: Mapping[str, nn.Parameter] = field(repr=False, compare=False)
    dtype: torch.dtype
    precision: str = "no"

    @classmethod
    def of(
        cls, target: PipelineTarget, *, parameters: str = "full", lora_rank: int = 16, lora_layers: str = "attention",
        precision: str = "no", checkpointing: bool = False, seed: int = 0,
    ) -> "TrainedCopy":  # fmt: skip
        """A copy of a model of which some weights learn.

        Args:
            target: The model; not changed.
            parameters: ``full``, ``cross-attention``, ``not-cross-attention``, ``value`` or ``lora``.
            lora_rank: Rank with ``lora``.
            lora_layers: ``attention`` or ``attention+ff``.
            precision: What the U-Net computes in.
            checkpointing: Compute activations again instead of keeping them.
            seed: Seed of what ``lora`` begins with.

        Raises:
            UnsupportedModel: If the U-Net has no weight of the kind.
        """
        unet = nn.Module.to(deepcopy(target.pipeline.unet), dtype=torch.float32)
        own = target.with_unet(unet)
        if parameters == "lora":
            trained = _add_low_rank(unet, rank=lora_rank, layers=lora_layers, seed=seed)
        else:
            trained = {name: p for name, p in unet.named_parameters() if _learns(name, parameters)}
        if not trained:
            raise UnsupportedModel(f"{target.ident.name} has no weights of the kind {parameters}; choose another")
        for parameter in trained.values():
            parameter.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        return cls(
            ident=target.ident, pipeline=own.pipeline, trained=trained, precision=precision,
            dtype=target.pipeline.unet.dtype,
        )  # fmt: skip

    def predict(
        self, x: Float[Tensor, "N C H W"], t: Int[Tensor, "N"], cond: Float[Tensor, "N L W"]
    ) -> Float[Tensor, "N C H W"]:
        """Predicted noise, differentiable in `x`, `cond` and the weights; computed in `precision`, told in float32."""
        kind = AUTOCAST.get(self.precision)
        with torch.autocast(x.device.type, kind) if kind is not None else nullcontext():
            found = super().predict(x.float(), t, cond.float())
        return found.float()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Weights need no gradient inside: for searches against the current weights."""
        for parameter in self.trained.values():
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.trained.values():
                parameter.requires_grad_(True)

    def learned(self, values: Mapping[str, Tensor] | None = None) -> PipelineTarget:
        """What was learned, as a model of its own: merged, in the precision of the model before.

        Args:
            values: Of the weights that learn, such as an average, by path; default the current ones.

        Returns:
            A target that shares nothing that learns; its digest is that of its weights.
        """
        unet = deepcopy(self.pipeline.unet)
        if values is not None:
            inside = dict(unet.named_parameters())
            with torch.no_grad():
                for name, value in values.items():
                    inside[name].copy_(value)
        unet.disable_gradient_checkpointing()
        _merge(unet)
        return self.with_unet(nn.Module.to(unet, dtype=self.dtype))


def _learns(name: str, parameters: str) -> bool:
    across = ".attn2." in name
    return {
        "full": True, "cross-attention": across, "not-cross-attention": not across,
        "value": across and ".to_v." in name,
    }[parameters]  # fmt: skip


def _add_low_rank(unet: nn.Module, *, rank: int, layers: str, seed: int) -> dict[str, nn.Parameter]:
    """Let linear layers of attention (and feed-forward) blocks learn a product of two thin matrices."""
    ends = ATTENTION + (FEED_FORWARD if layers == "attention+ff" else ())
    chosen = [(name, m) for name, m in unet.named_modules() if isinstance(m, nn.Linear) and _ends(name, ends)]
    trained: dict[str, nn.Parameter] = {}
    for name, module in chosen:
        low = LowRank(module.weight, rank, generator(seed, "lora", name))
        parametrize.register_parametrization(module, "weight", low)
        path = f"{name}.parametrizations.weight.0"
        trained |= {f"{path}.down": low.down, f"{path}.up": low.up}
    return trained


def _ends(name: str, ends: tuple[str, ...]) -> bool:
    return "transformer_blocks." in name and any(name.endswith(f".{end}") for end in ends)


def _merge(unet: nn.Module) -> None:
    """Weights of low-rank layers become plain ones again, with what they learned."""
    for module in list(unet.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            rest = [n for n in module._parameters if n != "weight"]
            for name in rest:  # the weight comes first, as in a layer that never was low-rank
                module._parameters[name] = module._parameters.pop(name)


def changed(before: PipelineTarget, after: PipelineTarget) -> dict[str, int]:
    """How much of a U-Net differs from another of the same shape.

    Args:
        before: One model.
        after: The other.

    Returns:
        ``weights`` that differ, ``of`` how many, and ``bytes`` of the parameters that hold any of them.
    """
    theirs = dict(before.pipeline.unet.named_parameters())
    found = {"weights": 0, "of": 0, "bytes": 0}
    for name, parameter in after.pipeline.unet.named_parameters():
        n = int((parameter != theirs[name].to(parameter.device)).sum())
        found["weights"] += n
        found["of"] += parameter.numel()
        found["bytes"] += parameter.numel() * parameter.element_size() if n else 0
    return found
