"""SSCD, the copy-detection descriptor (Pizzi et al., CVPR 2022), and the small one of the same make."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.transforms.v2 import functional as pictures

from amnestic.core.errors import InputError
from amnestic.core.records import Descriptor
from amnestic.core.store import write_atomically, write_json
from amnestic.model.feeding import Picture, Size, check_preprocessing, encode_by_size, fed_size, refusal
from amnestic.model.sscd_weights import fetch_published, is_torchscript, pinned_digest, read_state

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCKS = {"resnet50": ((3, 4, 6, 3), 1, 64), "resnext101_32x4d": ((3, 4, 23, 3), 32, 4)}


class GeM(nn.Module):
    """Generalised mean over a feature map.

    Formula: ``(mean over H, W of max(x, floor)^p)^(1/p)``.

    Source:
        Radenovic et al., PAMI 2019; p = 3 and floor 1e-6 as in Pizzi et al., CVPR 2022.
    """

    def __init__(self, p: float = 3.0, floor: float = 1e-6) -> None:
        """Pool with exponent `p`; 1 is the mean, infinity the maximum."""
        super().__init__()
        self.p, self.floor = p, floor

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C"]:
        """One value per feature."""
        powers: Tensor = features.clamp(min=self.floor).pow(self.p)
        return powers.mean(dim=(-2, -1)).pow(1.0 / self.p)


class SmallTrunk(nn.Module):
    """Four basic residual blocks of doubling width for pictures of about 64 pixels.

    The stem is a 3x3 convolution without stride; every block halves the map. The attributes carry
    the names of torchvision's ResNet.
    """

    def __init__(self, base_width: int, width: int) -> None:
        """Planes `base_width` times 1, 2, 4, 8, and `width` outputs."""
        super().__init__()
        planes = [base_width * factor for factor in (1, 2, 4, 8)]
        self.conv1 = nn.Conv2d(3, base_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base_width)
        self.relu = nn.ReLU(inplace=True)
        before = [base_width, *planes[:-1]]
        self.layer1, self.layer2, self.layer3, self.layer4 = map(_halving_block, before, planes)
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(planes[-1], width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        """Descriptors that are not yet of unit length."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return cast(Tensor, self.fc(torch.flatten(self.avgpool(x), 1)))


class SscdNetwork(nn.Module):
    """A ResNet trunk with GeM pooling, a linear layer and unit length.

    The trunk is called ``backbone``, so that the published ``.torchvision.pt`` files fit as they are.
    """

    def __init__(self, backbone: nn.Module) -> None:
        """Put GeM into a trunk that pools with ``avgpool`` and ends with the linear layer ``fc``."""
        super().__init__()
        self.backbone = backbone
        backbone.avgpool = GeM()
        last = cast(nn.Linear, backbone.fc)
        nn.init.xavier_uniform_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        """Unit descriptors of pictures that went through `normalised`."""
        return functional.normalize(self.backbone(images), dim=1)


@dataclass(frozen=True, kw_only=True)
class SscdConfig:
    """What ``config.json`` beside the weights of a small SSCD says.

    Attributes:
        name: Name of the descriptor.
        threshold: Similarity above which a pair counts as a copy, in [-1, 1], or `None` before calibration.
        architecture: Always ``sscd``.
        trunk: Always ``small``.
        base_width: Width of the first block.
        width: Descriptor width.
        preprocessing: Always ``native``.
        size: Side in pixels; pictures of another size are resized to this square.
    """

    name: str = "sscd-mini"
    threshold: float | None = None
    architecture: str = "sscd"
    trunk: str = "small"
    base_width: int = 32
    width: int = 128
    preprocessing: str = "native"
    size: int = 64


def small_network(base_width: int = 32, width: int = 128) -> SscdNetwork:
    """An untrained small SSCD; with the defaults 1.3 million parameters."""
    return SscdNetwork(SmallTrunk(base_width, width))


def published_network(name: str = "resnet50", width: int = 512) -> SscdNetwork:
    """An untrained SSCD of a published shape: ``resnet50`` (512 wide) or ``resnext101_32x4d`` (1024)."""
    blocks, groups, group_width = BLOCKS[name]
    return SscdNetwork(ResNet(Bottleneck, list(blocks), width, groups=groups, width_per_group=group_width))


def normalised(images: Tensor) -> Float[Tensor, "N 3 H W"]:
    """Pictures as the trunks want them: channel means and deviations of ImageNet removed.

    Args:
        images: (N, 3, H, W), RGB, uint8 in [0, 255] or floating point in [0, 1].

    Returns:
        Float32 on the same device, roughly in [-2.2, 2.7].
    """
    scaled = images.float() if images.is_floating_point() else images.float() / 255
    mean, deviation = (scaled.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    return (scaled - mean) / deviation


class SscdEncoder:
    """Pictures to SSCD vectors; an `amnestic.core.protocols.Encoder`."""

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        descriptor: Descriptor,
        *,
        width: int,
        size: Size | None = None,
        device: torch.device | str = "cpu",
        batch: int = 32,
    ) -> None:
        """Wrap a network that is on `device` and in evaluation mode.

        Args:
            network: From normalised pictures to descriptors.
            descriptor: Its identity; ``preprocessing`` decides how pictures are fed.
            width: Descriptor width D.
            size: Height and width to which ``native`` pictures of another size are resized, if any.
            device: Where it computes.
            batch: Most pictures in one run.
        """
        self.descriptor = descriptor
        self._network, self._width, self._size = network, width, size
        self._device, self._batch = device, batch

    def __call__(self, images: Sequence[Picture]) -> Float[Tensor, "N D"]:
        """Unit vectors of pictures.

        Resizing is torchvision's antialiased bilinear on 8-bit tensors, which differs from the
        published resizing of Pillow images by at most one grey level.

        Args:
            images: N pictures, each (H, W, 3), RGB, uint8; sizes may differ.

        Returns:
            (N, D) float32 on the CPU; inner products are cosines in [-1, 1], comparable only
            between vectors with the same `descriptor.id`.

        Raises:
            InputError: If a picture is not (H, W, 3) uint8; convert it to 8-bit RGB.
            NotFinite: If the network returns NaN or zeros; load the weights again.

        Source:
            Pizzi et al., CVPR 2022.
        """
        return encode_by_size(images, batch=self._batch, width=self._width, size_of=self._fed, encode=self._encode)

    def refuses(self, height: int, width: int) -> str:
        """Why a picture of this size cannot be fed, or an empty string."""
        return refusal(self._fed, height, width)

    def _fed(self, height: int, width: int) -> Size:
        return fed_size(height, width, preprocessing=self.descriptor.preprocessing, native=self._size)

    @torch.no_grad()
    def _encode(self, images: Sequence[Picture], size: Size) -> Tensor:
        batch = torch.stack([_resized(image, size) for image in images]).to(self._device)
        return self._network(normalised(batch))


def load_sscd(
    *,
    weights: Path | None,
    cache: Path,
    preprocessing: str | None = None,
    size: Size | None = None,
    allow_torchscript: bool = False,
    device: torch.device | str = "cpu",
    batch: int = 32,
    why: str = "",
) -> SscdEncoder:
    """SSCD from a file, or the published ``sscd_disc_mixup`` fetched into the cache.

    Args:
        weights: A ``.torchvision.pt`` state dict, a ``.safetensors`` file, a TorchScript file, a
            folder written by `save_sscd`, or `None` for the published weights.
        cache: Folder for downloads.
        preprocessing: One of `amnestic.model.feeding.PREPROCESSINGS`; `None` for what ``config.json``
            beside the weights says, else ``short-288``.
        size: Height and width to which ``native`` pictures of another size are resized; `None` for what
            ``config.json`` says, else not at all.
        allow_torchscript: Whether a TorchScript file, which is code, may be run.
        device: Where it computes.
        batch: Most pictures in one run.
        why: Why this descriptor was picked, for the record.

    Returns:
        The encoder; trunk and width are read off the weights, the digest is their file's SHA-256.

    Raises:
        InputError: If the weights are missing, changed, of another format, or need an option.
        NotFinite: If the weights hold NaN or infinity.

    Source:
        Pizzi et al., CVPR 2022.
    """
    path = weights_file(weights) if weights is not None else fetch_published(cache)
    digest, config = pinned_digest(path), config_beside(path)
    chosen = check_preprocessing(preprocessing or (config.preprocessing if config else "short-288"))
    if config and chosen != config.preprocessing:
        raise InputError(
            f"{config.name} takes preprocessing {config.preprocessing}, got {chosen}; leave the option out"
        )
    network = _network(path, allow_torchscript, device)
    probe = torch.zeros(1, 3, 64, 64, device=device)
    with torch.no_grad():
        width = network(probe).shape[-1]
    name = config.name if config else path.name.partition(".")[0]
    descriptor = Descriptor(name=name, preprocessing=chosen, digest=digest, why=why)
    size = (config.size, config.size) if config else size
    return SscdEncoder(network, descriptor, width=width, size=size, device=device, batch=batch)


def save_sscd(network: SscdNetwork, folder: Path, config: SscdConfig) -> Path:
    """Write a small SSCD as ``model.safetensors`` and ``config.json``; returns the folder."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(folder / "model.safetensors", save(state))
    write_json(folder / "config.json", config)
    return folder


def weights_file(path: Path) -> Path:
    """The weight file itself, or ``model.safetensors`` in a folder."""
    return path / "model.safetensors" if path.is_dir() else path


def read_config(file: Path) -> SscdConfig:
    """The ``config.json`` of a small SSCD.

    Raises:
        InputError: If it is missing, or is not one of a small SSCD.
    """
    try:
        content = json.loads(file.read_text())
        config = SscdConfig(**content)
    except (OSError, ValueError, TypeError) as error:
        known = ", ".join(f.name for f in fields(SscdConfig))
        raise InputError(f"expected {file} as JSON with {known} ({error}); build sscd-mini again") from error
    if (config.architecture, config.trunk, config.preprocessing) != ("sscd", "small", "native"):
        raise InputError(f"{file} does not describe a small SSCD fed natively; build sscd-mini again")
    return config


def config_beside(path: Path) -> SscdConfig | None:
    """The configuration of a small SSCD when the weight file, or the folder, is one."""
    path = weights_file(path)
    file = path.with_name("config.json")
    return read_config(file) if path.name == "model.safetensors" and file.exists() else None


def _network(path: Path, allow_torchscript: bool, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    if is_torchscript(path) and allow_torchscript:
        with warnings.catch_warnings():
            # The published archives exist in this format, whatever torch recommends for new ones.
            warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated", category=FutureWarning)
            script: nn.Module = torch.jit.load(str(path), map_location=device)
        return script.eval()
    state = read_state(path)
    network = _matching_network(state, path)
    network.load_state_dict(state)
    return network.to(device).eval().requires_grad_(False)


def _matching_network(state: Mapping[str, Tensor], path: Path) -> SscdNetwork:
    """The untrained network that a state dict fits, by its shapes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    stem, last = shapes.get("backbone.conv1.weight", ()), shapes.get("backbone.fc.weight", ())
    first = shapes.get("backbone.layer1.0.conv2.weight", ())
    if len(stem) != 4 or len(last) != 2 or len(first) != 4:
        raise InputError(
            f"{path} has no SSCD weights under torchvision's names (it begins with {min(shapes)}); "
            "give a .torchvision.pt file"
        )
    with torch.device("meta"):
        if stem[2] == 3:
            network = small_network(stem[0], last[0])
        else:
            network = published_network("resnet50" if first[1] == 64 else "resnext101_32x4d", last[0])
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    odd = sorted(name for name in {*wanted, *shapes} if wanted.get(name) != shapes.get(name))
    if odd:
        raise InputError(
            f"{path} fits neither ResNet-50, ResNeXt-101 32x4d nor the small trunk: {len(odd)} tensors differ, "
            f"first {odd[0]}; give a .torchvision.pt file"
        )
    return network.to_empty(device="cpu")


def _halving_block(before: int, planes: int) -> nn.Sequential:
    shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, stride=2, bias=False), nn.BatchNorm2d(planes))
    return nn.Sequential(BasicBlock(before, planes, stride=2, downsample=shortcut))


def _resized(image: Picture, size: Size) -> Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # copied: torch warns about read-only memory
    if image.shape[:2] == size:
        return pixels
    return cast(Tensor, pictures.resize(pixels, list(size), antialias=True))
