"""Opening pictures that come from elsewhere."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from amnestic.core.errors import InputError
from amnestic.sources.images import ImageProblem, open_image


def picture(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_header(width, height):
    """A well-formed PNG that announces a size and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def reason(path, **options):
    with pytest.raises(ImageProblem) as caught:
        open_image(path, **options)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert str(path.parent) not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_lossless_formats_come_back_to_the_byte(tmp_path, name):
    Image.fromarray(picture()).save(tmp_path / name)
    pixels = open_image(tmp_path / name)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, picture())


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.gif"])
def test_lossy_formats_keep_the_size(tmp_path, name):
    Image.fromarray(picture()).save(tmp_path / name)
    assert open_image(tmp_path / name).shape == (20, 30, 3)


def test_content_decides_not_the_extension(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(open_image(tmp_path / "a.jpg"), picture())


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
        (99, lambda a: a),
    ],
)
def test_exif_orientation_is_applied_once(tmp_path, suffix, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture()).save(path, exif=exif)
    np.testing.assert_array_equal(open_image(path), upright(picture()))


def test_alpha_is_composited_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = [0, 255, 51]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = [[255, 255, 255], [200, 0, 0], [244, 204, 204]]
    np.testing.assert_array_equal(open_image(tmp_path / "a.png")[0], expected)


def test_transparent_palette_and_grey_become_white(tmp_path):
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=0)
    np.testing.assert_array_equal(open_image(tmp_path / "p.png")[0], [[255, 255, 255], [40, 50, 60]])
    Image.fromarray(np.array([[7, 9]], dtype=np.uint8)).save(tmp_path / "l.png", transparency=7)
    np.testing.assert_array_equal(open_image(tmp_path / "l.png")[0], [[255] * 3, [9] * 3])


def test_sixteen_bit_grey_keeps_its_tones(tmp_path):
    deep = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_array_equal(open_image(tmp_path / "a.png")[0, :, 1], [0, 0, 1, 128, 255])
    Image.fromarray(deep).save(tmp_path / "t.png", transparency=256)
    np.testing.assert_array_equal(open_image(tmp_path / "t.png")[0, :, 1], [0, 0, 255, 128, 255])


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    assert "no known range" in reason(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    Image.fromarray(picture()).convert(mode).save(tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif").shape == (20, 30, 3)


def test_first_frame_of_an_animation(tmp_path):
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    for name in ("a.gif", "a.png", "a.tif"):
        red.save(tmp_path / name, save_all=True, append_images=[blue])
        np.testing.assert_array_equal(open_image(tmp_path / name)[0, 0], [255, 0, 0])


def test_missing_folder_empty_and_no_image(tmp_path):
    (tmp_path / "zero.png").touch()
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "page.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    assert "no such file" in reason(tmp_path / "none.png")
    assert "not a file" in reason(tmp_path / ".." / tmp_path.name)
    assert "empty (0 bytes)" in reason(tmp_path / "zero.png")
    assert "not an image" in reason(tmp_path / "text.png")
    assert "not an image" in reason(tmp_path / "page.png")
    assert issubclass(ImageProblem, InputError)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert "not a file" in reason(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.gif"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    Image.fromarray(picture()).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for cut in (1, 10, 20, len(whole) // 3, len(whole) // 2, len(whole) - 40):
        (tmp_path / name).write_bytes(whole[:cut])
        said = reason(tmp_path / name)
        assert "truncated" in said or "cut off" in said


def test_a_closed_file_says_so_without_its_path(tmp_path, monkeypatch):
    def closed(path, formats):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setattr(Image, "open", closed)
    assert reason(tmp_path / "a.png") == "cannot be read (Permission denied); check links and permissions"


def test_size_is_checked_before_decoding(tmp_path, monkeypatch):
    def never(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    path = tmp_path / "a.png"
    path.write_bytes(png_header(9000, 9000))  # between our limit and Pillow's own
    assert "9000 x 9000 announces more than 64000000 pixels" in reason(path)
    path.write_bytes(png_header(10_000, 10_000))  # where Pillow warns
    assert "too large" in reason(path)
    path.write_bytes(png_header(60_000, 60_000))  # where Pillow refuses
    assert "too large" in reason(path)


def test_the_limit_itself_is_accepted(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_pixels=600).shape == (20, 30, 3)
    assert "30 x 20" in reason(tmp_path / "a.png", max_pixels=599)


def test_no_global_setting_is_left_behind(tmp_path):
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    (tmp_path / "a.png").write_bytes(png_header(60_000, 60_000))
    reason(Path(tmp_path / "a.png"))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


def test_random_damage_never_escapes_as_another_exception(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.gif"):
        path = tmp_path / name
        Image.fromarray(picture(8, 8)).save(path)
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(40):
            broken = whole.copy()
            broken[rng.integers(0, len(broken), 6)] = rng.integers(0, 256, 6)
            path.write_bytes(broken.tobytes())
            try:
                pixels = open_image(path, max_pixels=10_000)
            except ImageProblem:
                continue
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
