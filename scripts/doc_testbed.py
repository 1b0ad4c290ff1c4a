"""What documented commands are given instead of a GPU and the hub: the bundled testbed, and small settings."""

import csv
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from amnestic.cli import app
from amnestic.testbed.bundled import bundled

HUB_MODEL = re.compile(r"^[\w.-]+/[\w.-]*(?:stable-diffusion|sd-)[\w.-]*$")

ANY_RUN = re.compile(r"^runs/[\w-]+$")

SMALL: Mapping[str, tuple[str, ...]] = {
    "audit": ("--seeds", "2", "--num-inference-steps", "10", "--guidance-scale", "2"),
    "attack": ("-o", "steps=2", "--keep", "0,2", "--limit", "1", "--controls", "1", "--seeds", "1"),
    "finetune": (
        "-o", "steps=2", "-o", "forget_rows=2", "-o", "retain_rows=2", "--attack-option", "steps=1", "--limit", "2",
        "--surrogates", "1", "--surrogate-below", "1", "--n-retain", "4",
    ),
    "locality": (
        "--works", "1", "--starts", "2", "--seeds", "1", "--rounds", "0", "--masks", "2", "--base", "2",
        "--localizer", "wanda-subspace", "-o", "dori.steps=2",
    ),
    "locate": ("--sets", "2", "--set-size", "2", "--transfer-seeds", "0"),
    "extract": ("--clique", "2"),
    "run": ("--set", "limit_prompts=6", "--set", "n_seeds=1", "--set", "num_inference_steps=4"),
}  # fmt: skip
"""What is added to a command that would take long; the last word on an option counts."""

SMALL_NEMO = ("-o", "similarity=ssim", "-o", "refine=witnessed", "-o", "n_seeds=2")
"""The testbed's latents are too small for NeMo's published similarity."""

LEFT_OUT = ("--clip-pretrained", "--dtype", "--preprocessing", "--revision", "--sscd-weights", "--variant")
"""Options that only the real model or descriptor has a use for."""

PLACEHOLDERS: Mapping[str, str] = {"MODEL": "pipeline", "TWIN": "twin", "model=org/model": "pipeline"}
"""Words of the documentation that stand for a model, and folders of the testbed that hold one."""

LAUNCHER = ("torchrun", "--nproc_per_node", "2", "-m", "amnestic")
"""Instead of ``accelerate launch``, which starts a single process where there is no GPU."""

RADII = "0.5"

N_WORKS, N_CONTROLS = 4, 3

SETTINGS = "--seeds 2 --num-inference-steps 10 --guidance-scale 2 --device cpu"

RECIPE = """\
variables: {model: "${testbed}/pipeline", n_seeds: 1, num_inference_steps: 4, limit_prompts: 6, out: runs/recipe}
steps:
  - name: pruned
    does: audit
    model: ${model}
    prompts: prompts.csv
    references: originals
    n_seeds: ${n_seeds}
    sampling: {num_inference_steps: "${num_inference_steps}"}
    limit_prompts: ${limit_prompts}
"""
"""Stands for the reader's own recipe, with a step of the name that the page uses."""

BEFOREHAND: Mapping[str, tuple[str, ...]] = {
    "runs/sd14": (f"amnestic audit MODEL --prompts prompts.csv --references originals --out runs/sd14 {SETTINGS}",),
    "edited": (
        "amnestic locate runs/sd14 -o r=0.1 --device cpu", "amnestic prune runs/sd14 --out edited --device cpu",
    ),
    "runs/after": (
        "amnestic audit edited --before runs/sd14 --prompts prompts.csv --references originals --out runs/after "
        f"{SETTINGS}",
    ),
    "unlearned": (
        "amnestic finetune runs/sd14 --method retain-only --references originals --out unlearned -o steps=1 "
        "-o retain_rows=1 -o forget_rows=1 --n-retain 2 --device cpu",
    ),
    "runs/unlearned": (
        "amnestic audit unlearned --before runs/sd14 --prompts prompts.csv --references originals "
        f"--out runs/unlearned {SETTINGS}",
    ),
}  # fmt: skip
"""By folder that pages may take for granted, the commands that make it; they may take others for granted."""


def substituted(words: Sequence[str]) -> list[str]:
    """A call without its ``amnestic``, on the testbed and with small settings."""
    found, skip = [], False
    descriptors = testbed() / "descriptors"
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        if skip or word in LEFT_OUT:
            skip = not skip
        elif HUB_MODEL.match(word):
            found.append(str(testbed() / "pipeline"))
        elif word in PLACEHOLDERS:
            key, equals, _ = word.rpartition("=")
            found.append(f"{key}{equals}{testbed() / PLACEHOLDERS[word]}")
        elif before == "--clip":
            found.append(f"local-dir:{descriptors / 'clip-mini'}")
        elif before == "--radii":
            found.append(RADII)
        else:
            found.append(word)
    whole = not {"--list", "--of"} & set(words)  # of `amnestic run`: it is about a recipe
    small = [
        *(SMALL.get(words[0], ()) if whole else ()),
        *(SMALL_NEMO if "nemo" in words and words[0] == "locate" else ()),
    ]
    return [*found, *small, *(["--device", "cpu"] if _has_device(words[0]) else [])]


def _has_device(command: str) -> bool:
    known: Any = typer.main.get_command(app)
    return any("--device" in p.opts for p in known.commands[command].params) if command in known.commands else False


def shared_settings(words: Sequence[str]) -> Iterator[str]:
    """The options of an audit that another audit of the same protocol repeats."""
    own, skip = {"--out", "--prompts", "--references", "--before", "--twin", "--max-leak-rate", "--limit"}, False
    options = list(words)[2:]
    for word in options:
        if skip or word in own:
            skip = not skip
        else:
            yield word


def testbed() -> Path:
    """Folder of the bundled testbed."""
    return bundled().folder


def prepare(place: Path) -> None:
    """A folder as pages expect it: a short prompt list of works and controls, their originals, and a recipe."""
    place.mkdir(parents=True)
    (place / "originals").mkdir()
    with (testbed() / "prompts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    top = max(row["rung"] for row in rows if row["rung"])
    kinds = ((lambda r: r["label"] == "VM" and r["rung"] == top, N_WORKS),
             (lambda r: r["label"] == "heldout", N_CONTROLS), (lambda r: r["label"] == "base", N_CONTROLS))  # fmt: skip
    first = {row["work"] or row["id"]: row for row in reversed(rows)}  # of works with several prompts, one
    chosen = [row for fits, n in kinds for row in [r for r in rows if first[r["work"] or r["id"]] is r and fits(r)][:n]]
    for row in chosen:
        row["mask"] = ""
        if row["image"]:
            source = testbed() / row["image"]
            shutil.copy(source, place / "originals" / source.name)
            row["image"] = source.name
    (place / "recipe.yaml").write_text(RECIPE)
    with (place / "prompts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)
