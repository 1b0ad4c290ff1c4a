"""Looking at what passes through a site, and changing it, without leaving a trace behind.

Every tap is a context manager: its hooks are gone when it ends, also when something was raised.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from amnestic.core.errors import AmnesticError, InputError
from amnestic.core.tape import Keep, Passing, Tape
from amnestic.core.units import Site, Units
from amnestic.model.sites import layer

WHY_SILENT = (
    "its projections may be fused (unfuse_qkv_projections() undoes that), another attention processor may bypass it, "
    "or nothing was drawn inside the tap"
)


class TapNeverFired(AmnesticError):
    """A tap was laid and nothing passed through it."""


@contextmanager
def record(unet: nn.Module, sites: Sequence[Site], keep: Keep) -> Iterator[Tape]:
    """Show every call of some sites to `keep`.

    Args:
        unet: The U-Net.
        sites: Where; ``ffn`` and ``ffn-weight`` show the layer's input, ``value`` and ``key`` its output.
        keep: Called in the order of computation, without gradient.

    Yields:
        The tape; give it to `PipelineTarget.sample`, or start it yourself before calling the U-Net.

    Raises:
        TapNeverFired: If a site saw nothing although the tap ended well.
    """
    tape = Tape()
    with ExitStack() as hooks:
        hooks.enter_context(_counting(unet, tape))
        for site in sites:
            hooks.enter_context(_watching(layer(unet, site), site, tape, keep))
        yield tape
    silent = [site.name for site in sites if site.name not in tape.fired]
    if silent:
        raise TapNeverFired(f"nothing passed through {', '.join(silent)}: {WHY_SILENT}")


@contextmanager
def scaled(unet: nn.Module, units: Units, factor: float = 0.0) -> Iterator[None]:
    """Multiply what the chosen neurons say by a factor, in every row, token and step.

    Args:
        unet: The U-Net.
        units: Neurons (``ffn``, ``value`` or ``key``).
        factor: 0 silences them.

    Raises:
        InputError: If the units are weights; make an edit of them instead.
    """
    with masked(unet, {s: torch.where(units.masks[s.name], factor, 1.0) for s in units.sites}):
        yield


@contextmanager
def masked(unet: nn.Module, factors: Mapping[Site, Float[Tensor, "... U"]]) -> Iterator[None]:
    """Multiply what neurons say, each row of the batch by factors of its own if wanted.

    Args:
        unet: The U-Net.
        factors: For each site ``(U,)``, or ``(N, U)`` with as many rows as the batch has.

    Raises:
        InputError: If a site is one of weights.
    """
    with ExitStack() as hooks:
        for site, factor in factors.items():
            if site.kind == "ffn-weight":
                raise InputError(f"expected neurons, got weights at {site.name}; make an edit of them instead")
            if not bool((factor == 1).all()):
                hooks.enter_context(_scaling(layer(unet, site), site, factor))
        yield


@contextmanager
def _counting(unet: nn.Module, tape: Tape) -> Iterator[None]:
    def count(_module: nn.Module, _args: Any, _kwargs: Any) -> None:  # noqa: ANN401 - whatever the U-Net takes
        tape.step += 1

    handle = unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watching(linear: nn.Linear, site: Site, tape: Tape, keep: Keep) -> Iterator[None]:
    def see(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        conditional, unconditional = tape.halves((inputs[0] if site.kind.startswith("ffn") else output).detach())
        tape.fired.add(site.name)
        keep(Passing(site=site, step=tape.step, conditional=conditional, unconditional=unconditional))

    handle = linear.register_forward_hook(see)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _scaling(linear: nn.Linear, site: Site, factor: Tensor) -> Iterator[None]:
    def fitting(values: Tensor) -> Tensor:
        there = factor.to(values.device, values.dtype)
        return values * (there if there.ndim == 1 else there[:, None])

    def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (fitting(inputs[0]), *inputs[1:])

    def after(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return fitting(output)

    handle = linear.register_forward_pre_hook(before) if site.kind == "ffn" else linear.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
