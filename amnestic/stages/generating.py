"""Draws the images of a run and lists them."""

from hashlib import sha256

from safetensors.torch import save as tensor_bytes

from amnestic.audit.evidence import png
from amnestic.audit.generate import Drawn, generate, plan
from amnestic.audit.request import AuditRequest
from amnestic.core.records import Unit
from amnestic.core.store import Run, write_atomically
from amnestic.model.target import PipelineTarget
from amnestic.parallel import Team
from amnestic.stages.inputs import Inputs, Progress


def generate_stage(
    run: Run, request: AuditRequest, inputs: Inputs, target: PipelineTarget, members: Team, progress: Progress
) -> None:
    """Draw what is missing; whole batches, so that a resumed run is the same bit for bit."""
    by_id = {p.id: p for p in inputs.prompts}
    batches = plan(inputs.prompts, range(request.n_seeds), batch_size=request.batch_size)
    mine = [b for b in members.share(batches) if run.missing(b)]
    total = sum(len(b) for b in members.share(batches))
    done = total - sum(len(b) for b in mine)
    progress("generate", done, total)
    for drawn in generate(target, by_id, mine, request.sampling):
        for one in drawn:
            _keep(run, one, latents=request.keep_latents)
        done += len(drawn)
        progress("generate", done, total)


def _keep(run: Run, drawn: Drawn, *, latents: bool) -> None:
    file = run.image_file(drawn.unit)
    if latents:
        write_atomically(file.with_suffix(".safetensors"), tensor_bytes({"latent": drawn.latent.contiguous()}))
    if not file.exists():
        write_atomically(file, png(drawn.image))


def write_samples(run: Run, request: AuditRequest, inputs: Inputs) -> None:
    """`samples.parquet`: a row per prompt and seed."""
    rows = []
    for prompt in inputs.prompts:
        for seed in range(request.n_seeds):
            file = run.image_file(Unit(prompt.id, seed))
            rows.append(
                {
                    "prompt_id": prompt.id, "seed": seed, "prompt": prompt.prompt, "label": prompt.label,
                    "rung": prompt.rung, "image": file.relative_to(run.folder).as_posix(),
                    "sha256": sha256(file.read_bytes()).hexdigest(),
                }
            )  # fmt: skip
    run.write_table("samples", rows)
