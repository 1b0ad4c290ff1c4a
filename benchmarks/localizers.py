"""Ratios of localisation in one run: against literal orders of work, and memory against the number of prompts.

The literal implementations are those that the tests compare with; they live in ``tests/reference``.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from reference import nemo_literal, wanda_literal  # noqa: E402

from amnestic.core.methods import Case  # noqa: E402
from amnestic.core.records import Prompt  # noqa: E402
from amnestic.core.registry import build  # noqa: E402
from amnestic.core.store import write_json  # noqa: E402
from amnestic.model.target import PipelineTarget  # noqa: E402
from amnestic.testbed.bundled import bundled  # noqa: E402

N_CONTROLS, LEAST_CANDIDATES, NEMO_PROMPTS, WANDA_PROMPTS, ROUNDS = 20, 20, 3, 10, 3
NEMO = {"similarity": "ssim", "layers": "all", "refine": "witnessed"}
NEMO_RATIOS = {"nemo_ratio": True, "nemo_ratio_without_wasted_passes": False}


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long something takes, and what it returns."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def case_of(n: int) -> Case:
    """The first works of the top rung and base prompts of the bundled testbed."""
    testbed = bundled()
    rows = testbed.rows()
    top = max(int(row["rung"]) for row in rows if row["label"] == "VM")
    works = [Prompt(id=r["id"], prompt=r["prompt"]) for r in rows if r["label"] == "VM" and r["rung"] == str(top)]
    base = [Prompt(id=r["id"], prompt=r["prompt"]) for r in rows if r["label"] == "base"]
    return Case(memorized=tuple(works[:n]), controls=tuple(base[:N_CONTROLS]), sampling=testbed.sampling)


def wanda_ratio(target: PipelineTarget) -> dict[str, Any]:
    """One pass per prompt and set with stored activations, over ours; both of `WANDA_PROMPTS` prompts."""
    case, ratios = case_of(WANDA_PROMPTS), []
    texts, how = [p.prompt for p in case.memorized], case.sampling
    method = build("localizer", "wanda-subspace", {"r": 0.1})
    for _ in range(ROUNDS):
        ours, _ = seconds(lambda: method(target, case))  # type: ignore[operator]
        literal, _ = seconds(
            lambda: wanda_literal.locate(
                target.pipeline, texts, steps=how.num_inference_steps, guidance_scale=how.guidance_scale, ratio=0.1
            )
        )
        ratios.append(literal / ours)
    return spread(ratios)


def nemo_ratios(target: PipelineTarget) -> dict[str, dict[str, Any]]:
    """The literal order of work over ours, on prompts with many candidates; and how many neurons each leaves.

    ``nemo_ratio``: with the U-Net pass that the released program computes and forgets at every test;
    ``nemo_ratio_without_wasted_passes``: without it. Both with the same run of ours.
    """
    case, rows = case_of(64), []
    method = build("localizer", "nemo", NEMO)
    least = Case(memorized=case.memorized[:1], controls=case.controls, sampling=case.sampling)
    threshold = method(target, least).notes["threshold"]  # type: ignore[operator]
    method = build("localizer", "nemo", NEMO | {"threshold": threshold})
    unet, layers = target.pipeline.unet, [site.name for site in target.sites("value")]
    statistics = nemo_literal.activation_statistics(unet, [target.encode([p.prompt]) for p in case.controls], layers)

    def literal(prompt: str, *, wasted_passes: bool) -> nemo_literal.Located:
        return nemo_literal.locate(
            unet, target.pipeline.scheduler, target.encode([prompt]), statistics, layers=layers, betas=(1.0,),
            steps=case.sampling.num_inference_steps, pair_threshold=threshold, accept=threshold, refinement=threshold,
            wasted_passes=wasted_passes,
        )  # fmt: skip

    for prompt in case.memorized:
        one = Case(memorized=(prompt,), controls=case.controls, sampling=case.sampling)
        ours, n_rows, found = measured(unet, lambda one=one: method(target, one))  # type: ignore[misc,operator]
        told = found.notes["prompts"][prompt.id]
        if told.get("initial", 0) < LEAST_CANDIDATES:
            continue
        row = {"prompt": prompt.id, "candidates": told["initial"], "neurons": told["refined"], "unet_rows": n_rows}
        for name, wasted in NEMO_RATIOS.items():
            took, n_rows, wanted = measured(unet, lambda p=prompt, w=wasted: literal(p.prompt, wasted_passes=w))  # type: ignore[misc]
            row |= {name: took / ours, f"unet_rows_{name}": n_rows}
        rows.append(row | {"literal_neurons": sum(map(len, wanted.refined.values()))})
        if len(rows) == NEMO_PROMPTS:
            break
    return {name: per_prompt(name, rows) for name in NEMO_RATIOS}


def per_prompt(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of one comparison and what was counted for it."""
    if not rows:
        return {"median": None, "prompts": []}
    shared = ("prompt", "candidates", "neurons", "literal_neurons", "unet_rows")
    told = [{"ratio": r[name], "literal_unet_rows": r[f"unet_rows_{name}"]} | {k: r[k] for k in shared} for r in rows]
    return spread([row[name] for row in rows]) | {"setting": NEMO, "prompts": told}


def measured(unet: torch.nn.Module, work: Callable[[], Any]) -> tuple[float, int, Any]:
    """How long something takes, the rows that the U-Net computes for it, and what it returns."""
    rows: list[int] = []
    handle = unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        took, found = seconds(work)
    finally:
        handle.remove()
    return took, sum(rows), found


def peak_mib(n_prompts: int) -> float:
    """Peak memory of locating so many prompts, in a process of its own; `ru_maxrss` would start at the parent's."""
    code = (
        "import re\nfrom benchmarks.localizers import *\n"
        "target = PipelineTarget.load(str(bundled().folder / 'pipeline'))\n"
        f"case = case_of(8)\ncase = Case(memorized=case.memorized * {n_prompts // 8}, sampling=case.sampling)\n"
        "build('localizer', 'wanda-subspace', {'tau': 2})(target, case)\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def spread(values: list[float]) -> dict[str, Any]:
    """Smallest, middle and largest."""
    return {"min": min(values), "median": median(values), "max": max(values), "rounds": len(values)}


def main() -> None:
    """Print the ratios, and write them beside the results when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, help="results file that gets them under speed")
    given = parser.parse_args()
    target = PipelineTarget.load(str(bundled().folder / "pipeline"))
    with torch.no_grad():
        target.predict(torch.randn(1, *target.noise_shape()), torch.tensor([500]), target.encode([""]))
    memory = [peak_mib(512) / peak_mib(64) for _ in range(ROUNDS)]
    found = {"wanda_ratio": wanda_ratio(target), **nemo_ratios(target), "memory_ratio": spread(memory)}
    print(f"literal / wanda-subspace: {found['wanda_ratio']} (goal >= 3)")
    print(f"literal / nemo: {found['nemo_ratio']} (goal >= 5)")
    print(f"literal without wasted passes / nemo: {found['nemo_ratio_without_wasted_passes']}")
    print(f"peak memory, 512 / 64 prompts: {found['memory_ratio']} (goal <= 1.05)")
    if given.into:
        content = json.loads(given.into.read_text()) if given.into.exists() else {}
        write_json(given.into, content | {"speed": found})


if __name__ == "__main__":
    main()
