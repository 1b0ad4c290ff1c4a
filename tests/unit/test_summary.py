import json
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.audit.replication import Embedded, aggregated, compare
from amnestic.audit.summary import Judged, summarize
from amnestic.core.records import Descriptor, Prompt, Sampling, TargetId, Threshold

MEAN, MEDIAN = "D_SSCD (mean over pairs) of base prompts", "D_SSCD of base prompts"


def found(generated):
    """The summary of one work and as many base prompts as there are further rows."""
    prompts = [Prompt(id="w", prompt="w", label="VM")]
    prompts += [Prompt(id=f"b{i}", prompt="b", label="base") for i in range(len(generated) - 1)]
    embedded = Embedded(
        prompts=tuple(prompts), seeds=tuple(range(generated.shape[1])), generated=generated,
        references=torch.eye(generated.shape[2])[:1], original=(0,) + (-1,) * (len(prompts) - 1), works=("w",),
    )  # fmt: skip
    judged = Judged(
        descriptor=Descriptor(name="d", preprocessing="native", digest="0"),
        threshold=Threshold(value=0.5, provenance="given"), embedded=embedded, similarities=compare(embedded),
    )  # fmt: skip
    return summarize(
        judged, None, None, target=TargetId(name="m", family="sd"), sampling=Sampling(), references={}, limit=None,
        rng=np.random.default_rng(0),
    )  # fmt: skip


def units(*angles):
    turned = torch.deg2rad(torch.tensor(angles, dtype=torch.float64))
    return torch.stack([turned.cos(), turned.sin()], dim=-1).float()


def test_base_prompts_carry_the_mean_over_all_pairs_beside_the_median():
    # Cosines of the pairs: 1, 0, 0 with median 0 and mean 1/3; and 1, 1, 1.
    similarity = found(torch.stack([units(0, 0, 0), units(0, 0, 90), units(30, 30, 30)]))["similarity"]
    assert similarity[MEAN]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert similarity[MEDIAN]["mean"] == pytest.approx(1 / 2, abs=1e-6)
    assert similarity[MEDIAN]["median"] == pytest.approx(0, abs=1e-6)
    assert similarity["D_SSCD"]["mean"] == pytest.approx(1, abs=1e-6)
    assert similarity["D_SSCD"]["n"] == 1
    json.dumps(similarity, allow_nan=False)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 99))
def test_the_mean_is_that_over_every_pair_of_every_base_prompt(n_prompts, n_seeds, seed):
    drawn = torch.randn(n_prompts + 1, n_seeds, 8, generator=torch.Generator().manual_seed(seed))
    generated = torch.nn.functional.normalize(drawn, dim=-1)
    pairs = [float(row[i] @ row[j]) for row in generated[1:] for i, j in combinations(range(n_seeds), 2)]
    assert found(generated)["similarity"][MEAN]["mean"] == pytest.approx(np.mean(pairs), abs=1e-5)


def test_one_seed_has_no_pairs():
    similarity = found(torch.stack([units(0), units(30)]))["similarity"]
    assert (similarity[MEAN]["mean"], similarity[MEAN]["n"]) == (None, 0)


def test_without_base_prompts_nothing_is_said_of_them():
    assert not {MEAN, MEDIAN} & found(units(0, 10)[None])["similarity"].keys()


def test_what_was_not_measured_is_left_out_of_the_mean():
    entry = aggregated("x", torch.tensor([1.0, float("nan"), 2.0, 6.0]), "cosine")
    assert (entry["median"], entry["mean"], entry["n"]) == (2.0, 3.0, 3)
    assert aggregated("x", torch.tensor([float("nan")]), "cosine")["mean"] is None
