"""Images that stand for works while a model learns to forget them: drawn by a pruned model, and no copies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from amnestic.audit.generate import generate, plan
from amnestic.core.errors import InputError
from amnestic.core.protocols import Encoder
from amnestic.core.records import MethodSpec, Prompt, Sampling, digest
from amnestic.core.store import Record, Run
from amnestic.core.target import Target
from amnestic.parallel import Team
from amnestic.stages.inputs import Progress

FIRST_SEED = 1_000_000
"""Audits draw from seed 0 on; what a model is taught is never what it is judged by."""
ROUNDS = 3
"""A work of which too few images are no copies is drawn again so often, with other seeds."""
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which surrogates are wanted.

    Attributes:
        n: Per work.
        below: Only images less similar to the original than this, under the run's descriptor.
    """

    n: int = 10
    below: float = 0.5


def surrogates(
    run: Run, source: Target, prompts: Sequence[Prompt], wanted: Wanted, *, encoder: Encoder,
    originals: Mapping[str, Tensor], crew: Team, progress: Progress,
) -> Record:  # fmt: skip
    """Draw surrogates, or read the record of them.

    Args:
        run: The audit, for its sampling; keeps the record.
        source: The model that draws, such as a pruned one.
        prompts: Of the works.
        wanted: How many, and how unlike the originals.
        encoder: The descriptor that judged the run.
        originals: Its vectors of the originals, by prompt id.
        crew: Processes that share the drawing.
        progress: Told how far it is.

    Returns:
        Latents ``(M, C, H, W)`` in ``tensors[prompt id]``, M at most ``wanted.n``; works of which all images are
        copies have none and are listed in ``data["copies"]``.
    """
    made_by = MethodSpec(
        name="surrogates",
        parameters={"n": wanted.n, "below": wanted.below, "rounds": ROUNDS, "descriptor": encoder.descriptor.id},
    )
    parents = (run.manifest()["digest"], source.ident.digest, digest([[p.id, p.prompt] for p in prompts]))
    record = run.load("surrogates", made_by, parents)
    crew.wait()
    if record is not None:
        return record
    how = Sampling(**run.manifest()["settings"]["sampling"])
    kept: dict[str, list[Tensor]] = {p.id: [] for p in prompts}
    scores: dict[str, list[float]] = {p.id: [] for p in prompts}
    for one in range(ROUNDS):
        lacking = [p for p in prompts if len(kept[p.id]) < wanted.n]
        seeds = range(FIRST_SEED + one * wanted.n, FIRST_SEED + (one + 1) * wanted.n)
        for name, score, latent in _drawn(source, lacking, seeds, how, encoder, originals, crew, progress):
            scores[name].append(score)
            if score < wanted.below and len(kept[name]) < wanted.n:
                kept[name].append(latent)
    data = {
        "works": [p.work for p in prompts], "copies": [p.id for p in prompts if not kept[p.id]],
        "kept": {name: len(some) for name, some in kept.items()}, "scores": scores, "model": source.ident.digest,
        "passes": sum(map(len, scores.values())) * how.rows_per_image,
    }  # fmt: skip
    tensors = {name: torch.stack(some) for name, some in kept.items() if some}
    record = Record(stage="surrogates", made_by=made_by, parents=parents, data=data, tensors=tensors)
    crew.on_main(lambda: run.save(record))
    return record


def without_copies(
    record: Record, prompts: Sequence[Prompt], source: str, *, leave_out: bool
) -> tuple[Prompt, ...]:  # fmt: skip
    """The works that have surrogates.

    Args:
        record: From `surrogates`.
        prompts: Of the works.
        source: Name of the model that drew, for the sentence.
        leave_out: Whether works without surrogates are left out instead of refused.

    Raises:
        InputError: If a work has none, or none is left; the sentence names the works.
    """
    copies = set(record.data["copies"])
    left = tuple(p for p in prompts if p.id not in copies)
    if copies and not (leave_out and left):
        below, named = record.made_by.parameters["below"], [p.work or p.id for p in prompts if p.id in copies]
        raise InputError(
            f"{source} draws only copies of {', '.join(named)}: none of the images is below {below:g}; prune more of "
            "what holds them, or leave such works out with --leave-out-copies"
        )
    return left


def _drawn(
    source: Target, prompts: Sequence[Prompt], seeds: range, how: Sampling, encoder: Encoder,
    originals: Mapping[str, Tensor], crew: Team, progress: Progress,
) -> list[tuple[str, float, Tensor]]:  # fmt: skip
    """Images of all prompts and seeds, in order, each with its similarity to the original."""
    batches = plan(prompts, seeds, batch_size=BATCH)
    mine, found = crew.share(list(enumerate(batches))), []
    done = 0
    for (place, _), drawn in zip(
        mine, generate(source, {p.id: p for p in prompts}, [b for _, b in mine], how), strict=True
    ):
        vectors = encoder([d.image for d in drawn]).cpu()
        for one, vector in zip(drawn, vectors, strict=True):
            name = one.unit.prompt_id
            found.append((place, name, float(vector @ originals[name].cpu()), one.latent))
        done += len(drawn)
        progress("draw surrogates", done, sum(len(b) for _, b in mine))
    together = chain.from_iterable(crew.gathered(found))
    return [(name, score, latent) for _, name, score, latent in sorted(together, key=lambda row: row[0])]
