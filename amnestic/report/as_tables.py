"""The findings as tables of parquet, each with a description of its columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from amnestic.report.findings import Findings, digest_of

WORKS = {
    "work": (pa.string(), "identifier of the work"),
    "label": (pa.string(), "VM (verbatim), TM (template) or none"),
    "rung": (pa.int64(), "place on a multiplicity ladder, higher was seen more often; null without one"),
    "prompt_id": (pa.string(), "its first prompt, which decides"),
    "prompts": (pa.int64(), "prompts it has in all"),
    "score": (pa.float64(), "highest cosine with the original over the seeds"),
    "median_score": (pa.float64(), "median cosine over the seeds"),
    "seed": (pa.int64(), "seed of the highest score"),
    "seeds": (pa.int64(), "images drawn of the first prompt"),
    "seeds_above": (pa.int64(), "images above the threshold"),
    "replicated": (pa.bool_(), "whether any image of the first prompt is above the threshold"),
    "threshold": (pa.float64(), "a copy scores above it"),
}
IMAGES = {
    "prompt_id": (pa.string(), "prompt of the image"),
    "seed": (pa.int64(), "starting noise"),
    "label": (pa.string(), "VM, TM, none; controls: heldout, base"),
    "work": (pa.string(), "work of the prompt"),
    "score": (pa.float64(), "cosine with the prompt's own original; null without one"),
    "nearest_score": (pa.float64(), "highest cosine with any original"),
    "nearest_reference": (pa.string(), "that original"),
    "above": (pa.bool_(), "whether the score is above the threshold; controls by the nearest original"),
    "clip_score": (pa.float64(), "cosine under CLIP with the own original; null when not measured"),
    "clip_alignment": (pa.float64(), "cosine of image and prompt under CLIP; null when not measured"),
    "ssim": (pa.float64(), "structural similarity; measured above the threshold alone"),
    "tiled_l2": (pa.float64(), "largest L2 distance of tiles; measured above the threshold alone"),
    "sha256": (pa.string(), "checksum of the kept file"),
}
ATTACKS = {
    "attack": (pa.string(), "record of the attack"),
    "method": (pa.string(), "search"),
    "conclusion": (pa.string(), "of the attack"),
    "arm": (pa.string(), "works, or a control: heldout, twin, random, original"),
    "works": (pa.int64(), "works attacked"),
    "tries": (pa.int64(), "restarts of each"),
    "seeds": (pa.int64(), "images that score each input"),
    "step": (pa.int64(), "kept step of the search"),
    "passes": (pa.float64(), "rows through the U-Net for a work up to it"),
    "back": (pa.float64(), "share of works that came back by this step"),
    "back_lower": (pa.float64(), "lower end of the 95 % interval"),
    "back_upper": (pa.float64(), "upper end of it"),
    "back_upper_one_sided": (pa.float64(), "one-sided 95 % upper bound"),
    "now": (pa.float64(), "share that is back at this very step"),
    "score": (pa.float64(), "mean over works of the best score by this step"),
    "score_lower": (pa.float64(), "lower end of its 95 % interval"),
    "score_upper": (pa.float64(), "upper end of it"),
}
Columns = Mapping[str, tuple[pa.DataType, str]]
Row = Mapping[str, Any]


def as_tables(findings: Findings, matches: Sequence[Row], samples: Sequence[Row]) -> dict[str, pa.Table]:
    """Works, images and attacks as tables.

    Args:
        findings: The document.
        matches: Rows of ``matches.parquet``.
        samples: Rows of ``samples.parquet``.

    Returns:
        Tables by name; what each column means is metadata of its field, and of the schema as a whole under ``README``.
    """
    threshold = findings.methodology.detector.threshold
    works = [work.model_dump() | {"threshold": threshold} for work in findings.ordinary.works]
    found: dict[str, tuple[Columns, Sequence[Row]]] = {
        "works": (WORKS, works), "images": (IMAGES, list(_images(threshold, matches, samples))),
        "attacks": (ATTACKS, list(_attacks(findings))),
    }  # fmt: skip
    return {name: _table(name, columns, rows, findings) for name, (columns, rows) in found.items()}


def _table(name: str, columns: Columns, rows: Sequence[Row], findings: Findings) -> pa.Table:
    readme = "\n".join([f"{name}: one row for each of them", *(f"{c}: {about}" for c, (_, about) in columns.items())])
    about = {"README": readme, "report": findings.identity.report, "findings.sha256": digest_of(findings)}
    fields = [pa.field(c, kind, metadata={"description": text}) for c, (kind, text) in columns.items()]
    kept = [{column: row.get(column) for column in columns} for row in rows]
    return pa.Table.from_pylist(kept, schema=pa.schema(fields, metadata=about))


def _images(threshold: float, matches: Sequence[Row], samples: Sequence[Row]) -> Iterator[Row]:
    sums = {(row["prompt_id"], row["seed"]): row.get("sha256") for row in samples}
    for row in matches:
        control = row["label"] in ("heldout", "base")
        decides = row["sscd_nearest"] if control else row["sscd_paired"]
        yield dict(row) | {
            "score": row["sscd_paired"], "nearest_score": row["sscd_nearest"], "clip_score": row.get("clip_paired"),
            "above": None if decides is None else decides > threshold,
            "sha256": sums.get((row["prompt_id"], row["seed"])),
        }  # fmt: skip


def _attacks(findings: Findings) -> Iterator[Row]:
    for attack in findings.attacked.attacks:
        for arm in attack.arms:
            for point in arm.curve:
                yield {
                    "attack": attack.id, "method": attack.method.name, "conclusion": attack.conclusion,
                    "arm": arm.name, "works": arm.works, "tries": arm.tries, "seeds": arm.seeds, "step": point.step,
                    "passes": point.passes, "back": point.ever.estimate, "back_lower": point.ever.lower,
                    "back_upper": point.ever.upper, "back_upper_one_sided": point.ever.upper_one_sided,
                    "now": point.now.estimate, "score": point.score.estimate, "score_lower": point.score.lower,
                    "score_upper": point.score.upper,
                }  # fmt: skip
