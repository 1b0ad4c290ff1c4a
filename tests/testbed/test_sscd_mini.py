import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional

from amnestic.core.seeds import generator, seeded_init
from amnestic.model.sscd import config_beside, load_sscd, normalised, small_network
from amnestic.testbed.corpus import image_tensor
from amnestic.testbed.sscd_mini import augment, copy_loss, export_sscd, sscd_loss


@pytest.fixture(scope="module")
def images(scenes):
    return image_tensor(scenes[:32])


def tiny(name="net"):
    with seeded_init(0, name):
        return small_network(8, 32)


def literal_loss(z, n):
    contrast = entropy = 0.0
    for i in range(2 * n):
        other = (i + n) % (2 * n)
        exponentials = [math.exp(float(z[i] @ z[k]) / 0.05) for k in range(2 * n) if k != i]
        contrast -= math.log(math.exp(float(z[i] @ z[other]) / 0.05) / sum(exponentials))
        entropy -= math.log(min(float((z[i] - z[j]).norm()) for j in range(2 * n) if j not in (i, other)))
    return (contrast + 30 * entropy) / (2 * n)


def test_copies_are_pictures_and_the_originals_stay(images):
    before = images.clone()
    copies = augment(images, generator(0, "a"))
    assert copies.shape == images.shape
    assert copies.dtype == torch.float32
    assert copies.min() >= 0
    assert copies.max() <= 1
    assert copies.isfinite().all()
    assert torch.equal(images, before)


def test_the_generator_decides_the_copies_and_nothing_else_does(images):
    state = torch.random.get_rng_state()
    one, same, other = (augment(images, generator(s, "a")) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert ((one - other).abs().amax(dim=(1, 2, 3)) > 0.05).all()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_two_copies_of_one_picture_differ(images):
    copies = augment(images[:1].repeat(16, 1, 1, 1), generator(0, "a"))
    apart = torch.cdist(copies.flatten(1), copies.flatten(1)) + torch.eye(16) * 1e9
    assert apart.min() > 1


def test_copies_stay_recognisable(images):
    def colours(batch):
        return functional.normalize(functional.avg_pool2d(batch, 64).flatten(1) - 0.5, dim=1)

    copies = torch.stack([augment(images, generator(s, "a")) for s in range(8)]).mean(dim=0)
    ranks = (colours(copies) @ colours(images.float() / 255).T).argsort(dim=1, descending=True)
    right = (ranks == torch.arange(32)[:, None]).int().argmax(dim=1)
    assert right.float().mean() < 6  # chance is 15.5


def test_autocast_does_not_coarsen_the_copies(images):
    with torch.autocast("cpu", torch.bfloat16):
        inside = augment(images, generator(0, "a"))
    assert torch.equal(inside, augment(images, generator(0, "a")))


@pytest.mark.parametrize("size", [(1, 8, 8), (2, 16, 24)])
def test_other_sizes_work_when_they_are_multiples_of_eight(size):
    n, height, width = size
    assert augment(torch.zeros(n, 3, height, width, dtype=torch.uint8), generator(0, "a")).shape[2:] == size[1:]


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        augment(torch.zeros(2, 3, 60, 64, dtype=torch.uint8), generator(0, "a"))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 5), width=st.integers(4, 9), seed=st.integers(0, 1000))
def test_the_loss_equals_a_literal_loop(n, width, seed):
    z = functional.normalize(torch.randn(2 * n, width, generator=generator(seed, "z"), dtype=torch.float64), dim=1)
    assert copy_loss(z).item() == pytest.approx(literal_loss(z, n), rel=1e-6)


def test_the_loss_of_two_pictures_on_two_axes():
    z = torch.eye(2, dtype=torch.float64).repeat(2, 1)
    assert copy_loss(z).item() == pytest.approx(math.log(1 + 2 * math.exp(-20)) - 30 * math.log(math.sqrt(2)))


def test_equal_descriptors_keep_the_loss_and_its_gradient_finite():
    z = torch.ones(6, 4, requires_grad=True)
    loss = copy_loss(functional.normalize(z, dim=1))
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_one_picture_has_nothing_to_be_told_apart_from():
    with pytest.raises(ValueError, match="at least two"):
        copy_loss(torch.eye(2))


def test_twenty_steps_lower_the_loss(images):
    network, rng, losses = tiny(), generator(0, "steps"), []
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(20):
        loss = sscd_loss(network, images[torch.randperm(32, generator=rng)[:12]], rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


def test_the_exported_descriptor_gives_the_same_vectors_in_single_precision(images, tmp_path):
    network = tiny()
    with torch.no_grad():
        network(normalised(images))  # moves the running means away from their start
    network.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    folder = export_sscd(network, tmp_path / "sscd-mini", 0.4)
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in network.state_dict().items())
    stored = load_file(folder / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16, torch.int64}
    config = config_beside(folder)
    assert (config.base_width, config.width, config.threshold) == (8, 32, 0.4)

    encoder = load_sscd(weights=folder, cache=tmp_path)
    vectors = encoder([i.permute(1, 2, 0).numpy() for i in images])
    assert vectors.dtype == torch.float32
    with torch.no_grad():
        wanted = network(normalised(images))
    assert functional.cosine_similarity(vectors, wanted).min() > 0.9999
