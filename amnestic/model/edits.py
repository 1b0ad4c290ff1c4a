"""Applies edits to a live U-Net, and takes them back bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from amnestic.core.edits import Change, Edit
from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.core.units import Units
from amnestic.model.sites import layer


@contextmanager
def edited(unet: nn.Module, edit: Edit) -> Iterator[None]:
    """A U-Net with an edit applied, and as it was before afterwards, also when something was raised.

    Args:
        unet: The U-Net; its weights change in place for the time being.
        edit: Made for this model.

    Raises:
        InputError: If the edit was made for other weights.
    """
    apply(unet, edit)
    try:
        yield
    finally:
        apply(unet, edit.inverse())


@torch.no_grad()
def apply(unet: nn.Module, edit: Edit) -> None:
    """Set the touched weights to their new values, in place; all of them or none.

    Args:
        unet: The U-Net.
        edit: What to change.

    Raises:
        InputError: If a parameter is missing, or holds other values than the edit was made for.
    """
    require_fit(unet, edit)
    parameters = dict(unet.named_parameters())
    for path, change in edit.changes.items():
        flat = parameters[path].view(-1)
        flat[change.at.to(flat.device)] = change.after.to(flat.device)


def require_fit(unet: nn.Module, edit: Edit) -> None:
    """Refuse an edit that was made for other weights; changes nothing.

    Raises:
        InputError: If a parameter is missing, or holds other values than the edit was made for.
    """
    parameters = dict(unet.named_parameters())
    for path, change in edit.changes.items():
        _require_fit(parameters, path, change)


def _require_fit(parameters: dict[str, nn.Parameter], path: str, change: Change) -> None:
    if path not in parameters:
        raise InputError(f"the edit changes {path}, which this model lacks{did_you_mean(path, parameters)}")
    there = parameters[path]
    if change.before.dtype != there.dtype:
        raise InputError(
            f"the edit was made in {_plain(change.before)}, {path} is in {_plain(there)}; load the model in the "
            "precision it was edited in"
        )
    if len(change.at) and int(change.at[-1]) >= there.numel():
        raise InputError(f"the edit reaches beyond the end of {path}; it was made for another model")
    now = there.detach().reshape(-1)[change.at.to(there.device)].cpu()
    if not torch.equal(_bits(now), _bits(change.before)):
        raise InputError(
            f"{path} holds other values than the edit was made for; apply it to the model it was made for, once, "
            "after the edits that came before it"
        )


def _plain(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _bits(values: Tensor) -> Tensor:
    """Raw bytes: minus zero is not zero, and NaN equals itself."""
    return values.contiguous().view(torch.uint8)


def touched(unet: nn.Module, units: Units) -> dict[str, Tensor]:
    """Places of the weights through which the chosen units speak, by path of the parameter.

    A feed-forward weight is its own place; a feed-forward neuron is a column of the layer that it enters; a
    value or key neuron is a row of its projection, and its bias where there is one.

    Args:
        unet: The U-Net.
        units: The choice.

    Returns:
        Ascending places in the flattened parameters, int64; parameters without any are left out.
    """
    places: dict[str, Tensor] = {}
    for site in units.sites:
        linear, mask = layer(unet, site), units.masks[site.name].cpu()
        if site.kind == "ffn":
            mask = mask.expand(linear.out_features, -1)
        elif site.kind in ("value", "key"):
            if linear.bias is not None:
                places[f"{site.name}.bias"] = mask.nonzero().flatten()
            mask = mask[:, None].expand(-1, linear.in_features)
        places[f"{site.name}.weight"] = mask.reshape(-1).nonzero().flatten()
    return {path: at for path, at in places.items() if len(at)}


@torch.no_grad()
def scaling(unet: nn.Module, units: Units, factor: float) -> dict[str, Change]:
    """The change that multiplies what the chosen units say by a factor.

    Args:
        unet: The U-Net; not changed.
        units: The choice.
        factor: 0 removes them; -0.0 never appears in what is written.

    Returns:
        Changes by path of the parameter.
    """
    parameters = dict(unet.named_parameters())
    changes = {}
    for path, at in touched(unet, units).items():
        before = parameters[path].detach().reshape(-1).cpu()[at].clone()
        after = torch.zeros_like(before) if factor == 0 else before * factor
        changes[path] = Change(at=at, before=before, after=after)
    return changes
