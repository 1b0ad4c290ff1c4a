import numpy as np
import pytest
import torch

from amnestic.core.errors import InputError
from amnestic.core.records import Descriptor
from amnestic.core.seeds import seeded_init
from amnestic.model import descriptors, sscd_onnx, sscd_weights
from amnestic.model.descriptors import choose_descriptor, published_threshold
from amnestic.model.sscd import SscdConfig, load_sscd, save_sscd, small_network


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / sscd_weights.PUBLISHED
    with seeded_init(0, "published"):  # a small trunk under the published name: the shape is read off the file
        torch.save(small_network(8, 16).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    with seeded_init(0, "mini"):
        return save_sscd(
            small_network(8, 16), tmp_path_factory.mktemp("mini"), SscdConfig(base_width=8, width=16, threshold=0.45)
        )


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("AMNESTIC_OFFLINE", "1")


@pytest.fixture
def without_onnx(monkeypatch):
    monkeypatch.setattr(sscd_onnx, "is_installed", lambda: False)


@pytest.fixture
def fake_onnx(monkeypatch):
    class Fake:
        def __init__(self, *, preprocessing, size, batch, why):
            self.size = size
            self.descriptor = Descriptor(name=sscd_onnx.NAME, preprocessing=preprocessing, digest="0", why=why)

    monkeypatch.setattr(sscd_onnx, "is_installed", lambda: True)
    monkeypatch.setattr(sscd_onnx, "load_sscd_onnx", Fake)


def test_auto_takes_given_weights_first(published, bundled, tmp_path, fake_onnx):
    given = tmp_path / "sscd_disc_blur.torchvision.pt"
    given.symlink_to(published)
    chosen = choose_descriptor(image_size=512, weights=given, bundled=bundled, cache=published.parent).descriptor
    assert chosen.name == "sscd_disc_blur"
    assert chosen.preprocessing == "short-288"
    assert "weights sscd_disc_blur.torchvision.pt were given" in chosen.why
    assert str(tmp_path) not in chosen.why


def test_auto_takes_cached_weights_second(published, bundled, fake_onnx):
    chosen = choose_descriptor(image_size=64, bundled=bundled, cache=published.parent).descriptor
    assert chosen.name == "sscd_disc_mixup"
    assert chosen.preprocessing == "native"
    assert "in the cache" in chosen.why
    assert "unstable on enlarged" in chosen.why


def test_auto_takes_the_int8_package_third(bundled, tmp_path, fake_onnx):
    chosen = choose_descriptor(image_size=64, bundled=bundled, cache=tmp_path).descriptor
    assert chosen.name == "sscd_disc_mixup-int8"
    assert "extra sscd-onnx is installed" in chosen.why


def test_auto_takes_the_bundled_one_fourth_and_only_at_its_size(bundled, tmp_path, without_onnx):
    encoder = choose_descriptor(image_size=64, bundled=bundled, cache=tmp_path)
    assert encoder.descriptor.name == "sscd-mini"
    assert "64 px" in encoder.descriptor.why
    assert encoder([np.zeros((64, 64, 3), np.uint8)]).shape == (1, 16)
    with pytest.raises(InputError, match="network is switched off"):
        choose_descriptor(image_size=512, bundled=bundled, cache=tmp_path)


def test_auto_downloads_last(published, tmp_path, without_onnx, monkeypatch):
    monkeypatch.delenv("AMNESTIC_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    fetch = lambda url, target, timeout: target.write_bytes(published.read_bytes())  # noqa: E731
    monkeypatch.setattr(sscd_weights, "download", fetch)
    assert "downloaded" in choose_descriptor(image_size=512, cache=tmp_path).descriptor.why


@pytest.mark.parametrize(("side", "fed"), [(64, "native"), (128, "native"), (129, "short-288"), (512, "short-288")])
def test_preprocessing_follows_the_size_of_the_pictures(published, side, fed):
    assert choose_descriptor("sscd", image_size=side, cache=published.parent).descriptor.preprocessing == fed


@pytest.mark.parametrize(("image_size", "fed"), [(64, (64, 64)), ((48, 80), (48, 80))])
def test_native_feeds_originals_at_the_size_of_their_copies(published, image_size, fed):
    encoder = choose_descriptor("sscd", image_size=image_size, cache=published.parent)
    seen, network = [], encoder._network
    encoder._network = lambda x: seen.append(tuple(x.shape[2:])) or network(x)
    drawn = np.random.default_rng(0).integers(0, 256, (*fed, 3), dtype=np.uint8)
    original = np.kron(drawn, np.ones((8, 8, 1), np.uint8))
    rows = encoder([drawn, original])
    assert set(seen) == {fed}
    as_it_is = load_sscd(weights=published, cache=published.parent, preprocessing="native")([drawn])
    assert torch.equal(encoder([drawn]), as_it_is)
    assert rows[0] @ rows[1] > 0.99


def test_the_int8_one_is_told_the_size(tmp_path, fake_onnx):
    assert choose_descriptor(image_size=64, cache=tmp_path).size == (64, 64)


def test_asked_preprocessing_wins(published):
    asked = choose_descriptor("sscd", image_size=64, preprocessing="square-320", cache=published.parent)
    assert asked.descriptor.preprocessing == "square-320"
    assert "asked for by name; its preprocessing was asked for" in asked.descriptor.why


def test_a_small_one_given_as_weights_keeps_its_preprocessing(bundled, tmp_path):
    for weights in (bundled, bundled / "model.safetensors"):
        for wanted in ("auto", "sscd-mini"):
            chosen = choose_descriptor(wanted, image_size=512, weights=weights, cache=tmp_path).descriptor
            assert (chosen.name, chosen.preprocessing) == ("sscd-mini", "native")


def test_unusable_wishes_say_what_to_do(published, tmp_path, fake_onnx):
    with pytest.raises(InputError, match="did you mean sscd-mini"):
        choose_descriptor("sscd-mni", image_size=64)
    with pytest.raises(InputError, match="comes with a testbed"):
        choose_descriptor("sscd-mini", image_size=64)
    with pytest.raises(InputError, match="build sscd-mini again"):
        choose_descriptor("sscd-mini", image_size=64, weights=published)
    with pytest.raises(InputError, match="leave one of the two out"):
        choose_descriptor("sscd-onnx", image_size=64, weights=published)


def test_default_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("AMNESTIC_CACHE", raising=False)
    assert sscd_weights.default_cache() == tmp_path / "amnestic"
    monkeypatch.setenv("AMNESTIC_CACHE", str(tmp_path / "own"))
    assert sscd_weights.default_cache() == tmp_path / "own"


def test_published_threshold_says_when_the_setting_differs():
    exact = published_threshold(Descriptor(name="sscd_disc_mixup", preprocessing="square-320", digest="0"))
    assert exact.value == 0.7
    assert exact.provenance == descriptors.COPY_SOURCE
    other = published_threshold(Descriptor(name="sscd_disc_mixup-int8", preprocessing="native", digest="0"))
    assert other.value == 0.7
    assert other.provenance.startswith(descriptors.COPY_SOURCE)
    assert other.provenance.endswith("; here fed as native instead of square-320 and int8 instead of float weights")


def test_threshold_of_the_bundled_one_comes_from_its_config(bundled, tmp_path):
    descriptor = choose_descriptor("sscd-mini", image_size=64, bundled=bundled, cache=tmp_path).descriptor
    threshold = published_threshold(descriptor, bundled=bundled)
    assert threshold == published_threshold(descriptor, bundled=bundled / "model.safetensors")
    assert (threshold.value, threshold.provenance) == (0.45, "calibrated by the testbed builder")
    with pytest.raises(InputError, match="other weights"):
        published_threshold(Descriptor(name="sscd-mini", preprocessing="native", digest="0"), bundled=bundled)
    with pytest.raises(InputError, match="no threshold is published"):
        published_threshold(descriptor)
    with pytest.raises(InputError, match="give one with --threshold"):
        published_threshold(descriptor, bundled=tmp_path / "own.safetensors")


def test_uncalibrated_one_has_no_threshold(tmp_path):
    save_sscd(small_network(4, 8), tmp_path, SscdConfig(base_width=4, width=8))
    descriptor = choose_descriptor("sscd-mini", image_size=64, bundled=tmp_path, cache=tmp_path).descriptor
    with pytest.raises(InputError, match="has not been calibrated"):
        published_threshold(descriptor, bundled=tmp_path)
