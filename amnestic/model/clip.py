"""CLIP-like encoders of pictures and texts, through open_clip and nothing else."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import torch
from huggingface_hub import constants
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.core.records import Descriptor
from amnestic.model.feeding import Picture, Size, encode_by_size, unit_rows
from amnestic.model.sscd_weights import is_offline, is_torchscript

HUB, FOLDER = "hf-hub:", "local-dir:"
CONFIG = "open_clip_config.json"


class ClipEncoder:
    """Pictures and texts to one space; an `amnestic.core.protocols.AlignmentEncoder`."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        descriptor: Descriptor,
        *,
        width: int,
        device: torch.device | str = "cpu",
        batch: int = 32,
    ) -> None:
        """Wrap an open_clip model with its own preprocessing and tokenizer.

        Args:
            model: On `device`, in evaluation mode.
            preprocess: From a picture to what the model takes, (3, h, w).
            tokenizer: From texts to token ids, (N, L).
            descriptor: Its identity.
            width: Embedding width D.
            device: Where it computes.
            batch: Most pictures or texts in one run.
        """
        self.descriptor = descriptor
        self._model, self._preprocess, self._tokenizer = cast(Any, model), preprocess, tokenizer
        self._width, self._device, self._batch = width, device, batch

    def __call__(self, images: Sequence[Picture]) -> Float[Tensor, "N D"]:
        """Unit vectors of pictures.

        Args:
            images: N pictures, each (H, W, 3), RGB, uint8; sizes may differ.

        Returns:
            (N, D) float32 on the CPU; comparable with `read` of the same encoder only.

        Raises:
            InputError: If a picture is not (H, W, 3) uint8; convert it to 8-bit RGB.
            NotFinite: If the model returns NaN or zeros; load its weights again.

        Source:
            Radford et al., ICML 2021.
        """
        return encode_by_size(images, batch=self._batch, width=self._width, size_of=_any_size, encode=self._see)

    def refuses(self, height: int, width: int) -> str:
        """Nothing, since pictures of any size are cut to the model's own."""
        return ""

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit vectors of texts.

        Args:
            texts: N texts; those longer than the model's context are cut.

        Returns:
            (N, D) float32 on the CPU; the inner product with a picture's vector is their cosine in [-1, 1].

        Raises:
            NotFinite: If the model returns NaN or zeros; load its weights again.

        Source:
            Radford et al., ICML 2021.
        """
        rows = torch.zeros(len(texts), self._width)
        for start in range(0, len(texts), self._batch):
            part = slice(start, start + self._batch)
            tokens: Int[Tensor, "N L"] = self._tokenizer(list(texts[part])).to(self._device)
            rows[part] = self._model.encode_text(tokens).to("cpu", torch.float32)
        return unit_rows(rows)

    def differentiable(self, pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        """Unit vectors of pictures in [0, 1], through which gradients flow back to the pictures.

        Args:
            pictures: Of any one size; scaled to the model's own without a crop.

        Returns:
            (N, D) on the pictures' device; close to, not equal to, those of 8-bit pictures.
        """
        how = self._model.visual.preprocess_cfg
        side = how["size"] if isinstance(how["size"], int) else tuple(how["size"])
        scaled = functional.interpolate(pictures.float(), size=side, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(how[name], device=scaled.device).reshape(1, 3, 1, 1) for name in ("mean", "std"))
        vectors: Tensor = self._model.encode_image((scaled - mean) / std)
        return functional.normalize(vectors.float(), dim=1)

    @torch.no_grad()
    def _see(self, images: Sequence[Picture], _: Size) -> Tensor:
        batch = torch.stack([self._preprocess(Image.fromarray(np.ascontiguousarray(image))) for image in images])
        return cast(Tensor, self._model.encode_image(batch.to(self._device)))


def load_clip(
    name: str, pretrained: str | None = None, *, device: torch.device | str = "cpu", batch: int = 32
) -> ClipEncoder:
    """A CLIP-like model that open_clip knows.

    Args:
        name: A built-in name such as ``ViT-B-32``, ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.
        pretrained: For a built-in name: a tag such as ``openai`` or a weight file; `None` otherwise.
        device: Where it computes.
        batch: Most pictures or texts in one run.

    Returns:
        The encoder in float32; its digest is the SHA-256 over names and values of all weights.

    Raises:
        InputError: If the name, tag or files are not there, or would have to be downloaded offline.
    """
    quick_gelu = _checked_quick_gelu(name, pretrained)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained, device=device, force_quick_gelu=quick_gelu, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(name)
        width = int(_model_config(name)["embed_dim"])
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"open_clip cannot load {name} ({first}); download it first, or give local-dir:FOLDER with {CONFIG}, "
            "weights and tokenizer"
        ) from error
    model.eval().requires_grad_(False)
    descriptor = Descriptor(name=_shown(name, pretrained), preprocessing="open_clip", digest=weights_digest(model))
    return ClipEncoder(model, preprocess, tokenizer, descriptor, width=width, device=device, batch=batch)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a model's state, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checked_quick_gelu(name: str, pretrained: str | None) -> bool:
    """Refuse what open_clip would only log, and say whether the weights want QuickGELU."""
    if name.startswith((HUB, FOLDER)):
        if pretrained is not None:
            raise InputError(f"{name} brings its own weights, got pretrained {pretrained!r} too; leave that out")
        _check_folder(name) if name.startswith(FOLDER) else _check_network(name)
        return False
    config = open_clip.get_model_config(_built_in(name))
    if config is None:
        raise InputError(f"open_clip has no model {name!r}{did_you_mean(name, open_clip.list_models())}")
    if pretrained is None:
        raise InputError(f"{name} without weights would be random; add a tag such as openai, or a weight file")
    if Path(pretrained).is_file():
        if is_torchscript(Path(pretrained)):
            raise InputError(f"{pretrained} is TorchScript, which is code; give a state dict or safetensors file")
        return False
    tag = open_clip.get_pretrained_cfg(_built_in(name), pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(_built_in(name))
        hint = did_you_mean(pretrained, tags) or f"; known are {', '.join(tags) or 'none'}"
        raise InputError(f"open_clip has no weights {pretrained!r} of {name}, and there is no such file{hint}")
    _check_network(f"{name} with {pretrained}", plain=not tag.get("hf_hub"))
    if config.get("quick_gelu", False) and not tag.get("quick_gelu", False):
        raise InputError(f"the weights {pretrained} were trained without QuickGELU, {name} has it; use another tag")
    return bool(tag.get("quick_gelu", False))


def _check_folder(name: str) -> None:
    folder = Path(name.removeprefix(FOLDER))
    if not (folder / CONFIG).is_file():
        raise InputError(f"expected {CONFIG} in {folder}, found none; give a folder saved by open_clip")
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        raise InputError(f"expected weights beside {CONFIG} in {folder}, found none; add open_clip_model.safetensors")


def _check_network(what: str, *, plain: bool = False) -> None:
    """Offline, the hub's cache still answers, but only when huggingface_hub itself knows that it is offline."""
    if is_offline() and (plain or not constants.HF_HUB_OFFLINE):
        remedy = (
            "give local-dir:FOLDER" if plain else "set HF_HUB_OFFLINE=1 to use the hub's cache, or local-dir:FOLDER"
        )
        raise InputError(f"{what} may need a download and the network is switched off; {remedy}")


def _built_in(name: str) -> str:
    return name.replace("/", "-")


def _model_config(name: str) -> dict[str, Any]:
    plain = name if name.startswith((HUB, FOLDER)) else _built_in(name)
    return cast(dict[str, Any], open_clip.get_model_config(plain))


def _shown(name: str, pretrained: str | None) -> str:
    """The name without the folders of this machine."""
    if name.startswith(FOLDER):
        return FOLDER + Path(name.removeprefix(FOLDER)).resolve().name
    return f"{name}:{Path(pretrained).name}" if pretrained else name


def _any_size(_: int, __: int) -> Size:
    return 0, 0
