"""Measures what localisation and pruning do on a testbed: writes `docs/results/pruning.json`.

Everything goes through the commands' own stages, so each line of the result is an audit that can be opened. Issue
the command again to continue; what is finished is read from its record.
"""

import argparse
import csv
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from amnestic import stages
from amnestic.attacks.extraction import CliqueExtraction
from amnestic.audit.request import AuditRequest
from amnestic.audit.selection import Selection
from amnestic.core.store import Record, write_json
from amnestic.stages import AnalyzeRequest, LocateRequest, PruneRequest
from amnestic.testbed.bundled import Testbed, bundled, open_testbed

T = TypeVar("T")
CURVE = (0.01, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.5)
SHORT_CURVE, CONTRASTED = (0.05, 0.1, 0.3), (0.05, 0.1)
BASE_PROMPTS, EXTRACTION_SEEDS, EXTRACTION_WORKS, EXTRACTION_BASE = 40, 12, 48, 8
SETS, SET_SIZE = 6, 10  # of the sharing analysis: memorized ones, ordinary prompts and held-out works, each so many
RUNG_WORKS = 10  # of each lower rung, as many as a set has, so that masks of rungs and of sets compare
TAU = 10  # of 20 steps: half of the trajectory, where 10 of 50 were published
EXTRACTED = ("claimed", "prompts", "works", "recovered", "recall", "precision", "images", "passes", "seeds")
COMPARED = ("layers", "matrix", "whole_test", "share_memorized", "share_controls", "control_kinds", "convention",
            "notes")  # fmt: skip
WITHOUT_CONTROLS = ("transfer", "growth", "rungs")  # the same whatever memorized sets are compared with


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One edit: what is located how, and how it is cut.

    Attributes:
        name: Key in the results.
        method: Localizer.
        options: Its settings.
        part: Which part of the works of the top rung it is given.
        like: Name of the trial whose size per layer it imitates, or empty.
        mitigation: Name of the mitigation.
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    part: tuple[int, int] = (1, 2)
    like: str = ""
    mitigation: str = "zero-units"


def wanda(r: float, *, note: str = "", **options: Any) -> Trial:  # noqa: ANN401 - settings of the method
    """A trial of wanda-subspace."""
    extra = "".join(f" {key}={value}" for key, value in options.items())
    return Trial(
        name=f"wanda-subspace r={r:g}{extra}{note}", method="wanda-subspace", options={"r": r, "tau": TAU} | options
    )


NEMO = Trial(
    name="nemo down+mid", method="nemo", options={"similarity": "ssim", "layers": "down+mid", "refine": "grouped"}
)


def trials(*, full: bool) -> Iterator[Trial]:
    """All edits, the most telling first."""
    yield from map(wanda, CURVE if full else SHORT_CURVE)
    yield from (wanda(r, contrast="controls") for r in (CONTRASTED if full else ()))
    for like in (wanda(0.1), wanda(0.3)) if full else (wanda(0.1),):
        yield Trial(name=f"random-units as {like.name}", method="random-units", like=like.name)
    yield NEMO
    if not full:
        return
    yield replace(NEMO, name="nemo all", options=NEMO.options | {"layers": "all"})
    yield wanda(0.1, rows="conditional")
    yield wanda(0.1, tau=3)
    yield wanda(0.1, layers="down+mid")
    yield replace(wanda(0.1, note=" of one prompt"), part=(1, 64))
    for method in (wanda(0.1), NEMO):
        yield replace(method, name=f"{method.name} of 4 works", part=(1, 16))
    yield Trial(name="value-zscore", method="value-zscore", options={"theta": 1.0})
    yield Trial(name="activation-contrast", method="activation-contrast", options={"share": 0.1})
    yield Trial(name="gradient-attribution", method="gradient-attribution", options={"share": 0.1})
    yield replace(wanda(0.1, note=" concealed"), mitigation="conceal-units")


class Study:
    """All audits of one testbed, in one folder."""

    def __init__(self, testbed: Testbed, folder: Path, *, full: bool) -> None:
        """Prepare to measure; nothing is drawn yet."""
        self.testbed, self.folder, self.full = testbed, folder, full
        folder.mkdir(parents=True, exist_ok=True)
        self.top = max(int(row["rung"]) for row in testbed.rows() if row["label"] == "VM")
        descriptors = testbed.folder / "descriptors"
        self.request = AuditRequest(
            model=str(testbed.folder / "pipeline"), prompts=self._list("prompts", n_base=BASE_PROMPTS),
            references=testbed.folder, out=folder / "before", sampling=testbed.sampling,
            clip=f"local-dir:{descriptors / 'clip-mini'}", bundled=descriptors / "sscd-mini",
        )  # fmt: skip

    def _list(
        self, name: str, *, n_base: int, n_works: int | None = None, n_lower: int = 0, n_heldout: int = 0
    ) -> Path:  # fmt: skip
        """Verbatim works of the top rung, of each lower rung, base prompts and held-out works; a prompt per work."""
        rows = self.testbed.rows()
        verbatim = [row for row in rows if row["label"] == "VM"]
        kept = first_of_works(row for row in verbatim if row["rung"] == str(self.top))[:n_works]
        for rung in sorted({int(row["rung"]) for row in verbatim} - {self.top}):
            kept += first_of_works(row for row in verbatim if row["rung"] == str(rung))[:n_lower]
        kept += [row for row in rows if row["label"] == "base"][:n_base]
        kept += first_of_works(row for row in rows if row["label"] == "heldout")[:n_heldout]
        path = self.folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(kept)
        return path

    def measure(self, results: dict[str, Any], write: Callable[[], None]) -> None:
        """Fill `results`, telling `write` after every part."""
        before = _there(stages.audit(self.request))
        stages.audit(replace(self.request, model=str(self.testbed.folder / "twin"), out=self.folder / "twin"))
        results |= {
            "mr_before": before["leak_rate"], "protocol": before["protocol"]["id"],
            "descriptor": before["descriptor"]["id"], "methods": {},
        }  # fmt: skip
        located: dict[str, str] = {}
        for trial in trials(full=self.full):
            results["methods"][trial.name] = self.one(trial, located)
            write()
        met = {contrast: smallest_r(results["methods"], contrast) for contrast in ("empty", "controls")}
        results["smallest_r_within_bounds"] = met
        write()

    def look_closer(self, results: dict[str, Any], write: Callable[[], None]) -> None:
        """Is the subspace shared, and does an extraction attack still find what was pruned?"""
        met = results["smallest_r_within_bounds"]
        results["subspace"] = {"published r": self.subspace(0.01), "r = 0.1": self.subspace(0.1, transfer_seeds=2)}
        results["subspace_heldout"] = {
            name: self.subspace(r, controls="heldout") for name, r in (("published r", 0.01), ("r = 0.1", 0.1))
        }
        write()
        for trial in (wanda(met["empty"] or 0.1), NEMO):
            results["methods"][trial.name]["extraction"] = self.extraction(trial)
            write()

    def locate(self, trial: Trial, before: Mapping[str, str]) -> Record:
        """Where a trial finds the works of its part of the top rung."""
        return _there(
            stages.locate(
                LocateRequest(
                    run=self.request.out, method=trial.method, options=trial.options,
                    selection=Selection(rung=self.top, part=trial.part), like=before[trial.like] if trial.like else "",
                    references=self.testbed.folder if trial.method == "gradient-attribution" else None,
                )
            )
        )  # fmt: skip

    def one(self, trial: Trial, before: dict[str, str]) -> dict[str, Any]:
        """One edit, from the localisation to the audit of the pruned model."""
        record = self.locate(trial, before)
        before[trial.name] = record.id
        found = {"locate_seconds": record.data["seconds"], "passes": record.data["passes"],
                 "units": record.data.get("units", 0), "works_used": len(record.data["works"])}  # fmt: skip
        if trial.method == "nemo" and "prompts" in record.data["notes"]:
            found["nemo"] = nemo_table(record.data["notes"], self.testbed)
        if record.data["outcome"] != "found":
            return found | {"outcome": "found nothing"}
        request = replace(
            self.request, out=self.folder / f"{slug(trial.name)}-{record.id.removeprefix('locate-')}",
            before=self.request.out, twin=self.folder / "twin", real_images=self.testbed.folder / "base.parquet",
        )  # fmt: skip
        return found | summary_of(self.pruned(trial, record, request))

    def pruned(self, trial: Trial, record: Record, request: AuditRequest) -> dict[str, Any]:
        """The audit of the pruned model; its folder goes when it is done, since the run keeps the edit."""
        done = request.out / "summary.json"
        if not done.exists():
            model = request.out.with_name(f"{request.out.name}-model")
            stages.prune(
                PruneRequest(run=self.request.out, out=model, located=record.id, method=trial.mitigation)
            )  # fmt: skip
            stages.audit(replace(request, model=str(model)))
            shutil.rmtree(model)
        content: dict[str, Any] = json.loads(done.read_text())
        return content

    def extraction(self, trial: Trial) -> dict[str, Any]:
        """The attack on the model before it is pruned, and after."""
        attack = CliqueExtraction(clique=4, distance=0.15)
        request = replace(
            self.request, prompts=self._list("extraction", n_works=EXTRACTION_WORKS, n_base=EXTRACTION_BASE),
            n_seeds=EXTRACTION_SEEDS, clip=None, out=self.folder / "extraction-before",
        )  # fmt: skip
        stages.audit(request)
        record = self.locate(trial, {})
        after = replace(request, out=self.folder / f"extraction-after-{record.id.removeprefix('locate-')}")
        self.pruned(trial, record, after)
        found: dict[str, Any] = {"attack": "clique of 4 at tiled L2 <= 0.15"}
        for name, run in (("before", request.out), ("after", after.out)):
            data = _there(stages.extract(run, attack)).data
            found[name] = {key: data[key] for key in EXTRACTED}
        return found

    def subspace(self, r: float, *, controls: str = "base", transfer_seeds: int = 0) -> dict[str, Any]:
        """Whether disjoint sets of works of the top rung share a mask, in an audit of its own.

        Beside the top rung it has some works of every other one, and as many ordinary prompts and held-out works as
        control sets need. What does not hang on the controls is told once, with ordinary prompts.
        """
        n = SETS * SET_SIZE
        prompts = self._list("sharing", n_base=n, n_lower=RUNG_WORKS, n_heldout=n)
        request = replace(self.request, prompts=prompts, out=self.folder / "sharing")
        stages.audit(request)
        located = LocateRequest(
            run=request.out, options={"r": r, "tau": TAU}, selection=Selection(rung=self.top, controls=controls)
        )
        asked = AnalyzeRequest(locate=located, n_sets=SETS, size=SET_SIZE, transfer_seeds=transfer_seeds)
        data = _there(stages.analyze(asked)).data
        keys = COMPARED if controls == "heldout" else (*COMPARED, *WITHOUT_CONTROLS)
        return {"r": r, **{key: data[key] for key in keys}}


def first_of_works(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """The first prompt of every work."""
    seen: dict[str, dict[str, str]] = {}
    for row in rows:
        seen.setdefault(row["work"], row)
    return [*seen.values()]


def summary_of(audit: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one edit that are compared."""
    told = audit["before_after"]
    rates = {row["group"]: row for row in told["rates"]}
    changes = {(row["name"], row["group"]): row for row in told["changes"]}
    distances = {row["name"].split(" of ")[0]: row for row in told["distances"]}
    used, others = rates["works used to locate"], rates.get("other works that replicated", {})
    near = "base prompts nearest to the works located"
    return {
        "outcome": "found", "weights_share": told["edit"]["share"], "weights": told["edit"]["weights"],
        "traces": told["edit"]["traces"],
        "mr_after": rates["all works"]["after"], "mcnemar": rates["all works"]["mcnemar"],
        "mr_selected_half": used["after"], "mr_selected_half_before": used["before"],
        "mr_other_half": others.get("after"), "mr_other_half_before": others.get("before"),
        "clip_alignment_change": changes["CLIP alignment", "base prompts"],
        "clip_alignment_of_neighbours": changes.get(("CLIP alignment", near)),
        "sscd_orig": changes["SSCD_Orig (max over seeds)", "works"],
        "sscd_gen_base": changes["SSCD_Gen (1 before)", "base prompts"],
        "likeness_to_twin": changes.get(("likeness to the model that never saw the works", "works used to locate")),
        "kid_change": distances["KID (CLIP features)"], "clip_mmd_change": distances["CLIP-MMD"],
        "seconds": audit["timings"]["total_s"],
    }  # fmt: skip


def smallest_r(methods: Mapping[str, Any], contrast: str) -> float | None:
    """The smallest r that meets the bounds on the half it was located with and on base prompts."""
    for r in CURVE:
        name = (wanda(r) if contrast == "empty" else wanda(r, contrast=contrast)).name
        found = methods.get(name, {})
        if found.get("outcome") != "found":
            continue
        change = found["clip_alignment_change"]["change"]
        if not change["method"].startswith("relative"):
            raise ValueError(f"expected a relative change of the CLIP alignment, got {change['method']}")
        if found["mr_selected_half"]["estimate"] <= 0.2 and change["lower_one_sided"] >= -0.05:
            return r
    return None


def nemo_table(notes: Mapping[str, Any], testbed: Testbed) -> dict[str, Any]:
    """How NeMo ended for each prompt, by the kind of its caption."""
    own = testbed.manifest["own_word"]
    work = {row["id"]: row["work"] for row in testbed.rows()}
    table: dict[str, Any] = {"threshold": notes["threshold"]}
    for kind, flag in (("own word", True), ("shared words", False)):
        rows = [told for name, told in notes["prompts"].items() if bool(own[work[name]]) is flag]
        table[kind] = {
            "prompts": len(rows),
            **{o: sum(r["outcome"] == o for r in rows) for o in ("found", "gave up", "not memorized by this score")},
            "neurons": sum(r.get("refined", 0) for r in rows),
        }
    return table


def slug(name: str) -> str:
    """A trial's name as a folder."""
    return "".join(c if c.isalnum() or c in ".=-" else "_" for c in name)


def _there(found: T | None) -> T:
    """What a stage returns in the main process; this study runs in one."""
    if found is None:
        raise RuntimeError("run this study in one process")
    return found


def main() -> None:
    """Measure one or more testbeds, the bundled one first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/pruning.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/results/pruning"))
    parser.add_argument("--testbed", type=Path, action="append", default=[], help="a further testbed; repeatable")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    started = time.monotonic()

    def write() -> None:
        write_json(given.out, results)

    studies = {}
    for i, testbed in enumerate([bundled(), *map(open_testbed, given.testbed)]):
        name = f"seed {testbed.manifest['seed']}"
        results[name] = {}
        studies[name] = Study(testbed, given.runs / name.replace(" ", "-"), full=i == 0)
        studies[name].measure(results[name], write)
    first = next(iter(studies))
    studies[first].look_closer(results[first], write)
    print(f"{given.out} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
