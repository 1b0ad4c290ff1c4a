"""How many works and controls a step of a recipe will meet: from its finished audit, else from its prompt list."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amnestic.audit.attack_goals import known_images
from amnestic.audit.prompt_sets import work_of
from amnestic.audit.selection import Selection, part_of_works
from amnestic.core.records import Prompt, Sampling
from amnestic.core.store import Run
from amnestic.recipes.plan import Plan, Ref, Step
from amnestic.recipes.runner import Notes
from amnestic.sources.prompts import read_prompts
from amnestic.stages.choosing import chosen
from amnestic.stages.locating import selected


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What a step knows of the audit it goes on from.

    Attributes:
        sampling: How it draws.
        n_seeds: Images per prompt.
        prompts: Its prompts.
        run: The audit, once it has finished.
    """

    sampling: Sampling
    n_seeds: int
    prompts: tuple[Prompt, ...]
    run: Run | None

    def memorized(self, how: Selection) -> tuple[int, bool]:
        """Works that replicate, and whether that is known; before the audit all of them may."""
        if self.run is not None:
            return len(selected(self.run, how).memorized), True
        return len(self._works(how)[: how.limit]), False

    def controls(self, how: Selection) -> int:
        """Prompts that a localizer compares with."""
        kinds = {"base": ("base",), "heldout": ("heldout",)}.get(how.controls, ("base", "heldout"))
        found = sum(p.label in kinds for p in self.prompts)
        return found or sum(p.label == "heldout" for p in self.prompts)

    def attacked(self, how: Selection, n_controls: int | None) -> tuple[int, int]:
        """Works and held-out works that are attacked, whether they replicate or not."""
        if self.run is not None:
            known = known_images(self.run.read_table("samples"), self.run.read_table("matches"), how,
                                 n_controls=n_controls)  # fmt: skip
            return len(known.works), len(known.heldout)
        works = len([p for p in self._works(how) if p.label != "TM"][: how.limit])
        heldout = len({work_of(p) for p in self.prompts if p.label == "heldout" and p.image})
        return works, min(heldout, works if n_controls is None else n_controls)

    def _works(self, how: Selection) -> list[Prompt]:
        first: dict[str, Prompt] = {}
        for p in self.prompts:
            if p.image and p.label not in ("heldout", "base"):
                first.setdefault(work_of(p), replace(p, work=work_of(p)))
        wanted = part_of_works(tuple(first.values()), how)
        return [p for p in first.values() if p.id in wanted]


def audited(plan: Plan, run: Any, notes: Notes) -> Audited:  # noqa: ANN401 - a step or a folder
    """What is known of an audit that a step names in its setting ``run``.

    Args:
        plan: The plan.
        run: The earlier step, or the folder of an audit.
        notes: What has finished.
    """
    if isinstance(run, Ref):
        step = plan.step(run.step)
        if notes.finished(step) is None:
            request = step.request(lambda name: str(plan.step(name).out or name))
            return Audited(sampling=request.sampling, n_seeds=request.n_seeds, prompts=prompts_of(plan, step), run=None)
        run = step.out
    opened = Run.open(Path(run))
    settings = opened.manifest()["settings"]
    rows = {row["prompt_id"]: row for row in opened.read_table("samples")}
    prompts = tuple(Prompt(id=n, prompt=r["prompt"], image=r["original"] or "", label=r["label"])
                    for n, r in rows.items())  # fmt: skip
    return Audited(
        sampling=Sampling(**settings["sampling"]), n_seeds=len(settings["seeds"]), prompts=prompts, run=opened
    )


def prompts_of(plan: Plan, step: Step) -> tuple[Prompt, ...]:
    """Prompts that a step of a plan reads, also where an earlier step has yet to choose them.

    Args:
        plan: The plan.
        step: One that reads a prompt list.
    """
    given = step.settings["prompts"]
    if isinstance(given, Ref):
        source = plan.step(given.step)
        found: Sequence[Prompt] = chosen(prompts_of(plan, source), source.request(lambda name: name))
    else:
        found = read_prompts(Path(given))
    return tuple(found)[: step.settings.get("limit_prompts")]
