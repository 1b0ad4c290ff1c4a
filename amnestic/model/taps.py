"""Looking at what passes through a site, and changing it, without leaving a trace behind.

Every tap is a context manager: its hooks are gone when it ends, also when something was raised.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from amnestic.core.errors import AmnesticError, InputError
from amnestic.core.tape import Keep, Passing, Tape
from amnestic.core.units import Site, Units
from amnestic.model.sites import layer

Tap = Callable[[nn.Linear, Site, Tape, Keep], AbstractContextManager[None]]

WHY_SILENT = (
    "its projections may be fused (unfuse_qkv_projections() undoes that), another attention processor may bypass it, "
    "or nothing was drawn inside the tap"
)

WHY_FLAT = (
    "the loss does not depend on it, no backward pass inside the tap asked for the gradient of what it depends on"
)
WHY_FROZEN = (
    "let the latents (for value and key the conditioning) require one, and call the U-Net under torch.enable_grad()"
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
    with _laid(unet, sites, _watching, keep) as tape:
        yield tape
    _all_fired(tape, sites, f"nothing passed through {{}}: {WHY_SILENT}")


@contextmanager
def attributed(unet: nn.Module, sites: Sequence[Site], keep: Keep) -> Iterator[Tape]:
    """Show activation x gradient of some sites to `keep` while a backward pass runs.

    Whatever calls for a gradient does: ``loss.backward()``, or ``torch.autograd.grad(loss, x)``, which
    leaves nothing in ``.grad``. ``ffn`` sites lie between `x` and the loss; a ``value`` or ``key`` site
    hangs on the conditioning alone, so ask for the gradient of that as well.

    Args:
        unet: The U-Net.
        sites: Where; ``ffn`` and ``ffn-weight`` show the layer's input, ``value`` and ``key`` its output.
        keep: Called once per site and call of the U-Net, during the backward pass and in its order, with the
            float32 product, detached; `step` is that of the forward pass.

    Yields:
        The tape; leave it unguided and call the U-Net with rows of prompts only.

    Raises:
        TapNeverFired: If what a site saw requires no gradient, or no gradient reached a site although the
            tap ended well.
    """
    with _laid(unet, sites, _weighing, keep) as tape:
        yield tape
    _all_fired(tape, sites, f"no gradient reached {{}}: {WHY_FLAT}, {WHY_SILENT}")


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
def _laid(unet: nn.Module, sites: Sequence[Site], tap: Tap, keep: Keep) -> Iterator[Tape]:
    tape = Tape()
    with ExitStack() as hooks:
        hooks.enter_context(_counting(unet, tape))
        for site in sites:
            hooks.enter_context(tap(layer(unet, site), site, tape, keep))
        yield tape


def _all_fired(tape: Tape, sites: Sequence[Site], message: str) -> None:
    silent = [site.name for site in sites if site.name not in tape.fired]
    if silent:
        raise TapNeverFired(message.format(", ".join(silent)))


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
def _weighing(linear: nn.Linear, site: Site, tape: Tape, keep: Keep) -> Iterator[None]:
    def see(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values, step = inputs[0] if site.kind.startswith("ffn") else output, tape.step
        if not values.requires_grad:
            raise TapNeverFired(f"nothing at {site.name} requires a gradient: {WHY_FROZEN}")
        activation = values.detach()

        def weigh(gradient: Tensor) -> None:
            product = activation.float() * gradient.detach().float()
            conditional, unconditional = tape.halves(product)
            tape.fired.add(site.name)
            keep(Passing(site=site, step=step, conditional=conditional, unconditional=unconditional))

        handles.callback(values.register_hook(weigh).remove)

    with ExitStack() as handles:
        handles.callback(linear.register_forward_hook(see).remove)
        yield


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
