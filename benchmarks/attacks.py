"""Ratios of the embedding search in one run: against its bare passes, early stops, and memory against works."""

import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from amnestic.attacks.dori import Dori
from amnestic.audit.tried_inputs import STOPPING_SEEDS, InputJudge
from amnestic.core.attacks import AttackCase, Goal, Tried
from amnestic.core.records import Prompt
from amnestic.model.descriptors import choose_descriptor
from amnestic.model.target import PipelineTarget
from amnestic.sources.images import open_image
from amnestic.testbed.bundled import bundled

ROOT = Path(__file__).parent.parent
STEPS, ROUNDS, WORKS = 6, 3, 8
LOOK_AT = (1, 2, 5, 10, 15, 20, 30, 40)


def case_of(target: PipelineTarget, n: int) -> tuple[AttackCase, list[Any]]:
    """Works of the top rung of the bundled testbed, again and again, each under an id of its own."""
    testbed = bundled()
    rows = [r for r in testbed.rows() if r["label"] == "VM"]
    rows = [r for r in rows if r["rung"] == max(r["rung"] for r in rows)][:WORKS]
    images = [open_image(testbed.folder / r["image"]) for r in rows]
    latents = target.latents_of(images).cpu()
    goals = tuple(
        Goal(prompt=Prompt(id=f"{rows[i % WORKS]['id']}.{i}", prompt=rows[i % WORKS]["prompt"]),
             original=latents[i % WORKS]) for i in range(n)
    )  # fmt: skip
    return AttackCase(goals=goals, sampling=testbed.sampling), [images[i % WORKS] for i in range(n)]


def bare_seconds(target: PipelineTarget, goals: int, method: Dori) -> float:
    """The same rows forward and back to the embedding, with nothing around them."""
    rows = goals * method.draws
    cond = target.encode(["a work"]).expand(min(rows, method.batch_size), -1, -1)
    x, t = torch.randn(len(cond), *target.noise_shape()), torch.full((len(cond),), 500)
    started = time.perf_counter()
    for _ in range(method.steps * rows // len(cond)):
        held = cond.clone().requires_grad_()
        torch.autograd.grad(target.predict(x, t, held).square().mean(), held)
    return time.perf_counter() - started


def overhead(target: PipelineTarget) -> list[float]:
    """Seconds of a search over those of its bare passes, round by round."""
    case, _ = case_of(target, WORKS)
    method, found = Dori(steps=STEPS), []
    for _ in range(ROUNDS):
        bare = bare_seconds(target, WORKS, method)
        started = time.perf_counter()
        method(target, case)
        found.append((time.perf_counter() - started) / bare)
    return found


def saved_by_early_stops(target: PipelineTarget) -> float:
    """Rows of whole searches over those of searches that end when an independent judge sees the work.

    The unedited model, whose works are all there; searches begin at another memorized work's prompt, so that they have
    something to find.
    """
    testbed = bundled()
    case, images = case_of(target, WORKS)
    case = AttackCase(goals=case.goals, memorized=tuple(g.prompt for g in case.goals), sampling=case.sampling)
    size = (target.image_size, target.image_size)
    encoder = choose_descriptor("auto", image_size=size, bundled=testbed.folder / "descriptors" / "sscd-mini")
    vectors = dict(zip((g.id for g in case.goals), encoder(images), strict=True))
    judge = InputJudge(target=target, encoder=encoder, originals=vectors, sampling=testbed.sampling)

    def look(tried: Tried, places: frozenset[int]) -> frozenset[int]:
        some = sorted(places)
        scores, _ = judge([case.goals[i].prompt for i in some], tried.cond[some], (STOPPING_SEEDS, STOPPING_SEEDS + 1))
        return frozenset(i for i, row in zip(some, scores, strict=True) if float(row.max()) > 0.7)

    method = Dori(start="other-memorized")
    found = method(target, case, look_at=LOOK_AT, look=look)
    back = [i for i, step in enumerate(found.stopped[0]) if step >= 0]
    spent = float(found.cost["forward"][0, -1, back].sum())
    print(f"{len(back)} of {WORKS} works came back at steps {[found.stopped[0][i] for i in back]}")
    return len(back) * method.steps * method.draws / max(spent, 1.0)


def peak_mib(works: int) -> float:
    """Peak memory of attacking so many works 16 at a time, in a process of its own."""
    code = (
        "import re\nfrom benchmarks.attacks import *\n"
        "target = PipelineTarget.load(str(bundled().folder / 'pipeline'))\n"
        f"for _ in range({works} // 16):\n    Dori(steps=1)(target, case_of(target, 16)[0])\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(re.findall(r"[\d.]+", done.stdout)[-1])


def main() -> None:
    """Print the ratios."""
    target = PipelineTarget.load(str(bundled().folder / "pipeline"))
    ratios = overhead(target)
    print(f"search / bare passes: {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}; limit 1.10)")
    print(f"rows without / with early stops: {saved_by_early_stops(target):.2f} (goal >= 2)")
    memory = [peak_mib(64) / peak_mib(16) for _ in range(ROUNDS)]
    print(f"peak memory, 64 / 16 works: {median(memory):.3f} ({min(memory):.3f} to {max(memory):.3f}; limit 1.05)")


if __name__ == "__main__":
    main()
