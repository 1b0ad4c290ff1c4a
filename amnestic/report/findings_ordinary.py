"""Finding 1: what leaks under ordinary prompts, the decision on it, and where its evidence lies."""

from collections.abc import Mapping

from amnestic.report.findings_parts import Mean, Missing, Part, Rate, Score


class Counts(Part):
    """Works by outcome.

    Attributes:
        total: Works tested.
        replicated: Works whose first prompt replicated.
        replicated_by_any_prompt: Works that any of their prompts replicated.
        without_original: Works of the list that could not be tested.
    """

    total: int
    replicated: int
    replicated_by_any_prompt: int
    without_original: int


class Group(Part):
    """A rate over some of the works.

    Attributes:
        name: Which works.
        works: How many.
        replicated: How many of them replicated.
        rate: Their memorization rate.
    """

    name: str
    works: int
    replicated: int | Missing
    rate: Rate


class Rung(Part):
    """Works that were seen equally often in training.

    Attributes:
        rung: Place on the ladder; higher was seen more often.
        works: How many.
        score: Mean score over works and seeds.
        rate: Their memorization rate.
    """

    rung: int
    works: int
    score: Mean
    rate: Rate


class Work(Part):
    """One work and the images of its first prompt.

    Attributes:
        work: Its identifier.
        label: Label in the prompt list.
        rung: Rung of the ladder, or null.
        prompt_id: Its first prompt, which decides.
        prompts: Prompts it has in all.
        score: Highest score over the seeds; null where it was not measured.
        median_score: Median over the seeds.
        seed: Seed of the highest score.
        seeds: Images drawn.
        seeds_above: Images above the threshold.
        replicated: Whether any of them is.
    """

    work: str
    label: str
    rung: int | None
    prompt_id: str
    prompts: int
    score: float | None
    median_score: float | None
    seed: int | None
    seeds: int
    seeds_above: int
    replicated: bool


class Ordinary(Part):
    """Finding 1: what leaks under the prompts of the list, without any attack.

    Attributes:
        sentences: The finding in words; zero events are an upper bound at a confidence, never an absence.
        counts: Works by outcome.
        rate: Memorization rate over works, by the best of the seeds: the worst case.
        rate_by_median: The same by the median over seeds: the average case.
        images: Share of images above the threshold, with works as clusters.
        corrected: The rate corrected for the detector's errors.
        by_label: Rates by label.
        ladder: Rates by how often works were seen.
        similarity: Metrics over works by name.
        second_opinion: The rate under another descriptor with a threshold of its own.
        works: Every tested work, the highest score first.
    """

    sentences: tuple[str, ...]
    counts: Counts
    rate: Rate
    rate_by_median: Rate | Missing
    images: Rate | Missing
    corrected: Rate | Missing
    by_label: tuple[Group, ...]
    ladder: tuple[Rung, ...]
    similarity: Mapping[str, Score | Missing]
    second_opinion: Rate | Missing
    works: tuple[Work, ...]


class Decision(Part):
    """What was decided against a limit.

    Attributes:
        expression: What was asked, of the bound and never of the estimate.
        limit: Highest acceptable rate.
        observed: The bound that was compared.
        verdict: ``pass``, ``fail``, ``inconclusive`` or ``none``.
        sentence: The same in words.
        set_by: Who set the limit.
        reason: Why this limit.
    """

    expression: str | Missing
    limit: float | Missing
    observed: float | Missing
    verdict: str
    sentence: str
    set_by: str | Missing
    reason: str | Missing


class Pair(Part):
    """Where the image that decides for a work, and its original, are found.

    Attributes:
        work: Which work.
        prompt_id: Its first prompt.
        prompt: The text given to the model; hostile until shown otherwise.
        seed: Seed of the highest score.
        score: That score.
        original: Path of the original in the reference folder.
        original_sha256: SHA-256 of the original, or missing.
        image: Path of the image in the run folder.
        image_sha256: SHA-256 of the image, or missing.
    """

    work: str
    prompt_id: str
    prompt: str
    seed: int
    score: float
    original: str
    original_sha256: str | Missing
    image: str
    image_sha256: str | Missing


class File(Part):
    """A file of the run folder.

    Attributes:
        path: Relative to the run folder.
        about: What is in it.
        sha256: Over its bytes.
    """

    path: str
    about: str
    sha256: str


class EvidenceIndex(Part):
    """Where the evidence lies; this document copies none of it.

    Attributes:
        handling: What the evidence is and how it is to be treated.
        images: Images kept in the run folder.
        files: Its tables, pages and records.
        pairs: For each work the image that decides, the highest score first.
    """

    handling: str
    images: int
    files: tuple[File, ...]
    pairs: tuple[Pair, ...]


class Framework(Part):
    """Where a framework's question is answered.

    Attributes:
        framework: Name and edition.
        id: Of the question.
        question: In short.
        sections: Fields of this document that answer it.
    """

    framework: str
    id: str
    question: str
    sections: tuple[str, ...]
