"""Rates: which images decide about a work, and what a calibrated threshold promises."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from amnestic.audit.replication import Embedded, calibrated, compare, rate_of, work_hits
from amnestic.audit.summary import Judged, null_and_groups, summarize, verdict_of
from amnestic.core.records import Descriptor, Prompt, Sampling, TargetId, Threshold
from amnestic.measures.intervals import rate


def random_units(rng, *shape):
    rows = torch.from_numpy(rng.normal(size=shape))
    return torch.nn.functional.normalize(rows, dim=-1).float()


def chance(rng, n_works=200, n_seeds=10, width=16):
    """Works of which none is replicated: images and originals know nothing of each other."""
    return Embedded(
        prompts=tuple(Prompt(id=f"p{i}", prompt="x") for i in range(n_works)), seeds=tuple(range(n_seeds)),
        generated=random_units(rng, n_works, n_seeds, width), references=random_units(rng, n_works, width),
        original=tuple(range(n_works)), works=tuple(f"w{i}" for i in range(n_works)),
    )  # fmt: skip


def test_the_false_positive_rate_holds_for_works_judged_by_their_best_seed():
    rng, wanted, rates = np.random.default_rng(0), 0.02, []
    for _ in range(20):
        embedded = chance(rng)
        similarities = compare(embedded)
        threshold = calibrated(similarities, false_positive_rate=wanted)
        assert threshold.n_null == len(similarities.null) == 200
        fresh = chance(rng)
        hits = work_hits(fresh, compare(fresh).paired, threshold.value, range(200))
        rates.append(rate_of(hits).estimate)
    # (a + 1) / (n + 1) with a = 4 of n = 200; one null score per image would give about 0.18.
    assert np.mean(rates) == pytest.approx(5 / 201, abs=0.01)


def test_null_pairs_are_of_another_work_and_one_for_each_prompt():
    rng = np.random.default_rng(1)
    embedded = replace(chance(rng, n_works=6, n_seeds=3), works=("a", "a", "a", "a", "a", "b"))
    cosine = torch.einsum("psd,rd->prs", embedded.generated, embedded.references).amax(2)
    null = compare(embedded).null
    assert torch.allclose(null[:5], cosine[:5, 5], atol=1e-5)
    assert torch.isclose(cosine[5, :5], null[5], atol=1e-5).sum() == 1
    assert len(compare(replace(embedded, works=("a",) * 6)).null) == 0


def test_too_few_null_pairs_calibrate_nothing():
    similarities = compare(chance(np.random.default_rng(2), n_works=50))
    assert calibrated(similarities, false_positive_rate=0.01) is None
    assert calibrated(similarities, false_positive_rate=0.02) is not None


def scored(*rows, seeds=3):
    """A judgement of prompts given as work, scores of the seeds, label and rung."""
    axes = torch.eye(2)
    cosines = torch.tensor([scores for _, scores, *_ in rows])
    generated = cosines[..., None] * axes[0] + (1 - cosines**2).sqrt()[..., None] * axes[1]
    names = sorted({work for work, *_ in rows})
    prompts = tuple(
        Prompt(id=f"p{i}", prompt="x", label=label, rung=rung) for i, (_, _, label, rung) in enumerate(rows)
    )
    embedded = Embedded(
        prompts=prompts, seeds=tuple(range(seeds)), generated=generated, references=axes[[0] * len(names)],
        original=tuple(names.index(work) for work, *_ in rows), works=tuple(names),
    )  # fmt: skip
    return Judged(
        descriptor=Descriptor(name="d", preprocessing="native", digest="0"),
        threshold=Threshold(value=0.5, provenance="given"), embedded=embedded, similarities=compare(embedded),
    )  # fmt: skip


def summary_of(judged, limit=None):
    return summarize(
        judged, None, None, target=TargetId(name="m", family="sd"), sampling=Sampling(), references={}, limit=limit,
        rng=np.random.default_rng(0),
    )  # fmt: skip


def test_the_first_prompt_of_a_work_decides():
    judged = scored(
        ("a", [0.1, 0.1, 0.6], "VM", 1), ("b", [0.1, 0.2, 0.3], "VM", 1), ("b", [0.9, 0.9, 0.9], "TM", 2),
        ("a", [0.1, 0.1, 0.1], "VM", 2), ("c", [0.8, 0.8, 0.1], "TM", None),
    )  # fmt: skip
    found = summary_of(judged)
    works = found["works"]
    assert (works["total"], works["replicated"], works["replicated_by_any_prompt"]) == (3, 2, 3)
    assert found["leak_rate"]["estimate"] == pytest.approx(2 / 3)
    labels = {name: (entry["works"], entry["replicated"]) for name, entry in found["by_label"].items()}
    assert labels == {"VM": (2, 1), "TM": (1, 1)}
    (rung,) = found["ladder"]
    assert (rung["rung"], rung["works"], rung["leak_rate"]["estimate"]) == (1, 2, 0.5)
    assert rung["mean_score"] == pytest.approx(1.4 / 6, abs=1e-5)
    assert null_and_groups(judged)["works"] == pytest.approx([0.6, 0.3, 0.8], abs=1e-5)


def test_the_median_based_rate_counts_works():
    found = summary_of(
        scored(*[("a", [0.9, 0.9, 0.1], "VM", None)] * 5, ("b", [0.9, 0.1, 0.1], "VM", None))
    )["median_based_rate"]  # fmt: skip
    assert (found["estimate"], found["n"]) == (0.5, 2)


def test_a_rung_with_one_work_has_no_interval():
    found = summary_of(scored(("a", [0.1, 0.1, 0.6], "VM", 1)))
    (rung,) = found["ladder"]
    assert rung["mean_score"] == pytest.approx(0.8 / 3, abs=1e-5)
    assert (rung["lower"], rung["upper"]) == (None, None)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("hits", "works", "limit", "verdict"),
    [
        (0, 60, 0.05, "pass"),
        (0, 58, 0.05, "inconclusive"),
        (1, 30, 0.05, "inconclusive"),  # a leak does not make few works decide
        (9, 30, 0.05, "fail"),  # the lower end of the interval is above the limit
        (3, 60, 0.05, "fail"),  # enough works, and too many leaks
        (0, 0, 0.05, "inconclusive"),
        (9, 9, None, "none"),
    ],
)
def test_verdicts(hits, works, limit, verdict):
    assert verdict_of(rate(hits, works), limit) == verdict
