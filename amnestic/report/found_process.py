"""Access, process and review of the findings from a run: what a third party needs to trust and to repeat them."""

from collections.abc import Iterator, Mapping
from typing import Any

from amnestic.core.doubts import doubts_of
from amnestic.core.names import name_for_others
from amnestic.report.facts import count, mapping, real
from amnestic.report.findings_auditor import AuditorFile
from amnestic.report.findings_parts import Doubt, Missing, Open, not_measured
from amnestic.report.findings_process import Access, Cost, Integrity, RecordMade, Review
from amnestic.report.run_facts import RunFacts

WHITE = "white box: weights and gradients were used by the attacks or mitigations of this run"
BLACK = "black box: only prompts went in and images came out, although the weights were at hand"
DETERMINISM = (
    "starting noise belongs to a prompt and a seed and is drawn on the CPU; the same settings, machine and batch size "
    "give the same images bit for bit, another device or batch size differs by rounding"
)
NOT_KNOWN = ("", "not known", None)
RETENTION = (
    "Not given by the auditor. Regulators may ask for such records for years; keep the run folder with its checksums "
    "for as long as the model is offered."
)
CONFIDENTIAL = (
    "Not given by the auditor. The evidence holds copies of the works, and edits and attacks of the run tell how to "
    "bring works back: show them only to those who must see them."
)


def access(facts: RunFacts, said: AuditorFile) -> Access:
    """With which access and means it was measured.

    Args:
        facts: The run.
        said: What a person says.
    """
    inside = any(facts.records_of(stage) for stage in ("attack", "locate", "finetune", "locality"))
    return Access(
        model=WHITE if inside else BLACK, training_data=said.said("training_data"), compute=tuple(_costs(facts)),
        hardware=_hardware(facts, said),
    )  # fmt: skip


def _costs(facts: RunFacts) -> Iterator[Cost]:
    images = len(facts.samples)
    sampling = mapping(facts.settings.get("sampling"))
    steps, guided = count(sampling.get("num_inference_steps")) or 0, (real(sampling.get("guidance_scale")) or 0) > 1
    times = mapping(facts.summary.get("timings"))
    yield Cost(
        what=f"drawing {images} images", seconds=real(times.get("generate_s")),
        forward=float(images * steps * (1 + guided)), backward=0.0,
    )  # fmt: skip
    yield Cost(what="the whole audit", seconds=real(times.get("total_s")))
    for record in facts.records:
        if record.stage in ("locate", "finetune", "attack", "extract", "locality"):
            passes = real(record.data.get("passes"))
            yield Cost(what=f"{record.stage}: {record.name}", seconds=real(record.data.get("seconds")), forward=passes)


def _hardware(facts: RunFacts, said: AuditorFile) -> str | Missing:
    device = mapping(facts.provenance.get("device"))
    told = said.said("hardware")
    if not device:
        return told
    found = ", ".join(
        f"{key} {value}" for key, value in device.items() if value not in NOT_KNOWN and value != "none"
    )  # fmt: skip
    threads = facts.provenance.get("threads")
    found += f", {threads} threads" if threads else ""
    return found if isinstance(told, Missing) else f"{found}. {told}"


def integrity(facts: RunFacts) -> Integrity:
    """What a third party needs to repeat and to check the run.

    Args:
        facts: The run.
    """
    packages = mapping(facts.provenance.get("packages"))
    command = facts.provenance.get("command")
    return Integrity(
        settings=_for_others(facts.settings), settings_digest=str(facts.manifest.get("digest")),
        command=str(command) if command else not_measured("this run did not record it; its report.html shows it"),
        platform=str(facts.provenance.get("platform") or "not recorded"),
        python=str(facts.provenance.get("python") or "not recorded"),
        packages={str(name): str(number) for name, number in packages.items()}, commit=_commit(facts),
        determinism=_determinism(facts),
        records=tuple(RecordMade(id=r.id, stage=r.stage, method=r.name) for r in facts.records),
        flags=tuple(_flags(facts)), not_measured=tuple(_left_out(facts)),
    )  # fmt: skip


def _for_others(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the folders of the machine that measured."""
    model = mapping(settings.get("model"))
    name = name_for_others(str(model.get("name", "")))
    return dict(settings) | ({"model": dict(model) | {"name": name}} if model else {})


def _commit(facts: RunFacts) -> str | Missing:
    code = mapping(mapping(facts.provenance.get("code")).get("package"))
    if code.get("commit") in NOT_KNOWN:
        return not_measured("the program did not run from a checkout, or did not record it; its version is in packages")
    state = {True: "with local changes", False: "without local changes"}.get(code.get("dirty"), "local changes unknown")  # type: ignore[arg-type]
    return f"{code['commit']}, {state}"


def _determinism(facts: RunFacts) -> str:
    switches = mapping(facts.provenance.get("determinism"))
    told = ", ".join(f"{name} = {value}" for name, value in switches.items())
    return DETERMINISM + (f"; switches of torch: {told}" if told else "")


def _flags(facts: RunFacts) -> Iterator[Doubt]:
    controls = mapping(facts.summary.get("controls")).items()
    rates = {name: mapping(mapping(entry).get("leak_rate")) for name, entry in controls}
    measured = {name: {"leak_rate": found} for name, found in rates.items() if real(found.get("estimate")) is not None}
    for doubt in doubts_of(measured, len(facts.settings.get("seeds") or ())):
        yield Doubt(**doubt._asdict())
    if any(event.get("differs") for event in facts.events):
        yield Doubt(
            name="continued in another environment", because=_differs(facts),
            meaning="parts of the run were computed with other packages or on another machine",
            remedy="repeat the run in one environment",
        )  # fmt: skip


def _differs(facts: RunFacts) -> str:
    return "; ".join(dict.fromkeys(str(event["differs"]) for event in facts.events if event.get("differs")))


def _left_out(facts: RunFacts) -> Iterator[Open]:
    summary: Mapping[str, Any] = facts.summary
    if not facts.records_of("attack"):
        yield Open(what="Recovery under attack", why="no attack was run; amnestic attack RUN --references FOLDER")
    if not facts.records_of("extract"):
        yield Open(what="Extraction without the originals", why="it was not run; amnestic extract RUN")
    if not mapping(summary.get("before_after")):
        yield Open(what="Change by a mitigation", why="the run is not compared with one before; --before RUN")
    yield Open(what="Membership", why="that the works were in the training data is taken from the list, not tested")
    yield Open(what="Safety filters", why="images were drawn without filters; what a product lets through is not known")
    if not mapping(summary.get("clip")):
        yield Open(what="Second opinion by CLIP", why="no CLIP model was given, or it could not be calibrated")
    untested = count(mapping(summary.get("works")).get("without_original"))
    if untested:
        yield Open(what=f"{untested} works of the list", why="they have no original, or none that can be used")
    counts = mapping(mapping(summary.get("references")).get("counts"))
    for status, n in counts.items():
        if status != "ok" and n:
            yield Open(what=f"{n} {status} originals", why="see the reasons beside the reference set")


def review(said: AuditorFile) -> Review:
    """Who answers for it, as far as somebody said it.

    Args:
        said: What a person says.
    """
    retention, confidentiality = said.said("retention"), said.said("confidentiality")
    return Review(
        prepared=said.signed("prepared"), reviewed=said.signed("reviewed"), approved=said.signed("approved"),
        signature=said.said("signature"), complaint_contact=said.said("complaint_contact"),
        complaint_reference=said.said("complaint_reference"),
        retention=RETENTION if isinstance(retention, Missing) else retention,
        confidentiality=CONFIDENTIAL if isinstance(confidentiality, Missing) else confidentiality,
    )  # fmt: skip
