import io
import pickle
import urllib.error
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models import resnet50

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.records import Descriptor
from amnestic.core.seeds import generator, seeded_init
from amnestic.model import sscd_weights
from amnestic.model.feeding import fed_size
from amnestic.model.sscd import (
    GeM,
    SscdConfig,
    SscdEncoder,
    config_beside,
    load_sscd,
    normalised,
    published_network,
    read_config,
    save_sscd,
    small_network,
)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    with seeded_init(0, "published"):
        network = published_network()
    path = tmp_path_factory.mktemp("weights") / "sscd_disc_mixup.torchvision.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A small trunk under the published name; the shape is read off the file."""
    with seeded_init(0, "light"):
        network = small_network(8, 16)
    path = tmp_path_factory.mktemp("light") / sscd_weights.PUBLISHED
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    with seeded_init(0, "mini"):
        network = small_network()
    return save_sscd(network, tmp_path_factory.mktemp("mini"), SscdConfig(threshold=0.4))


@pytest.fixture
def online(monkeypatch):
    monkeypatch.delenv("AMNESTIC_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def test_gem_equals_a_literal_loop():
    features = torch.randn(2, 3, 4, 5, generator=generator(0, "gem"))
    expected = torch.empty(2, 3)
    for n in range(2):
        for c in range(3):
            cubes = [max(float(v), 1e-6) ** 3 for v in features[n, c].flatten()]
            expected[n, c] = (sum(cubes) / len(cubes)) ** (1 / 3)
    torch.testing.assert_close(GeM()(features), expected)


def test_gem_lies_between_mean_and_maximum():
    features = torch.rand(2, 3, 4, 5, generator=generator(0, "gem"))
    pooled = GeM()(features)
    assert (pooled >= features.mean(dim=(2, 3))).all()
    assert (pooled <= features.amax(dim=(2, 3))).all()


def test_state_dict_has_the_published_names_and_shapes():
    with torch.device("meta"):
        ours, theirs = published_network(), resnet50(num_classes=512)
    wanted = {f"backbone.{k}": v.shape for k, v in theirs.state_dict().items()}
    assert {k: v.shape for k, v in ours.state_dict().items()} == wanted


def test_published_file_gives_the_vectors_computed_by_hand(published, tmp_path):
    images = [picture(64, 64, seed) for seed in (1, 2)]
    got = load_sscd(weights=published, cache=tmp_path, preprocessing="native")(images)
    with torch.device("meta"):
        trunk = resnet50(num_classes=512)
    state = torch.load(published, weights_only=True)
    trunk.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items()}, assign=True)
    trunk.eval()
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))
        x = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(x))))
        x = trunk.fc((x.clamp(min=1e-6) ** 3).mean(dim=(2, 3)) ** (1 / 3))
    torch.testing.assert_close(got, x / x.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)
    assert got.shape == (2, 512)
    assert got.dtype == torch.float32


def test_descriptor_names_file_preprocessing_and_hash(light, tmp_path):
    encoder = load_sscd(weights=light, cache=tmp_path, why="a test")
    assert encoder.descriptor.name == "sscd_disc_mixup"
    assert encoder.descriptor.preprocessing == "short-288"
    assert encoder.descriptor.digest == sscd_weights.file_digest(light)
    assert encoder.descriptor.why == "a test"


def test_large_shape_is_read_off_the_weights(tmp_path):
    with torch.device("meta"):
        network = published_network("resnext101_32x4d", 1024)
    assert network.state_dict()["backbone.layer1.0.conv2.weight"].shape == (128, 4, 3, 3)
    assert network.state_dict()["backbone.fc.weight"].shape == (1024, 2048)


def test_small_one_has_one_to_three_million_parameters():
    assert 1e6 < sum(p.numel() for p in small_network().parameters()) < 3e6


def test_small_one_survives_saving(mini, tmp_path):
    encoder = load_sscd(weights=mini, cache=tmp_path)
    with seeded_init(0, "mini"):
        network = small_network().eval()
    image = picture(64, 64)
    with torch.no_grad():
        expected = network(normalised(torch.from_numpy(image).permute(2, 0, 1)[None]))
    torch.testing.assert_close(encoder([image]), expected, atol=1e-6, rtol=0)
    assert encoder.descriptor.name == "sscd-mini"
    assert encoder.descriptor.preprocessing == "native"
    assert config_beside(mini) == SscdConfig(threshold=0.4) == read_config(mini / "config.json")


def test_small_one_resizes_other_sizes_to_its_square(mini, tmp_path):
    encoder = load_sscd(weights=mini, cache=tmp_path)
    flat = [np.full((h, w, 3), 90, np.uint8) for h, w in ((64, 64), (128, 96))]
    torch.testing.assert_close(*encoder(flat), atol=1e-6, rtol=0)


def test_small_one_refuses_another_preprocessing(mini, tmp_path):
    with pytest.raises(InputError, match="takes preprocessing native"):
        load_sscd(weights=mini, cache=tmp_path, preprocessing="square-320")


def test_rows_are_unit_and_do_not_depend_on_batches_order_or_company(mini, tmp_path):
    images = [picture(*hw, seed) for seed, hw in enumerate([(64, 64), (70, 64), (64, 64), (31, 40), (64, 64)])]
    encoder = load_sscd(weights=mini, cache=tmp_path, batch=2)
    rows = encoder(images)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(load_sscd(weights=mini, cache=tmp_path, batch=5)(images), rows, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder(images[::-1]).flip(0), rows, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat([encoder([i]) for i in images]), rows, atol=1e-6, rtol=0)


def test_native_pictures_keep_their_sizes(published, tmp_path):
    encoder = load_sscd(weights=published, cache=tmp_path, preprocessing="native")
    assert encoder([picture(40, 32), picture(32, 40)]).shape == (2, 512)


def test_no_pictures_give_no_rows(mini, tmp_path):
    assert load_sscd(weights=mini, cache=tmp_path)([]).shape == (0, 128)


def test_read_only_pictures_raise_no_warning(mini, tmp_path):
    image = picture(64, 64)
    image.setflags(write=False)
    assert load_sscd(weights=mini, cache=tmp_path)([image]).shape == (1, 128)


@pytest.mark.parametrize("bad", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_other_than_rgb_bytes_is_refused(mini, tmp_path, bad):
    with pytest.raises(InputError, match="expected picture 0 as"):
        load_sscd(weights=mini, cache=tmp_path)([bad])


def test_a_network_without_direction_is_refused(mini, tmp_path):
    descriptor = load_sscd(weights=mini, cache=tmp_path).descriptor
    for value in (0.0, float("nan")):
        broken = SscdEncoder(lambda x, v=value: torch.full((len(x), 4), v), descriptor, width=4)
        with pytest.raises(NotFinite, match="weights are damaged"):
            broken([picture(8, 8)])


@pytest.mark.parametrize(
    ("hw", "preprocessing", "fed"),
    [
        ((512, 768), "short-288", (288, 432)),
        ((333, 100), "short-288", (959, 288)),
        ((512, 512), "short-288", (288, 288)),
        ((512, 768), "square-320", (320, 320)),
        ((17, 5), "native", (17, 5)),
    ],
)
def test_fed_sizes(hw, preprocessing, fed):
    assert fed_size(*hw, preprocessing=preprocessing) == fed


def test_fed_sizes_are_guarded():
    with pytest.raises(InputError, match="did you mean square-320"):
        fed_size(8, 8, preprocessing="sqare-320")
    with pytest.raises(InputError, match="use square-320"):
        fed_size(1, 10_000, preprocessing="short-288")


def test_a_size_that_cannot_be_fed_is_refused_beforehand():
    def encoder(preprocessing, size=None):
        descriptor = Descriptor(name="test", preprocessing=preprocessing, digest="00")
        return SscdEncoder(lambda x: torch.ones(len(x), 1), descriptor, width=1, size=size)

    assert "300 x 1 pixels would be fed as 86400 x 288 by short-288" in encoder("short-288").refuses(1, 300)
    assert encoder("short-288").refuses(10, 300) == encoder("square-320").refuses(1, 300) == ""
    assert "more than 4096 x 4096" in encoder("native").refuses(5000, 5000)
    assert encoder("native", size=(64, 64)).refuses(5000, 5000) == ""


@pytest.mark.parametrize("preprocessing", ["short-288", "square-320"])
def test_resizing_follows_pillow_to_one_grey_level(light, tmp_path, preprocessing):
    image = picture(300, 400)
    size = fed_size(300, 400, preprocessing=preprocessing)
    seen = []
    descriptor = load_sscd(weights=light, cache=tmp_path, preprocessing=preprocessing).descriptor
    SscdEncoder(lambda x: seen.append(x) or torch.ones(len(x), 1), descriptor, width=1)([image])
    pillow = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    wanted = normalised(torch.from_numpy(pillow.copy()).permute(2, 0, 1)[None])
    assert seen[0].shape == (1, 3, *size)
    assert (seen[0] - wanted).abs().max() <= 1.001 / 255 / 0.224


class Payload:
    def __reduce__(self):
        return (print, ("ran",))


def test_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.save({"backbone.fc.weight": Payload()}, path)
    with pytest.raises(InputError, match="holds more than tensors"):
        load_sscd(weights=path, cache=tmp_path)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match="holds more than tensors"):
        load_sscd(weights=path, cache=tmp_path)
    assert "ran" not in capsys.readouterr().out


def test_legacy_format_of_torch_save_is_read(light, tmp_path):
    state = torch.load(light, weights_only=True)
    path = tmp_path / "weights.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    image = picture(64, 64)
    rows = [load_sscd(weights=w, cache=tmp_path, preprocessing="native")([image]) for w in (light, path)]
    assert torch.equal(*rows)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", b"\x80\x02broken"])
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_sscd(weights=tmp_path / name, cache=tmp_path)


def test_other_state_dicts_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"trunk.conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="begins with trunk"):
        load_sscd(weights=path, cache=tmp_path)
    state = small_network().state_dict()
    save_file({**state, "backbone.extra": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"1 tensors differ, first backbone\.extra"):
        load_sscd(weights=path, cache=tmp_path)
    save_file({**state, "backbone.fc.bias": torch.full((128,), float("nan"))}, path)
    with pytest.raises(NotFinite, match=r"backbone\.fc\.bias"):
        load_sscd(weights=path, cache=tmp_path)
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="not a mapping"):
        load_sscd(weights=tmp_path / "list.pt", cache=tmp_path)


def test_torchscript_needs_the_flag(tmp_path):
    path = tmp_path / "sscd_disc_mixup.torchscript.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        with seeded_init(0, "script"):
            network = small_network().eval()
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 64, 64)), path)
    with pytest.raises(InputError, match="--allow-torchscript"):
        load_sscd(weights=path, cache=tmp_path)
    encoder = load_sscd(weights=path, cache=tmp_path, preprocessing="native", allow_torchscript=True)
    image = picture(64, 64)
    with torch.no_grad():
        wanted = functional.normalize(network(normalised(torch.from_numpy(image).permute(2, 0, 1)[None])))
    torch.testing.assert_close(encoder([image]), wanted, atol=1e-5, rtol=0)


def test_changed_file_is_refused(mini, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((mini / "model.safetensors").read_bytes())
    pin = sscd_weights.pin_of(path)
    pin.write_text(f"{sscd_weights.file_digest(path)}  model.safetensors\n")
    assert load_sscd(weights=path, cache=tmp_path).descriptor.digest == pin.read_text()[:64]
    pin.write_text("0" * 64 + "  model.safetensors\n")
    with pytest.raises(InputError, match="trusts 000000000000"):
        load_sscd(weights=path, cache=tmp_path)
    pin.write_text("nothing")
    with pytest.raises(InputError, match="expected a SHA-256"):
        load_sscd(weights=path, cache=tmp_path)


@pytest.mark.parametrize("name", ["AMNESTIC_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_names_the_remedies(tmp_path, online, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(InputError, match=r"--sscd-weights FILE.*sscd-onnx.*sscd-mini"):
        load_sscd(weights=None, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_first_download_is_pinned_and_a_later_other_one_refused(light, tmp_path, online, monkeypatch):
    def fake(url, target, *, timeout):
        assert url == sscd_weights.PUBLISHED_URL
        target.write_bytes(light.read_bytes())

    monkeypatch.setattr(sscd_weights, "download", fake)
    path = sscd_weights.fetch_published(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, path.name + ".sha256"]
    pin = sscd_weights.pin_of(path)
    assert pin.read_text() == f"{sscd_weights.file_digest(path)}  {path.name}\n# recorded on first trust\n"
    path.unlink()
    pin.write_text("0" * 64)
    with pytest.raises(InputError, match="only if you trust the new one"):
        sscd_weights.fetch_published(tmp_path)
    assert not path.exists()


def test_a_cached_file_is_used_offline_and_pinned(light, tmp_path, monkeypatch):
    monkeypatch.setenv("AMNESTIC_OFFLINE", "1")
    (tmp_path / light.name).write_bytes(light.read_bytes())
    assert load_sscd(weights=None, cache=tmp_path).descriptor.name == "sscd_disc_mixup"
    assert sscd_weights.pin_of(tmp_path / light.name).exists()


def test_a_page_instead_of_weights_is_not_kept(tmp_path, online, monkeypatch):
    monkeypatch.setattr(sscd_weights, "download", lambda url, target, timeout: target.write_text("<html>"))
    with pytest.raises(InputError, match="damaged"):
        sscd_weights.fetch_published(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_https_is_spoken(tmp_path):
    with pytest.raises(InputError, match="https"):
        sscd_weights.download("http://localhost/x", tmp_path / "x")
    for url in ("http://localhost/x", "file:///etc/hostname", "ftp://localhost/x"):
        with pytest.raises(urllib.error.URLError, match="unknown url type"):
            sscd_weights.https_opener().open(url)


def test_lengths_are_checked():
    out = io.BytesIO()
    sscd_weights.receive(io.BytesIO(b"12345"), out, declared=5, most=5, url="u")
    assert out.getvalue() == b"12345"
    with pytest.raises(InputError, match="more than 4 bytes"):
        sscd_weights.receive(io.BytesIO(b"12345"), io.BytesIO(), declared=None, most=4, url="u")
    with pytest.raises(InputError, match="declared 9 bytes and sent 5"):
        sscd_weights.receive(io.BytesIO(b"12345"), io.BytesIO(), declared=9, most=10, url="u")


def test_torchscript_is_known_by_its_content(tmp_path):
    for name, inside, expected in (("a", "m/constants.pkl", True), ("b", "m/data.pkl", False)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, b"")
        assert sscd_weights.is_torchscript(tmp_path / name) is expected


@pytest.mark.parametrize("text", ["", "{}x", '{"nam": 1}', '{"trunk": "resnet50"}', '{"preprocessing": "short-288"}'])
def test_bad_configs_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="build sscd-mini again"):
        read_config(tmp_path / "config.json")
