"""Who tested what, on which model, with which access and by which method: the findings' frame."""

from collections.abc import Mapping

from pydantic import JsonValue

from amnestic.report.findings_parts import Difference, Missing, Open, Part, Rate


class Identity(Part):
    """What this document is.

    Attributes:
        report: Short digest of the run and of what was said of it; equal runs give equal reports.
        title: Heading.
        run: Name of the run folder.
        protocol: Identity of the protocol; rates of different protocols are not comparable.
        tool: Name and version of the program that measured.
        written_by: Name and version of the program that wrote this document.
        began: When the run began, UTC.
        ended: When it last wrote something, UTC; null where no log was kept.
        language: Of the text, as a BCP 47 tag.
        smoke_only: Whether only part of the prompt list was asked; such numbers are no audit.
    """

    report: str
    title: str
    run: str
    protocol: str
    tool: str
    written_by: str
    began: str
    ended: str | None
    language: str = "en"
    smoke_only: bool | Missing


class Auditor(Part):
    """Who audits, and for whom; only a person can say it.

    Attributes:
        name: Who is responsible for the audit.
        role: Their function.
        organisation: For whom they work.
        background: What qualifies them.
        independence: How independent they are of who made the model.
        conflict: Conflicts of interest, or that there are none.
        client: Who asked for the audit.
        contact: Where questions go.
    """

    name: str | Missing
    role: str | Missing
    organisation: str | Missing
    background: str | Missing
    independence: str | Missing
    conflict: str | Missing
    client: str | Missing
    contact: str | Missing


class ModelFile(Part):
    """A file of the model.

    Attributes:
        path: Inside the model.
        sha256: Over its bytes.
    """

    path: str
    sha256: str


class Subject(Part):
    """Which model, exactly.

    Attributes:
        model: Hub id, or folder name for people without this machine.
        family: Supported model family.
        revision: Hub revision.
        variant: Weight variant.
        dtype: Precision that computed.
        digest: SHA-256 over all weights and configurations.
        files: Every file that it was read from, with its SHA-256.
        adapters: Adapters with their scales.
        scheduler: Name of the scheduler class that sampled.
        scheduler_settings: Steps, guidance and size; everything else is as the model's own configuration says.
        safety_filters_in_test: Whether filters acted on the images that were measured.
        safety_filters_in_use: Filters of the product, and whether it was tested with and without them.
        licence: Of the model.
        modification: What was changed in it, as far as this run knows; the audit of a modifier is limited to that.
        terms: Whether its terms of use prohibit copying outputs, and how users are told.
    """

    model: str
    family: str
    revision: str | Missing
    variant: str | Missing
    dtype: str
    digest: str
    files: tuple[ModelFile, ...] | Missing
    adapters: tuple[JsonValue, ...] | Missing
    scheduler: str
    scheduler_settings: Mapping[str, JsonValue]
    safety_filters_in_test: str
    safety_filters_in_use: str | Missing
    licence: str | Missing
    modification: str | Missing
    terms: str | Missing


class ReferenceSet(Part):
    """The originals that images were compared with.

    Attributes:
        name: Of the set.
        description: Address of a Croissant or other description.
        digest: SHA-256 over ids, file hashes and statuses.
        images: Originals that could be used.
        works: Works tested, which are near-duplicate clusters of originals, or as the prompt list says.
        membership: How it is known that the works were in the training data.
        rights: On which basis the originals are used here.
        statuses: Count of originals by status.
        missing: Each original that could not be used, and why.
        descriptor: Identity of the descriptor that compared.
    """

    name: str | Missing
    description: str | Missing
    digest: str | Missing
    images: int | Missing
    works: int
    membership: str
    rights: str | Missing
    statuses: Mapping[str, int]
    missing: tuple[Open, ...]
    descriptor: str


class Control(Part):
    """A group of prompts that must not replicate.

    Attributes:
        name: ``heldout`` (works never trained on) or ``base`` (ordinary prompts).
        meaning: What scores above the threshold there would say.
        works: Works or prompts in it.
        rate: Share of them that the threshold calls replicated, which is a rate of false positives.
        images: The same over images.
        max_score: Highest score in the group.
    """

    name: str
    meaning: str
    works: int
    rate: Rate
    images: Rate | Missing
    max_score: float | Missing


class Controls(Part):
    """Negative controls, and what they say about coincidence.

    Attributes:
        groups: Each group; empty: none was measured.
        matching: How controls were matched to the works.
        coincidence: Whether chance explains the result, in a sentence that the intervals carry.
        excess: Memorization rate minus that of the held-out works.
    """

    groups: tuple[Control, ...]
    matching: str | Missing
    coincidence: str
    excess: Difference | Missing


class Scope(Part):
    """Audit Card heading 2: what was evaluated, and what was not.

    Attributes:
        purpose: Why the audit was made.
        subject: The model.
        references: The originals.
        controls: Works and prompts that must not replicate.
    """

    purpose: str | Missing
    subject: Subject
    references: ReferenceSet
    controls: Controls


class PromptClass(Part):
    """Prompts of one kind, and how simple they are.

    Attributes:
        label: Label in the prompt list, in words.
        prompts: How many.
        works: Of how many works.
        words_median: Median length in words; simple prompts that bring out a work leave less to coincidence.
        words_max: Longest, in words.
        characters_max: Longest, in characters.
    """

    label: str
    prompts: int
    works: int
    words_median: float
    words_max: int
    characters_max: int


class Detector(Part):
    """What decides that an image copies a work.

    Attributes:
        name: Of the descriptor.
        preprocessing: How pictures are fed to it.
        digest: SHA-256 of its weights.
        why: Why this one was picked.
        threshold: A copy scores above it.
        provenance: Where the threshold comes from.
        false_positive_rate: Declared rate on null pairs, where it was calibrated.
        n_null: Null pairs it was calibrated on.
    """

    name: str
    preprocessing: str
    digest: str
    why: str
    threshold: float
    provenance: str
    false_positive_rate: float | Missing
    n_null: int


class Methodology(Part):
    """Audit Card heading 3: how it was measured.

    Attributes:
        unit: What is counted.
        prompt_classes: Prompts by kind, with their length.
        prompts: Prompts in all.
        prompts_digest: SHA-256 over ids and texts of the prompts.
        seeds: Starting noises of every prompt.
        detector: What decides.
        second_opinion: Another descriptor with a threshold of its own; it never decides.
        rates: How rates and their bounds are made.
        human_review: Who looked at the pairs, and by which protocol.
    """

    unit: str
    prompt_classes: tuple[PromptClass, ...]
    prompts: int
    prompts_digest: str
    seeds: tuple[int, ...]
    detector: Detector
    second_opinion: Detector | Missing
    rates: str
    human_review: str | Missing
