import math
from dataclasses import FrozenInstanceError, replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amnestic.attacks import extraction
from amnestic.attacks.extraction import Candidate, CliqueExtraction, extraction_outcome, tiled_distances
from amnestic.core.errors import InputError, NotFinite
from amnestic.measures.pixels import tiled_l2

FAST = settings(max_examples=40, deadline=None, database=None)
SEEDS = st.integers(0, 10_000)


def noise(height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def near(image, by, seed):
    """The same image with every value moved by at most `by`."""
    moved = image.astype(int) + np.random.default_rng(seed).integers(-by, by + 1, image.shape)
    return moved.clip(0, 255).astype(np.uint8)


def walk(n, seed):
    """Images along a path of small steps, so that some are near each other and some are not."""
    images = [noise(seed=seed)]
    for step in range(n - 1):
        images.append(near(images[-1], 12, seed * 100 + step))
    return images


def literal(images, *, tiles, distance, clique):
    """All subsets by falling size; of the largest cliques the tightest."""
    d = {(i, j): tiled_l2(images[i], images[j], tiles=tiles) for i, j in combinations(range(len(images)), 2)}

    def mean(pairs):
        values = [d[min(p), max(p)] for p in pairs]
        return sum(values) / len(values)

    for size in range(len(images), clique - 1, -1):
        found = [
            group for group in combinations(range(len(images)), size)
            if all(d[pair] <= distance for pair in combinations(group, 2))
        ]  # fmt: skip
        if found:
            members = min(found, key=lambda g: (round(mean(combinations(g, 2)), 9), g))
            others = {i: round(mean((i, j) for j in members if j != i), 9) for i in members}
            return members, min(members, key=lambda i: (others[i], i)), mean(combinations(members, 2))
    return (), None, None


class TestDistances:
    @FAST
    @given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), SEEDS, st.data())
    def test_equal_tiled_l2_pair_by_pair_for_every_size(self, height, width, n, seed, data):
        tiles = data.draw(st.integers(1, min(height, width)))
        images = [noise(height, width, seed + i) for i in range(n)]
        found = tiled_distances(images, tiles=tiles)
        for i in range(n):
            for j in range(n):
                assert found[i, j] == pytest.approx(tiled_l2(images[i], images[j], tiles=tiles), rel=1e-12, abs=0)
        assert np.array_equal(found, found.T)

    def test_large_patches_are_summed_over_all_their_columns(self, monkeypatch):
        images = [noise(13, 11, s) for s in range(4)]
        whole = tiled_distances(images, tiles=2)
        monkeypatch.setattr(extraction, "_COLUMNS", 7)
        assert np.array_equal(tiled_distances(images, tiles=2), whole)

    def test_equal_pictures_have_no_distance_and_black_and_white_the_largest(self):
        bright = noise(300, 300) | 0xF0
        assert tiled_distances([bright, bright.copy()], tiles=1).tolist() == [[0, 0], [0, 0]]
        assert tiled_distances([np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)])[0, 1] == 1

    @pytest.mark.parametrize(
        ("images", "tiles", "message"),
        [
            ([], 4, "at least one picture"),
            ([noise(8, 8), noise(8, 9)], 4, "match_size"),
            ([noise(8, 8), noise(8, 8).astype(float)], 4, "convert it to RGB"),
            ([noise(8, 8)[..., 0]], 4, "convert it to RGB"),
            ([noise(3, 8)], 4, "tiles"),
            ([noise(8, 8)], 0, "tiles"),
        ],
    )
    def test_refusals_say_what_to_do(self, images, tiles, message):
        with pytest.raises(InputError, match=message):
            tiled_distances(images, tiles=tiles)


class TestClique:
    @FAST
    @given(st.integers(2, 8), SEEDS, st.floats(0.02, 0.12), st.integers(2, 4), st.sampled_from([1, 3, 4]))
    def test_equals_the_search_through_all_subsets(self, n, seed, distance, clique, tiles):
        assume(n >= clique)
        images = walk(n, seed)
        found = CliqueExtraction(distance=distance, clique=clique, tiles=tiles)(images)
        members, representative, mean = literal(images, tiles=tiles, distance=distance, clique=clique)
        assert found.members == members
        assert found.representative == representative
        assert found.distance == (None if mean is None else pytest.approx(mean))
        assert found.extracted == bool(members)
        assert (found.images, found.complete) == (n, True)

    @FAST
    @given(st.integers(3, 9), SEEDS, st.randoms(use_true_random=False))
    def test_members_follow_their_images(self, n, seed, random):
        images, order = walk(n, seed), list(range(n))
        random.shuffle(order)
        attack = CliqueExtraction(distance=0.06, clique=2)
        found, moved = attack(images), attack([images[i] for i in order])
        assert sorted(order[i] for i in moved.members) == list(found.members)
        assert moved.distance == (None if found.distance is None else pytest.approx(found.distance))
        if len(found.members) > 2:  # of two members, both are as near to the other
            assert order[moved.representative] == found.representative

    @FAST
    @given(st.integers(3, 8), SEEDS, st.integers(1, 8))
    def test_far_images_never_destroy_a_clique(self, n, seed, n_far):
        attack = CliqueExtraction(distance=0.06, clique=2)
        images, far = walk(n, seed), [noise(seed=20_000 + seed * 10 + i) for i in range(n_far)]
        assume(tiled_distances(images + far)[n:].min(where=~np.eye(n + n_far, dtype=bool)[n:], initial=1) > 0.06)
        assert attack(images + far) == replace(attack(images), images=n + n_far)

    @FAST
    @given(st.integers(2, 8), SEEDS, st.floats(0.01, 0.1), st.floats(0.01, 0.1))
    def test_a_larger_distance_never_gives_a_smaller_clique(self, n, seed, one, other):
        images = walk(n, seed)
        few, many = (CliqueExtraction(distance=d, clique=2)(images) for d in sorted((one, other)))
        assert len(few.members) <= len(many.members)

    def test_copies_among_unlike_images_are_found_and_unlike_images_are_not(self):
        work = noise(32, 32)
        copies = [near(work, 3, seed) for seed in range(10)]
        unlike = [noise(32, 32, 100 + s) for s in range(40)]
        mixed = unlike[:20] + copies + unlike[20:]
        found = CliqueExtraction()(mixed)
        assert found.members == tuple(range(20, 30))
        assert found.representative in found.members
        assert CliqueExtraction()(mixed[:29]).members == ()
        assert not CliqueExtraction()(unlike).extracted

    def test_one_differing_patch_is_enough_to_be_no_copy(self):
        images = [noise(32, 32) for _ in range(3)]
        images[1][:8, :8] = 255 - images[1][:8, :8]
        assert CliqueExtraction(clique=2)(images).members == (0, 2)
        assert CliqueExtraction(clique=2, tiles=1)(images).members == (0, 1, 2)

    def test_the_limit_of_distance_itself_is_near(self):
        images = [np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 51, np.uint8)]
        assert CliqueExtraction(clique=2, distance=0.2)(images).members == (0, 1)
        assert not CliqueExtraction(clique=2, distance=0.1999)(images).extracted

    def test_of_two_cliques_the_tighter_then_the_first_is_taken(self):
        grey = [np.full((8, 8, 3), g, np.uint8) for g in (0, 6, 100, 102, 200, 202)]
        attack = CliqueExtraction(clique=2, distance=0.03)
        assert attack(grey).members == (2, 3)
        assert attack(grey).representative == 2
        assert attack(grey[4:] + grey[:4]).members == (0, 1)

    def test_a_chain_is_no_clique(self):
        """Neighbours along the chain are near, the ends are not."""
        chain = [np.full((8, 8, 3), 5 * i, np.uint8) for i in range(12)]
        assert len(CliqueExtraction(clique=2, distance=0.03)(chain).members) == 2
        assert not CliqueExtraction(clique=3, distance=0.03)(chain).extracted


class TestLimit:
    """Pairs of opposites: 2^16 maximal cliques of 16 members, one of each pair."""

    @pytest.fixture
    def opposites(self):
        images = []
        for tile in range(16):
            for sign in (-1, 1):
                image = np.full((8, 8, 3), 128, np.uint8)
                image[2 * (tile // 4) :, 2 * (tile % 4) :][:2, :2] += np.uint8(sign * 20 % 256)
                images.append(image)
        return images

    def test_a_claim_cut_short_says_so_and_is_a_clique(self, opposites):
        found = CliqueExtraction(distance=0.1, limit=50)(opposites)
        assert found.extracted
        assert not found.complete
        assert len({m // 2 for m in found.members}) == len(found.members) == 16

    def test_no_claim_cut_short_says_so(self, opposites):
        assert CliqueExtraction(distance=0.1, clique=17, limit=50)(opposites) == Candidate(images=32, complete=False)

    def test_images_with_too_few_neighbours_are_not_searched(self, opposites):
        """Each is near 30 others, and a clique of 32 needs 31."""
        assert CliqueExtraction(distance=0.1, clique=32, limit=1)(opposites) == Candidate(images=32, complete=True)

    def test_the_limit_is_a_number_of_maximal_cliques(self, opposites):
        few = opposites[:8]
        assert CliqueExtraction(distance=0.1, clique=4, limit=16)(few).complete
        assert not CliqueExtraction(distance=0.1, clique=4, limit=15)(few).complete

    def test_a_large_set_of_copies_is_one_clique(self):
        copies = [np.full((8, 8, 3), 7, np.uint8)] * 500
        found = CliqueExtraction(limit=1)(copies)
        assert found.members == tuple(range(500))
        assert (found.representative, found.distance, found.complete) == (0, 0.0, True)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings_", "message"),
        [
            ({"clique": 1}, "at least 2"),
            ({"tiles": 0}, "tiles and limit"),
            ({"limit": 0}, "tiles and limit"),
            ({"distance": -0.1}, r"\[0, 1\]"),
            ({"distance": 1.1}, r"\[0, 1\]"),
            ({"distance": math.nan}, r"\[0, 1\]"),
            ({"clique_share": 0.0}, "clique_share"),
            ({"clique_share": 1.5}, "clique_share"),
            ({"clique_share": math.nan}, "clique_share"),
        ],
    )
    def test_settings_without_meaning_are_refused(self, settings_, message):
        with pytest.raises(ValueError, match=message):
            CliqueExtraction(**settings_)

    def test_defaults_are_the_published_ones(self):
        attack = CliqueExtraction()
        assert (attack.tiles, attack.distance, attack.least(500)) == (4, 0.15, 10)
        with pytest.raises(FrozenInstanceError):
            attack.clique = 3

    @pytest.mark.parametrize(("share", "n", "least"), [(0.02, 500, 10), (0.02, 501, 11), (0.02, 16, 2), (0.07, 100, 7),
                                                       (0.5, 3, 2), (1.0, 16, 16)])  # fmt: skip
    def test_a_share_is_rounded_up_and_never_below_two(self, share, n, least):
        assert CliqueExtraction(clique=99, clique_share=share).least(n) == least

    def test_a_share_decides_the_clique(self):
        images = [noise(seed=0)] * 3 + [noise(seed=s) for s in range(1, 4)]
        assert CliqueExtraction(clique_share=0.5)(images).extracted
        assert not CliqueExtraction(clique_share=0.51)(images).extracted

    @pytest.mark.parametrize("n", [0, 1, 9])
    def test_too_few_images_are_refused_since_none_could_be_claimed(self, n):
        with pytest.raises(InputError, match=f"at least 10 generations of one prompt, got {n}"):
            CliqueExtraction()([noise()] * n)


CLAIM, NONE = Candidate(members=(0, 1), representative=0, distance=0.0, images=16), Candidate(images=16)
WORKS, OWN = ("a", "b", "c"), {"p": "a", "q": "b", "r": "b"}


def judged(candidates, rows, **changed):
    similarity = {prompt: torch.tensor(row) for prompt, row in rows.items()}
    return extraction_outcome(candidates, similarity, **({"works": WORKS, "own": OWN, "threshold": 0.5} | changed))


class TestOutcome:
    def test_by_hand(self):
        found = judged(
            {"p": CLAIM, "q": CLAIM, "r": NONE, "base": CLAIM},
            {"p": [0.9, 0.1, 0.1], "q": [0.1, 0.2, 0.7], "base": [0.1, 0.1, 0.1], "r": [0.9, 0.9, 0.9]},
        )
        assert (found.claimed, found.undecided, found.images) == (3, 0, 64)
        assert (found.recovered, found.recovered_own) == (("a", "c"), ("a",))
        assert (found.precision.estimate, found.precision.n) == (pytest.approx(2 / 3), 3)
        assert (found.recall.estimate, found.recall.n) == (pytest.approx(2 / 3), 3)
        assert (found.recall_own.estimate, found.recall_own.n) == (0.5, 2)
        assert found.recall.lower < found.recall.estimate < found.recall.upper

    def test_cliques_alone_are_no_success(self):
        found = judged({"p": CLAIM, "q": CLAIM}, {"p": [0.1] * 3, "q": [0.5] * 3})
        assert (found.claimed, found.recovered, found.recovered_own) == (2, (), ())
        assert found.precision.estimate == found.recall.estimate == found.recall_own.estimate == 0

    def test_likeness_without_a_clique_is_no_success(self):
        found = judged({"p": NONE}, {"p": [0.9, 0.9, 0.9]})
        assert found.recovered == ()
        assert found.recall.estimate == 0

    def test_no_claims_have_no_precision(self):
        found = judged({"p": NONE, "q": NONE}, {})
        assert (found.precision.estimate, found.precision.n, found.precision.lower) == (None, 0, None)
        assert (found.recall.estimate, found.recall.n) == (0, 3)

    def test_a_copy_scores_above_the_threshold(self):
        row = {"p": [0.5, 0.5 + 1e-6, 0.0]}
        assert judged({"p": CLAIM}, row).recovered == ("b",)

    def test_one_claim_may_show_several_works_and_counts_once_for_precision(self):
        found = judged({"p": CLAIM}, {"p": [0.9, 0.9, 0.1]})
        assert found.recovered == ("a", "b")
        assert (found.precision.estimate, found.precision.n) == (1, 1)

    def test_two_claims_of_one_work_recover_it_once(self):
        found = judged({"q": CLAIM, "r": CLAIM}, {"q": [0.1, 0.9, 0.1], "r": [0.1, 0.9, 0.1]})
        assert (found.recovered_own, found.recall.estimate) == (("b",), pytest.approx(1 / 3))
        assert (found.recall_own.estimate, found.recall_own.n) == (1, 1)

    def test_prompts_without_a_work_have_no_recall_of_their_own(self):
        found = judged({"base": CLAIM}, {"base": [0.9, 0.1, 0.1]}, own={})
        assert (found.recovered, found.recovered_own) == (("a",), ())
        assert found.recall_own.estimate is None

    def test_searches_cut_short_are_counted_unless_they_claim(self):
        found = judged(
            {"p": replace(CLAIM, complete=False), "q": replace(NONE, complete=False)}, {"p": [0.9, 0.1, 0.1]}
        )
        assert (found.claimed, found.undecided) == (1, 1)

    @FAST
    @given(st.lists(st.tuples(st.booleans(), st.lists(st.floats(-1, 1), min_size=3, max_size=3)), max_size=6))
    def test_counts_equal_those_by_loops(self, prompts):
        names = [f"p{i}" for i in range(len(prompts))]
        own = {name: WORKS[i % 3] for i, name in enumerate(names)}
        found = judged(
            {n: CLAIM if claims else NONE for n, (claims, _) in zip(names, prompts, strict=True)},
            {n: row for n, (_, row) in zip(names, prompts, strict=True)},
            own=own, threshold=0.25,
        )  # fmt: skip
        hits = [
            (own[n], w) for n, (claims, row) in zip(names, prompts, strict=True) if claims
            for w, score in zip(WORKS, torch.tensor(row).tolist(), strict=True) if score > 0.25
        ]  # fmt: skip
        assert found.recovered == tuple(w for w in WORKS if w in {hit for _, hit in hits})
        assert found.recovered_own == tuple(w for w in WORKS if (w, w) in hits)
        assert found.claimed == found.precision.n == sum(claims for claims, _ in prompts)
        assert set(found.recovered_own) <= set(found.recovered)

    @pytest.mark.parametrize(
        ("rows", "changed", "error", "message"),
        [
            ({}, {}, InputError, "expected 3 similarities for the claim of p, got none"),
            ({"p": [0.1]}, {}, InputError, r"got shape \(1,\)"),
            ({"p": [0.1, math.nan, 0.1]}, {}, NotFinite, "finite"),
            ({"p": [0.1] * 3}, {"works": ("a", "b", "b")}, InputError, "twice"),
            ({"p": [0.1] * 3}, {"own": {"p": "x"}}, InputError, "got x"),
            ({"p": [0.1] * 3}, {"threshold": 75.0}, InputError, "threshold"),
            ({"p": [0.1] * 3}, {"threshold": math.nan}, InputError, "threshold"),
        ],
    )
    def test_refusals_say_what_to_do(self, rows, changed, error, message):
        with pytest.raises(error, match=message):
            judged({"p": CLAIM}, rows, **changed)
