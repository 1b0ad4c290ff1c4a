"""Ctrl-C loses nothing: one sentence, and the same command continues."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from amnestic.core.records import Sampling


@pytest.fixture
def ctrl_c():
    """Processes that are started now heed Ctrl-C, also where the tests themselves run without a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(request):
    """The request as a command of its own; `command()` would leave out where files lie on this machine."""
    how = request.sampling
    options = {
        "prompts": request.prompts, "references": request.references, "out": request.out, "seeds": request.n_seeds,
        "num-inference-steps": how.num_inference_steps, "guidance-scale": how.guidance_scale, "device": "cpu",
        "batch-size": request.batch_size, "descriptor": request.descriptor, "sscd-weights": request.sscd_weights,
        "threshold": request.threshold,
    }  # fmt: skip
    words = [sys.executable, "-m", "amnestic", "audit", request.model]
    words += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # the images of two processes are compared bit for bit
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def images_of(request):
    return {p.relative_to(request.out): p.read_bytes() for p in request.out.glob("images/*/*.png")}


@pytest.mark.slow
def test_interrupted_audit_continues(request_of, ctrl_c):
    request = replace(request_of, batch_size=1, sampling=Sampling(num_inference_steps=12, guidance_scale=2.0))
    with started(request) as process:
        patience = time.monotonic() + 60
        while not images_of(request) and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    drawn = images_of(request)
    assert process.returncode == 130, said
    assert 0 < len(drawn) < 12
    assert "Traceback" not in said
    last = "amnestic: interrupted; nothing written so far is lost, issue the same command to continue"
    assert said.strip().splitlines()[-1] == last
    assert said.count("interrupted") == 1
    assert not list(request.out.glob("report.html"))

    written = {name: (request.out / name).stat().st_mtime_ns for name in drawn}
    with started(request) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    whole = images_of(request)
    assert len(whole) == 12
    assert drawn == {name: whole[name] for name in drawn}
    assert written == {name: (request.out / name).stat().st_mtime_ns for name in drawn}
    assert (request.out / "report.html").exists()
