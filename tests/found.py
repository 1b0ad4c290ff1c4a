"""A small run as plain facts, from which tests make findings."""

from amnestic.core.records import plain
from amnestic.measures.intervals import rate
from amnestic.report.run_facts import RecordFacts, RunFacts

HOSTILE = "<script>alert(1)</script> | a\nred \x1b[31m cat -->"
SCORES = {"w0": (0.9, 0.2), HOSTILE: (0.3, 0.8), "w2": (0.1, 0.2)}
COMPARED = {
    "before": {"model": "m", "digest": "1", "run": "before"},
    "edit": {"method": "zero-units", "parameters": {}, "located_by": "nemo", "located_parameters": {"theta": 1},
             "weights": 5, "share": 0.1, "selected": 1, "works": ["w0"], "other_works": [],
             "sites": [{"name": "mid", "stage": "mid", "kind": "value", "chosen": 1, "size": 2}],
             "traces": {"exact_zeros": 1.0}},
    "rates": [{"group": "all works", "works": 3, "before": plain(rate(3, 3)), "after": plain(rate(0, 3)),
               "mcnemar": {"n": 3, "only_before": 3, "only_after": 0, "p_value": 0.25}}],
    "changes": [], "distances": [], "not_measured": [["KID", "no weights"]],
}  # fmt: skip


def curve(*counts, n=4):
    return [
        {"step": 10 * i, "ever": plain(rate(k, n)), "now": plain(rate(k, n)), "mean": {"estimate": 0.1 * k}}
        for i, k in enumerate(counts)
    ]


def arm(*counts, n=4):
    works = [{"work": f"w{i}", "before": 0.1, "after": 0.9 if i < counts[-1] else 0.2, "step": 10 if i < counts[-1]
              else None} for i in range(n)]  # fmt: skip
    return {"works": works, "tries": 1, "seeds": 2, "budget": 10 * (len(counts) - 1), "before": plain(rate(0, n)),
            "curve": curve(*counts, n=n), "passes": [100.0 * i for i in range(len(counts))],
            "by_median": plain(rate(0, n)), "median_step": None, "forward": 40.0, "backward": 40.0}  # fmt: skip


def attack(*counts, heldout=(0, 0), name="attack-0123456789ab"):
    verdict = {"conclusion": "recoverable", "sentence": "Recoverable: 2 of 4 works came back.", "why": ["because"],
               "threshold": 0.7, "level": 0.05, "judged_at": 10,
               "arms": {"heldout": arm(*heldout), "works": arm(*counts)},
               "comparisons": [], "flags": [], "not_measured": [["Control: twin", "none was given"]], "notes": [],
               "radius": {"works": {"points": [{"radius": 0.5, "ever": plain(rate(1, 4))}]}}}  # fmt: skip
    data = {"verdict": verdict, "searches": "embedding", "seconds": 3.0}
    return RecordFacts(id=name, stage="attack", name="dori", parameters={"steps": 10}, data=data)


def facts(scores=SCORES, *, records=(), **changes):
    """A run with three works of two seeds each, held-out and base controls."""
    hits = sum(max(s) > 0.7 for s in scores.values())
    matches, samples = [], []
    for group, label, listed in (("", "VM", scores), ("h", "heldout", {"h0": (0.1, 0.2), "h1": (0.3, 0.2)})):
        for i, (work, pair) in enumerate(listed.items()):
            for seed, score in enumerate(pair):
                matches.append({"prompt_id": f"{group}p{i}", "seed": seed, "label": label, "rung": None, "work": work,
                                "sscd_paired": None if group else score, "sscd_nearest": score,
                                "nearest_reference": "w0.png"})  # fmt: skip
                samples.append({"prompt_id": f"{group}p{i}", "seed": seed, "label": label, "prompt": f"{work} of old",
                                "original": f"{i}.png", "image": f"images/{group}p{i}/{seed}.png",
                                "sha256": "f" * 64})  # fmt: skip
    summary = {
        "threshold": {"value": 0.7, "provenance": "given", "false_positive_rate": None, "n_null": 0},
        "descriptor": {"id": "d/native/0", "name": "d", "preprocessing": "native", "digest": "0", "why": ""},
        "protocol": {"id": "abc", "n_seeds": 2},
        "works": {"total": len(scores), "replicated": hits, "replicated_by_any_prompt": hits, "without_original": 0},
        "leak_rate": plain(rate(hits, len(scores))), "median_based_rate": plain(rate(0, len(scores))),
        "controls": {"heldout": {"works": 2, "leak_rate": plain(rate(0, 2)), "max_score": 0.3}},
        "similarity": {"SSCD_Gen": "not measured"}, "clip": "not measured", "limit": 0.5, "verdict": "fail",
        "references": {"counts": {"ok": 3, "missing": 1}, "problems": [{"id": "x.png", "reason": "it is gone"}]},
    } | changes  # fmt: skip
    manifest = {
        "digest": "e" * 64, "settings": {
            "model": {"name": "org/model", "family": "stable-diffusion", "dtype": "float32", "digest": "a" * 64},
            "sampling": {"scheduler": "DDIMScheduler", "num_inference_steps": 2, "guidance_scale": 2.0},
            "seeds": [0, 1], "n_prompts": 5, "prompts": "b" * 64,
        },
        "provenance": {"utc": "2026-01-02T03:04:05+00:00", "python": "3.11", "platform": "any",
                       "packages": {"amnestic": "0.1.0"}, "command": "amnestic audit org/model --limit 3"},
    }  # fmt: skip
    return RunFacts(folder="run", manifest=manifest, summary=summary, matches=matches, samples=samples,
                    references=[{"id": "0.png", "sha256": "c" * 64}], records=tuple(records))  # fmt: skip
