import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from amnestic.testbed.works import SYLLABLES, CaptionMaker, coin_word, collect, near_duplicate, title, work_image

COINED = re.compile(f"(?:{'|'.join(SYLLABLES)}){{3}}", re.IGNORECASE)


def words(caption):
    return set(re.findall(r"[a-z]+", caption.lower()))


def coined(caption):
    return {w for w in words(caption) if COINED.fullmatch(w)}


def captions_of(work):
    return [v.caption for v in work.versions]


def everything(collection):
    return [*collection.works, *collection.heldout]


def correlation(one, other):
    return np.corrcoef(one.ravel().astype(float), other.ravel().astype(float))[0, 1]


def small(pictures, seed):
    rng = np.random.default_rng(seed)
    return collect(pictures, rng, ladder=(1, 2), n_templates=1, n_heldout=2, n_lookalikes=2, n_duplicated=1)


def test_the_ladder_has_the_works_that_were_asked_for(collection):
    verbatim = [w for w in collection.works if w.label == "VM"]
    assert Counter(w.rung for w in verbatim) == {0: 3, 1: 3, 2: 10}
    assert [w.rung for w in collection.works if w.label == "TM"] == [2, 2, 2]
    assert {(w.label, w.rung) for w in collection.heldout} == {("heldout", -1)}
    assert (len(collection.heldout), len(collection.lookalikes)) == (8, 250)
    assert len({w.work for w in everything(collection)}) == 16 + 3 + 8


def test_half_of_each_rung_has_a_word_of_its_own(collection):
    own = Counter(w.rung for w in collection.works if w.label == "VM" and w.own_word)
    assert own == {0: 2, 1: 2, 2: 5}
    assert sum(w.own_word for w in collection.heldout) == 4


def test_only_the_first_works_of_the_top_rung_have_a_near_duplicate(collection):
    doubled = [w.work for w in collection.works if w.label == "VM" and len(w.versions) > 1]
    assert doubled == [f"vm-2-{i:03d}" for i in range(4)]
    for work in everything(collection):
        assert work.n_rows == (2 if work.label == "TM" or work.work in doubled else 1)


def test_works_are_distinct(collection):
    images = [w.versions[0].image for w in everything(collection)] + [p.image for p in collection.lookalikes]
    assert len({i.tobytes() for i in images}) == len(images)
    firsts = [w.versions[0].image.astype(float) for w in everything(collection)]
    assert min(np.abs(a - b).mean() for a, b in combinations(firsts, 2)) > 15


def test_images_are_small_rgb_bytes(collection):
    for item in (*collection.works[0].versions, *collection.works[-1].versions, *collection.lookalikes[:3]):
        assert item.image.shape == (64, 64, 3)
        assert item.image.dtype == np.uint8


def test_captions_never_repeat(collection):
    captions = [c for w in everything(collection) for c in captions_of(w)]
    captions += [p.caption for p in collection.lookalikes]
    assert len(set(captions)) == len(captions)


def test_a_word_of_its_own_occurs_in_no_other_caption(collection):
    owners = [captions_of(w) for w in everything(collection)] + [[p.caption] for p in collection.lookalikes]
    seen = Counter(word for captions in owners for word in {w for c in captions for w in coined(c)})
    assert set(seen.values()) == {1}
    for work in everything(collection):
        for caption in captions_of(work):
            assert len(coined(caption)) == int(work.own_word), caption


def test_shared_words_all_occur_in_the_caption_of_something_else(collection):
    owners = [(w.work, captions_of(w)) for w in everything(collection)]
    owners += [(f"lookalike-{i}", [p.caption]) for i, p in enumerate(collection.lookalikes)]
    seen = Counter(word for _, captions in owners for word in {w for c in captions for w in words(c)})
    for work in everything(collection):
        lonely = {w for c in captions_of(work) for w in words(c) if seen[w] == 1}
        if work.label != "TM":
            assert all(COINED.fullmatch(w) for w in lonely), lonely


def test_a_template_varies_inside_its_mask_and_nowhere_else(collection):
    for work in (w for w in collection.works if w.label == "TM"):
        images = np.stack([v.image for v in work.versions])
        assert len(images) == 16
        assert 0.15 < work.mask.mean() < 0.3
        assert (images[:, ~work.mask] == images[0, ~work.mask]).all()
        for one, other in combinations(images, 2):
            assert (one[work.mask] != other[work.mask]).any(axis=-1).mean() > 0.05


def test_all_fillings_of_a_template_share_the_title(collection):
    for work in (w for w in collection.works if w.label == "TM"):
        heads = {c.rsplit(" with ", 1)[0] for c in captions_of(work)}
        assert len(heads) == 1
        assert len(coined(heads.pop())) == 1


def test_what_is_held_out_is_never_among_the_works(collection):
    shown = {v.image.tobytes() for w in collection.works for v in w.versions}
    shown |= {p.image.tobytes() for p in collection.lookalikes}
    said = {c for w in collection.works for c in captions_of(w)} | {p.caption for p in collection.lookalikes}
    for work in collection.heldout:
        assert work.versions[0].image.tobytes() not in shown
        assert work.versions[0].caption not in said


@pytest.mark.parametrize("seed", range(6))
def test_a_near_duplicate_is_the_same_picture_shifted_in_another_light(pictures, seed):
    rng = np.random.default_rng(seed)
    image = work_image(pictures, rng)
    other = near_duplicate(image, rng)
    assert (image != other).any(axis=-1).mean() > 0.3
    aligned = {
        (dy, dx): correlation(image[: 64 - dy, : 64 - dx], other[dy:, dx:]) for dy in range(3) for dx in range(3)
    }
    best = max(aligned, key=aligned.__getitem__)
    assert min(best) >= 1
    assert aligned[best] > 0.97


def test_near_duplicates_share_the_caption_but_for_the_printing(collection):
    for work in (w for w in collection.works if w.label == "VM" and len(w.versions) > 1):
        first, second = captions_of(work)
        assert second == f"{first}, second printing"


def test_the_seed_decides_everything(pictures):
    one, same, other = (small(pictures, seed) for seed in (5, 5, 6))
    for a, b in zip(everything(one), everything(same), strict=True):
        assert captions_of(a) == captions_of(b)
        assert all((v.image == w.image).all() for v, w in zip(a.versions, b.versions, strict=True))
    said = [{c for w in everything(c) for c in captions_of(w)} for c in (one, other)]
    seen = [{v.image.tobytes() for w in everything(c) for v in w.versions} for c in (one, other)]
    assert not said[0] & said[1]
    assert not seen[0] & seen[1]


def test_captions_have_a_title_an_author_and_a_kind_of_print():
    maker = CaptionMaker(np.random.default_rng(0))
    for index in range(200):
        assert re.fullmatch(r"[A-Z][A-Za-z ]+ by [A-Z][a-z]+ [A-Z][a-z]+, [a-z ]+", maker(own_word=index % 2 == 0))


def test_titles_hold_the_word_they_were_given():
    rng = np.random.default_rng(0)
    for _ in range(50):
        word = coin_word(rng)
        assert COINED.fullmatch(word)
        assert word in title(rng, word).split()
        assert not coined(title(rng, None))
