"""Ratios measured in one run: generation against bare passes, memory against the number of prompts, help time."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from amnestic.audit.generate import generate, plan
from amnestic.core.records import Prompt, Sampling
from amnestic.model.target import PipelineTarget
from amnestic.testbed.bundled import bundled

BATCH, STEPS, BATCHES, ROUNDS = 16, 20, 2, 5


def bare_seconds(target: PipelineTarget) -> float:
    """U-Net passes of both guidance halves and decoding, without anything around them."""
    pipeline = target.pipeline
    config = pipeline.unet.config
    x = torch.randn(2 * BATCH, config.in_channels, config.sample_size, config.sample_size)
    cond, t = target.encode([""] * 2 * BATCH), torch.full((2 * BATCH,), 500)
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(BATCHES):
            for _ in range(STEPS):
                pipeline.unet(x, t, encoder_hidden_states=cond)
            pipeline.vae.decode(x[:BATCH])
    return time.perf_counter() - start


def audit_seconds(target: PipelineTarget, n_prompts: int) -> float:
    """The audit's own generation of as many images."""
    prompts = {f"p{i}": Prompt(id=f"p{i}", prompt=f"a red cat number {i}") for i in range(n_prompts)}
    how = Sampling(num_inference_steps=STEPS, guidance_scale=2.0)
    start = time.perf_counter()
    for _ in generate(target, prompts, plan(prompts.values(), [0], batch_size=BATCH), how):
        pass
    return time.perf_counter() - start


def peak_mib(n_prompts: int) -> float:
    """Peak memory of an audit of so many prompts, in a process of its own; `ru_maxrss` would start at the parent's."""
    code = (
        "import re\nfrom benchmarks.audit import *\n"
        f"audit_seconds(PipelineTarget.load(str(bundled().folder / 'pipeline')), {n_prompts})\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the three ratios."""
    target = PipelineTarget.load(str(bundled().folder / "pipeline"))
    audit_seconds(target, BATCH)  # warm up
    rounds = [(bare_seconds(target), audit_seconds(target, BATCHES * BATCH)) for _ in range(ROUNDS)]
    ratios = sorted(ours / bare for bare, ours in rounds)
    seconds = min(ours for _, ours in rounds) / BATCHES / BATCH
    print(
        f"generation / bare passes: median {median(ratios):.3f} of {ROUNDS}, {ratios[0]:.3f} to {ratios[-1]:.3f} "
        f"(goal <= 1.05); {seconds:.3f} s an image"
    )
    few, many = peak_mib(64), peak_mib(512)
    print(f"peak memory, 512 / 64 prompts: {many / few:.3f} (goal <= 1.05); {many:.0f} MiB")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "amnestic", "--help"], capture_output=True, check=True)
    print(f"amnestic --help: {time.perf_counter() - start:.2f} s (goal <= 0.4)")


if __name__ == "__main__":
    main()
