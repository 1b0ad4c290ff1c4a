"""Finished audits whose scores a test chooses: written by the project's own code, without a model."""

import json
from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch

from amnestic.audit.attack_arms import Arm
from amnestic.audit.attack_verdict import attack_verdict
from amnestic.audit.matches import match_rows
from amnestic.audit.replication import Embedded, compare
from amnestic.audit.summary import Judged, summarize
from amnestic.core.records import Descriptor, MethodSpec, Prompt, Sampling, TargetId, Threshold, digest, plain
from amnestic.core.store import Record, Run, write_json
from amnestic.sources.prompts import prompts_digest

DESCRIPTOR = Descriptor(name="made-up", preprocessing="native", digest="d" * 64)
SAMPLING, THRESHOLD = Sampling(), 0.7


def prompts_of(n_works, n_heldout=0, n_base=0):
    """Works on two rungs, each with an original, and controls."""
    works = [
        Prompt(id=f"w{i}", prompt=f"work {i}", image=f"w{i}.png", label="VM", work=f"w{i}", rung=i % 2)
        for i in range(n_works)
    ]
    heldout = [
        Prompt(id=f"h{i}", prompt=f"held out {i}", image=f"h{i}.png", label="heldout", work=f"h{i}")
        for i in range(n_heldout)
    ]
    return [*works, *heldout, *(Prompt(id=f"b{i}", prompt=f"base {i}", label="base") for i in range(n_base))]


def finished_run(
    folder, scores, *, n_heldout=0, n_base=0, model="a", seeds=2, sampling=SAMPLING, descriptor=DESCRIPTOR,
    threshold=THRESHOLD, prompts=None, hashes=None,
):  # fmt: skip
    """Audit in which work i scores ``scores[i]`` at best; held-out works and base prompts score 0 to 0.1.

    Args:
        scores: Best score of each work; the other seeds score 0.1 less.
        prompts: Instead of `prompts_of`.
        hashes: SHA-256 by original, where it is not that of its name.
    """
    prompts = prompts_of(len(scores), n_heldout, n_base) if prompts is None else prompts
    names = [p.image for p in prompts if p.image]
    best = [*scores, *[0.1] * (len(prompts) - len(scores))]
    embedded = Embedded(
        prompts=tuple(prompts), seeds=tuple(range(seeds)), generated=_generated(best, names, prompts, seeds),
        references=torch.eye(len(names) + 1)[:-1],
        original=tuple(names.index(p.image) if p.image else -1 for p in prompts),
        works=tuple(p.work for p in prompts if p.image),
    )  # fmt: skip
    judged = Judged(
        descriptor=descriptor, threshold=Threshold(value=threshold, provenance="given"), embedded=embedded,
        similarities=compare(embedded),
    )  # fmt: skip
    target = TargetId(name=f"models/{model}", family="stable-diffusion", digest=sha256(model.encode()).hexdigest())
    settings = {
        "stage": "audit", "model": plain(target), "prompts": digest([[p.id, p.prompt] for p in prompts]),
        "n_prompts": len(prompts), "seeds": list(range(seeds)), "sampling": plain(sampling),
    }  # fmt: skip
    run = Run.start(folder, settings)
    rows = [
        {"id": n, "path": n, "status": "ok", "sha256": (hashes or {}).get(n, digest(n)), "reason": ""} for n in names
    ]
    references = digest([[r["id"], r["sha256"], r["status"]] for r in rows])
    write_json(folder / "references.json", rows)
    run.write_table("samples", [
        {"prompt_id": p.id, "seed": s, "prompt": p.prompt, "label": p.label, "rung": p.rung, "original": p.image,
         "image": "", "sha256": ""} for p in prompts for s in range(seeds)
    ])  # fmt: skip
    run.write_table("matches", match_rows(judged, None, None, names, lambda prompt, seed: {}))
    summary = summarize(
        judged, None, None, target=target, sampling=sampling, references={"counts": {"ok": len(names)}}, limit=None,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    run.save(Record(
        stage="embed", made_by=MethodSpec(name=descriptor.name, parameters={"descriptor": descriptor.id}),
        parents=(run.manifest()["digest"], references),
        data={"descriptor": plain(descriptor), "references": names},
        tensors={"generated": embedded.generated.flatten(0, 1), "references": embedded.references},
    ))  # fmt: skip
    run.save(Record(
        stage="score", made_by=MethodSpec(name="replication", parameters={"threshold": threshold}),
        parents=(run.manifest()["digest"], references, digest(descriptor.id), prompts_digest(prompts)), data=summary,
        tensors={"paired": judged.similarities.paired, "nearest": judged.similarities.nearest},
    ))  # fmt: skip
    write_json(folder / "summary.json", summary)
    return run


def attack(run, method="dori", *, steps=(0, 50), asked="same", threshold=THRESHOLD, parameters=None, **best):
    """Save a judged attack on a run; each arm is named with the best score of its works at the last step."""
    model = run.manifest()["settings"]["model"]["digest"]
    settings = {"steps": steps[-1], "batch_size": 16} | (parameters or {})
    arms, saved = {}, {}
    for name, scores in best.items():
        arms[name] = replace(arm_of(scores, "h" if name == "heldout" else "w", steps), threshold=threshold)
        record = _arm_record(arms[name], method, (model, DESCRIPTOR.id, f"{asked} {name} {threshold}"), settings)
        run.save(record)
        saved[name] = record.id
    record = Record(
        stage="attack", made_by=MethodSpec(name=method, parameters=settings),
        parents=(f"threshold={threshold}", *(f"{k}={v}" for k, v in saved.items())),
        data={"verdict": plain(attack_verdict(arms)), "arms": saved, "searches": "embedding", "seconds": 1.0},
        tensors={},
    )  # fmt: skip
    run.save(record)
    return record


def summary_with(folder, **changes):
    """Change what a run says of itself."""
    content = json.loads((folder / "summary.json").read_text()) | changes
    write_json(folder / "summary.json", content)


def _generated(best, names, prompts, seeds):
    """Unit vectors that have the wanted cosine with their own original and none with others."""
    found = torch.zeros(len(prompts), seeds, len(names) + 1)
    for row, (prompt, score) in enumerate(zip(prompts, best, strict=True)):
        for seed in range(seeds):
            cosine = score if seed == 0 else score - 0.1
            place = names.index(prompt.image) if prompt.image else 0
            found[row, seed, place], found[row, seed, -1] = cosine, (1 - cosine**2) ** 0.5
    return found


def arm_of(scores, letter, steps):
    n, c = len(scores), len(steps)
    values = torch.full((n, 1, c, 2), 0.1)
    values[:, 0, -1, 0] = torch.tensor(scores, dtype=torch.float32)
    rows = torch.tensor(steps, dtype=torch.float32)[None, :, None].expand(1, c, n)
    loss = torch.linspace(1, 0.5, 5)[None, :, None].expand(1, 5, n).clone()
    return Arm(
        works=tuple(f"{letter}{i}" for i in range(n)), steps=tuple(steps), scores=values, loss=loss,
        gradient=torch.ones_like(loss), stopped=torch.full((1, n), -1), forward=rows, backward=rows,
    )  # fmt: skip


def _arm_record(arm, method, parents, settings):
    data = {"works": list(arm.works), "goals": list(arm.works), "steps": list(arm.steps), "seeds": [0, 1],
            "stopped": arm.stopped.tolist(), "flags": []}  # fmt: skip
    names = ("scores", "loss", "gradient", "forward", "backward")
    made_by = MethodSpec(name=method, parameters={k: v for k, v in settings.items() if k != "batch_size"})
    return Record(
        stage="attack-arm", made_by=made_by, parents=parents, data=data,
        tensors={name: getattr(arm, name).contiguous() for name in names},
    )  # fmt: skip
