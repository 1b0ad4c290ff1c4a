"""Where in a U-Net something can live: its sites, named and in the order in which they compute."""

import re
from collections.abc import Iterator

from diffusers.models.attention import GEGLU, BasicTransformerBlock
from torch import nn

from amnestic.core.errors import UnsupportedModel
from amnestic.core.names import did_you_mean
from amnestic.core.units import KINDS, Site

STAGES = ("down", "mid", "up")
OUTPUTS = {"value": "to_v", "key": "to_k"}


def sites(unet: nn.Module, kind: str) -> tuple[Site, ...]:
    """All sites of one kind, in the order in which they compute: down, mid, up.

    Args:
        unet: A U-Net of diffusers with transformer blocks.
        kind: ``ffn`` (neurons: what enters the second linear layer of a feed-forward block, the
            output of GEGLU), ``ffn-weight`` (the weights of that layer), ``value`` or ``key``
            (neurons: outputs of ``attn2.to_v`` or ``attn2.to_k`` of cross-attention).

    Returns:
        The sites.

    Raises:
        UnsupportedModel: If there is none, or a layer is wrapped or fused; says what to do.
    """
    if kind not in KINDS:
        raise UnsupportedModel(f"expected a kind of site of {', '.join(KINDS)}, got {kind}{did_you_mean(kind, KINDS)}")
    found = tuple(_site(unet, name, kind) for name, block in _blocks(unet) if _has(block, kind))
    if not found:
        raise UnsupportedModel(
            f"expected transformer blocks with {kind} layers, found none in {type(unet).__name__}; "
            "U-Nets of Stable Diffusion 1 and 2 have them"
        )
    return found


def layer(unet: nn.Module, site: Site) -> nn.Linear:
    """The linear layer of a site.

    Raises:
        UnsupportedModel: If this model has no such layer, or another one stands in its place.
    """
    try:
        module = unet.get_submodule(site.name)
    except AttributeError as error:
        raise UnsupportedModel(
            f"{site.name} was expected in {type(unet).__name__} and is not there; locate again on this model"
        ) from error
    return _plain(module, site.name)


def _blocks(unet: nn.Module) -> Iterator[tuple[str, BasicTransformerBlock]]:
    named = [(name, m) for name, m in unet.named_modules() if isinstance(m, BasicTransformerBlock)]
    yield from sorted(named, key=lambda item: _place(item[0]))


def _place(name: str) -> tuple[int, tuple[int, ...]]:
    """Stage, then the block indices as numbers: block 10 comes after block 9."""
    return STAGES.index(_stage(name)), tuple(int(n) for n in re.findall(r"\d+", name))


def _stage(name: str) -> str:
    return name.split("_", 1)[0]


def _has(block: BasicTransformerBlock, kind: str) -> bool:
    if kind.startswith("ffn"):
        return isinstance(block.ff.net[0], GEGLU)
    return block.attn2 is not None


def _site(unet: nn.Module, block: str, kind: str) -> Site:
    name = f"{block}.ff.net.2" if kind.startswith("ffn") else f"{block}.attn2.{OUTPUTS[kind]}"
    if kind in OUTPUTS and getattr(unet.get_submodule(f"{block}.attn2"), "fused_projections", False):
        raise UnsupportedModel(
            f"{block}.attn2 runs with fused projections, so {OUTPUTS[kind]} never computes; "
            "call unfuse_qkv_projections() on the pipeline first"
        )
    linear = _plain(unet.get_submodule(name), name)
    shape: tuple[int, ...] = {
        "ffn": (linear.in_features,),
        "ffn-weight": (linear.out_features, linear.in_features),
    }.get(kind, (linear.out_features,))
    return Site(name=name, kind=kind, stage=_stage(block), shape=shape)


def _plain(module: nn.Module, name: str) -> nn.Linear:
    if type(module) is not nn.Linear:
        raise UnsupportedModel(
            f"expected {name} to be a plain linear layer, found {type(module).__name__}; "
            "fuse or unload LoRA adapters and load the model unquantised"
        )
    return module
