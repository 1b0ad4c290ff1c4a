"""Draws the images of a run and lists them."""

from functools import partial
from hashlib import sha256

from safetensors.torch import save as tensor_bytes

from amnestic.audit.evidence import png
from amnestic.audit.generate import Drawn, generate, plan
from amnestic.audit.request import AuditRequest
from amnestic.core.records import Keep, Unit
from amnestic.core.store import Run, write_atomically
from amnestic.model.target import PipelineTarget
from amnestic.parallel import Team
from amnestic.stages.images import images_of
from amnestic.stages.inputs import Inputs, Progress


def generate_stage(
    run: Run, request: AuditRequest, inputs: Inputs, target: PipelineTarget, members: Team, progress: Progress
) -> None:
    """Draw what is missing; whole batches, so that a resumed run is the same bit for bit."""
    by_id = {p.id: p for p in inputs.prompts}
    batches = plan(inputs.prompts, range(request.n_seeds), batch_size=request.batch_size)
    if request.keep != Keep.LATENTS:
        _decode_kept(run, target, [unit for batch in batches for unit in batch], members)
    missing = [b for b in batches if run.missing(b, request.keep)]
    run.claim((unit for batch in missing for unit in batch), request.keep)
    members.wait()  # all processes have read the same list before one of them writes
    open_ = set(missing)
    mine, there = members.share(missing), members.share([b for b in batches if b not in open_])
    done = sum(len(b) for b in there)
    total = done + sum(len(b) for b in mine)
    progress("generate", done, total)
    tell = partial(_tell_shrunk, run, members.index)
    for drawn in generate(target, by_id, mine, request.sampling, tell):
        for one in drawn:
            _keep(run, one, request.keep)
        done += len(drawn)
        progress("generate", done, total)


def _tell_shrunk(run: Run, process: int, size: int) -> None:
    run.event("batch size", images=size, process=process, why="memory ran out")


def _decode_kept(run: Run, target: PipelineTarget, units: list[Unit], members: Team) -> None:
    """Images that are asked for and were kept as latents only need not be drawn again."""
    image = images_of(run, target)
    waiting = [unit for unit in run.missing(units) if run.latent_file(unit).exists()]
    run.claim(waiting)
    members.wait()
    for unit in members.share(waiting):
        write_atomically(run.image_file(unit), png(image(unit)))
    members.wait()


def _keep(run: Run, drawn: Drawn, keep: Keep) -> None:
    image, latent = run.image_file(drawn.unit), run.latent_file(drawn.unit)
    if keep != Keep.IMAGES and not latent.exists():
        write_atomically(latent, tensor_bytes({"latent": drawn.latent.contiguous()}))
    if keep != Keep.LATENTS and not image.exists():
        write_atomically(image, png(drawn.image))


def write_samples(run: Run, request: AuditRequest, inputs: Inputs) -> None:
    """`samples.parquet`: a row per prompt and seed; names and hashes what was kept, the image or its latent."""
    rows = []
    for prompt in inputs.prompts:
        for seed in range(request.n_seeds):
            file = run.kept_file(Unit(prompt.id, seed))
            rows.append(
                {
                    "prompt_id": prompt.id, "seed": seed, "prompt": prompt.prompt, "label": prompt.label,
                    "rung": prompt.rung, "original": inputs.original_of(prompt),
                    "image": file.relative_to(run.folder).as_posix(),
                    "sha256": sha256(file.read_bytes()).hexdigest(),
                }
            )  # fmt: skip
    run.write_table("samples", rows)
