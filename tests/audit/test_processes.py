"""Two processes write what one process writes."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from amnestic import stages
from amnestic.core.edit_file import read_header
from amnestic.core.store import Run
from amnestic.model.target import PipelineTarget


@pytest.mark.dist
def test_two_processes_equal_one(request_of, tmp_path):
    pieces = ["--nproc_per_node", "2", "--master_port", "29617", "-m", "amnestic", "audit", request_of.model]
    options = {
        "--prompts": request_of.prompts, "--references": request_of.references, "--seeds": 2,
        "--num-inference-steps": 2, "--guidance-scale": 2.0, "--device": "cpu", "--batch-size": 4,
        "--descriptor": "sscd-mini", "--sscd-weights": request_of.sscd_weights, "--threshold": 0.99,
    }  # fmt: skip
    arguments = [str(part) for pair in options.items() for part in pair]
    two = [sys.executable, "-m", "torch.distributed.run", *pieces, *arguments, "--out", str(tmp_path / "two")]
    one = [sys.executable, "-m", "amnestic", "audit", request_of.model, *arguments, "--out", str(tmp_path / "one")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # kernels round otherwise with other numbers of threads
    for command in (two, one):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert ("of 8" in done.stderr) == (command is two)  # a share of two batches of 4, not all 12 images
    names = [p.relative_to(tmp_path / "one") for p in sorted((tmp_path / "one" / "images").rglob("*.png"))]
    assert len(names) == 12
    records = [p.relative_to(tmp_path / "one") for p in sorted((tmp_path / "one" / "records").rglob("*.safetensors"))]
    assert len(records) == 2
    for name in names + records:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.dist
def test_a_mistake_of_the_main_process_ends_all(tmp_path):
    script = tmp_path / "mistake.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from amnestic.core.errors import InputError\nfrom amnestic.parallel import team\n"
        "members = team('cpu')\n"
        "assert members.on_main(lambda: 3) == (3 if members.is_main else None)\n"
        "def mistake():\n    raise InputError('no such mask')\n"
        "try:\n    members.on_main(mistake)\nexcept InputError as error:\n"
        "    Path(sys.argv[1], str(members.index)).write_text(str(error))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29619"]
    command += [str(script), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / name).read_text() for name in ("0", "1")] == ["no such mask"] * 2


@pytest.mark.dist
def test_two_processes_locate_and_prune_once(request_of, tmp_path):
    stages.audit(replace(request_of, threshold=-1.0))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for port, arguments in (
        (29621, ["locate", request_of.out, "-o", "r=0.2"]),
        (29623, ["prune", request_of.out, "--out", tmp_path / "pruned"]),
    ):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port, "-m",
                   "amnestic", *arguments, "--device", "cpu"]  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
    assert len(Run.open(request_of.out).records("locate")) == 1
    assert len(list((request_of.out / "edits").iterdir())) == 1
    assert PipelineTarget.load(tmp_path / "pruned").ident.digest == read_header(tmp_path / "pruned")["result"]
    assert not list(tmp_path.glob(".pruned*"))
