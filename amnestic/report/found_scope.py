"""The frame of the findings from a run: what was tested, on which model, by which method."""

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

from amnestic.core.names import name_for_others
from amnestic.core.records import plain
from amnestic.measures.excess import excess_rate
from amnestic.report import wording
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.findings_auditor import AuditorFile
from amnestic.report.findings_parts import Difference, Missing, Open, not_applicable, not_measured
from amnestic.report.findings_scope import (
    Auditor,
    Control,
    Controls,
    Detector,
    Methodology,
    ModelFile,
    PromptClass,
    ReferenceSet,
    Scope,
    Subject,
)
from amnestic.report.found_attacked import difference
from amnestic.report.found_ordinary import hits_of, rate, works_of
from amnestic.report.run_facts import RunFacts

MEANINGS = {
    "heldout": "works never trained on: a score above the threshold is likeness without memory",
    "base": "ordinary prompts without a work: a score above the threshold is likeness to some original by chance",
}
MEMBERSHIP = "declared: the prompt list says so, and it was not tested"
SAMPLED_PLAIN = "none: images are drawn without the pipeline's safety checker, prompt filter or watermark"


def auditor(said: AuditorFile) -> Auditor:
    """Who audits, as far as somebody said it."""
    return Auditor(**{key: said.said(key) for key in Auditor.model_fields})


def scope(facts: RunFacts, said: AuditorFile) -> Scope:
    """What was evaluated.

    Args:
        facts: The run.
        said: What a person says.
    """
    return Scope(
        purpose=said.said("purpose"), subject=_subject(facts, said), references=_references(facts, said),
        controls=_controls(facts, said),
    )  # fmt: skip


def _subject(facts: RunFacts, said: AuditorFile) -> Subject:
    model, sampling = mapping(facts.settings.get("model")), dict(mapping(facts.settings.get("sampling")))
    read = mapping(facts.provenance.get("model"))
    sums = mapping(read.get("files")).items()
    files = tuple(ModelFile(path=str(name), sha256=str(checksum)) for name, checksum in sums)
    adapters = tuple(model.get("adapters") or model.get("loras") or ())
    return Subject(
        model=name_for_others(str(model.get("name"))), family=str(model.get("family")),
        revision=model.get("revision") or read.get("commit") or not_applicable("a folder has no revision; see digest"),
        variant=model.get("variant") or not_applicable("no weight variant was asked for"),
        dtype=str(model.get("dtype")), digest=str(model.get("digest")),
        files=files or not_measured("this run recorded one digest over all weights and configurations"),
        adapters=adapters or not_applicable("no adapter was named to the audit"),
        scheduler=str(sampling.pop("scheduler", "not recorded")), scheduler_settings=sampling,
        safety_filters_in_test=SAMPLED_PLAIN, safety_filters_in_use=said.said("safety_filters"),
        licence=said.said("licence"), modification=_modification(facts, said), terms=said.said("terms"),
    )  # fmt: skip


def _modification(facts: RunFacts, said: AuditorFile) -> str | Missing:
    compared = mapping(facts.summary.get("before_after"))
    edit, before = mapping(compared.get("edit")), str(mapping(compared.get("before")).get("model"))
    told = said.said("modification")
    if not edit:
        return told
    made = f"{edit.get('method')} applied to {before}; see the finding after mitigation"
    return made if isinstance(told, Missing) else f"{made}. {told}"


def _references(facts: RunFacts, said: AuditorFile) -> ReferenceSet:
    told = mapping(facts.summary.get("references"))
    statuses = {str(k): count(v) or 0 for k, v in mapping(told.get("counts")).items()}
    membership = said.said("membership")
    gone = [(row.get("id"), row.get("reason")) for row in listed(told.get("problems"))]
    return ReferenceSet(
        name=said.said("reference_set"), description=said.said("reference_description"),
        digest=facts.references_digest or not_measured("this run did not record it"),
        images=statuses.get("ok", not_measured("this run did not record it")),
        works=count(mapping(facts.summary.get("works")).get("total")) or 0,
        membership=MEMBERSHIP if isinstance(membership, Missing) else f"{membership} (said by the auditor)",
        rights=said.said("rights"), statuses=statuses,
        missing=tuple(Open(what=str(name), why=str(why or "no reason was recorded")) for name, why in gone),
        descriptor=str(mapping(facts.summary.get("descriptor")).get("id")),
    )  # fmt: skip


def _controls(facts: RunFacts, said: AuditorFile) -> Controls:
    found = mapping(facts.summary.get("controls"))
    return Controls(
        groups=tuple(_control(str(name), mapping(entry)) for name, entry in found.items()),
        matching=said.said("matching"), coincidence=_coincidence(facts), excess=_excess(facts),
    )  # fmt: skip


def _control(name: str, entry: Mapping[str, Any]) -> Control:
    score, images = real(entry.get("max_score")), mapping(entry.get("images"))
    measured = rate(wording.rate_of(entry))
    return Control(
        name=name, meaning=MEANINGS.get(name, "works or prompts that must not replicate"),
        works=count(entry.get("works")) or measured.n, rate=measured,
        images=rate(images) if images else not_measured("this run recorded none"),
        max_score=not_measured("this run recorded none") if score is None else score,
    )  # fmt: skip


def _coincidence(facts: RunFacts) -> str:
    """The sentence of the verdict that puts works beside their control."""
    said = wording.verdict(facts.summary)
    about = [line for line in said if "interval" in line and "control" in line and "Control “" not in line]
    about += [line for line in said if line.startswith("No control was measured")]
    return about[-1] if about else "No work was replicated, so there is nothing that chance would have to explain."


def _excess(facts: RunFacts) -> Difference | Missing:
    ours = [work.replicated for work in works_of(facts)]
    theirs = hits_of(facts, "heldout")
    if not ours or not theirs:
        return not_measured("no held-out works; add prompts labelled heldout to the list")
    found = excess_rate(torch.tensor(ours), torch.tensor(theirs), paired=False, seed=0)
    return difference(plain(found))


def methodology(facts: RunFacts, said: AuditorFile) -> Methodology:
    """How it was measured.

    Args:
        facts: The run.
        said: What a person says.
    """
    clip = mapping(facts.summary.get("clip"))
    return Methodology(
        unit="the work: near-duplicate originals, or originals that the prompt list gives one name, count once; its "
             "first prompt decides, by the best of its images",
        prompt_classes=_prompt_classes(facts), prompts=count(facts.settings.get("n_prompts")) or 0,
        prompts_digest=str(facts.settings.get("prompts")), seeds=tuple(facts.settings.get("seeds") or ()),
        detector=_detector(mapping(facts.summary.get("descriptor")), mapping(facts.summary.get("threshold"))),
        second_opinion=_detector(mapping(clip.get("descriptor")), mapping(clip.get("threshold"))) if clip
        else not_measured("no CLIP model was given, or its threshold could not be calibrated; add --clip NAME"),
        rates=rate(facts.summary.get("leak_rate")).method, human_review=said.said("human_review"),
    )  # fmt: skip


def _detector(descriptor: Mapping[str, Any], threshold: Mapping[str, Any]) -> Detector:
    texts = {key: str(descriptor.get(key) or "") for key in ("name", "preprocessing", "digest", "why")}
    declared = real(threshold.get("false_positive_rate"))
    return Detector(
        **texts, threshold=float(threshold["value"]), provenance=str(threshold.get("provenance") or "not recorded"),
        false_positive_rate=not_measured("the threshold was not calibrated") if declared is None else declared,
        n_null=count(threshold.get("n_null")) or 0,
    )  # fmt: skip


def _prompt_classes(facts: RunFacts) -> tuple[PromptClass, ...]:
    texts = {row["prompt_id"]: (row["label"], row["prompt"]) for row in facts.samples}
    work = {row["prompt_id"]: row["work"] for row in facts.matches}
    found = []
    for label in Counter(label for label, _ in texts.values()):
        mine = {name: text for name, (one, text) in texts.items() if one == label}
        words = [len(text.split()) for text in mine.values()]
        found.append(
            PromptClass(
                label=wording.named(label), prompts=len(mine), works=len({work.get(name, name) for name in mine}),
                words_median=median(words), words_max=max(words), characters_max=max(map(len, mine.values())),
            )
        )  # fmt: skip
    return tuple(found)
