"""Measures whether what was pruned or unlearned can be brought back: writes `docs/results/dori.json`.

Every model is audited plainly and attacked through the commands' own stages, so each number is a record that can be
opened. Issue the command again to continue; models that the results hold already are left as they are.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from amnestic import stages
from amnestic.audit.attack_arms import arm_of
from amnestic.audit.request import AuditRequest
from amnestic.audit.selection import Selection
from amnestic.core.records import plain
from amnestic.core.store import Record, Run, write_json
from amnestic.measures.recovery import mean_over_works, recovery_curve, share_above
from amnestic.stages import AttackRequest, FinetuneRequest, LocalityRequest, LocateRequest, PruneRequest
from amnestic.stages.surrogates import Wanted
from amnestic.testbed.bundled import Testbed, bundled, open_testbed

T = TypeVar("T")
WORKS, BASE, HELDOUT = 48, 40, 24
FORGET = (1, 2)  # half of the works is forgotten and attacked, the other half stays and shows what else is hurt
KEEP, ENDS = (0, 10, 25, 50), (0, 50)
FEW = 12  # works that the dearer attacks are measured on, and as many controls
RIVALS = ("hard-prompt", "gcg-prompt", "null-text", "random-tokens", "random-embeddings")
STARTS = 100
RADII = (0.25, 0.5, 1.0, 2.0)
RETAIN_FROM = BASE  # pairs of the first base prompts judge, the others are trained on


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the table.

    Attributes:
        name: Key in the results.
        located: Localizer and its settings, for pruned ones.
        finetuned: Method and its settings, for fine-tuned ones.
        attacks: Attacks beside ``dori``.
        keep: Steps of ``dori`` whose inputs are drawn and scored; as dear as the search itself.
    """

    name: str
    located: tuple[str, Mapping[str, Any]] | None = None
    finetuned: tuple[str, Mapping[str, Any]] | None = None
    attacks: tuple[str, ...] = ()
    keep: tuple[int, ...] = KEEP


SCHEDULE = {"learning_rate": 1e-3, "decay": "linear", "weight_decay": 0.0}
BASELINE = {"steps": 100, "forget_rows": 24, "retain_rows": 24, "decay": "linear", "weight_decay": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "adversarial": SCHEDULE | {"steps": 100, "forget_rows": 24, "retain_rows": 48, "refresh_in": "steps",
                               "refresh_every": 20},
    "adversarial-without-embeddings": SCHEDULE | {"steps": 100, "forget_rows": 24, "retain_rows": 48},
    "guarded-retrack": SCHEDULE | {"learning_rate": 2e-3, "steps": 80, "forget_rows": 24, "retain_rows": 8,
                                   "retain_weight": 8.0, "refreshes": 4, "inner_steps": 4, "share_prompt": 0.2,
                                   "share_adversarial": 0.7, "share_near": 0.1, "share_noise": 0.0,
                                   "share_other": 0.0, "share_empty": 0.0},
    "retrack": BASELINE | {"learning_rate": 1e-3},
    "siss": BASELINE | {"learning_rate": 3e-4, "retain_rows": 0, "forget_share": 0.1, "timesteps": "full"},
    "concept-ablation": BASELINE | {"learning_rate": 5e-4},
    "esd-x": {"steps": 200, "forget_rows": 8, "learning_rate": 3e-4, "latents": "frozen"},
    "esd-u": {"steps": 200, "forget_rows": 8, "learning_rate": 3e-4, "latents": "frozen"},
    "negative-gradient": BASELINE | {"learning_rate": 1e-4, "bound": 4.0},
    "retain-only": BASELINE | {"learning_rate": 1e-3},
}  # fmt: skip
"""On the testbed, whose U-Net is a hundredth of Stable Diffusion's and takes larger steps; see ``docs/adr/``."""
SURROGATES = {"guarded-retrack": Wanted(n=3)}
"""Drawing surrogates costs passes as well, and its targets need few."""
NEMO = ("nemo", {"similarity": "ssim", "refine": "grouped"})


def wanda(r: float) -> tuple[str, Mapping[str, Any]]:
    """wanda-subspace at a ratio, with half of the trajectory as published for 10 of 20 steps."""
    return "wanda-subspace", {"r": r, "tau": 10}


def models(*, full: bool) -> list[Model]:
    """All models, the most telling first."""
    found = [
        Model(name="original", attacks=("auto-dori",) + (RIVALS if full else ())),
        Model(name="twin", attacks=("auto-dori",)),
        Model(name="nemo", located=NEMO, attacks=RIVALS if full else ()),
        Model(name="wanda-subspace", located=wanda(0.2)),
        _tuned("adversarial", ("auto-dori",)),
    ]
    if not full:
        return found
    found += [_tuned("guarded-retrack", ("auto-dori",)), _tuned("adversarial-without-embeddings")]
    baselines = ("retrack", "siss", "concept-ablation", "esd-x", "esd-u", "negative-gradient", "retain-only")
    found += [replace(_tuned(name), keep=ENDS) for name in baselines]
    found += [Model(name=f"wanda-subspace r={r:g}", located=wanda(r), keep=ENDS) for r in (0.05, 0.1, 0.3, 0.4)]
    return found


def _tuned(name: str, attacks: tuple[str, ...] = ()) -> Model:
    return Model(name=name, finetuned=(name, SETTINGS.get(name, {})), attacks=attacks)


class Study:
    """All models of one testbed, in one folder."""

    def __init__(self, testbed: Testbed, folder: Path, attacks: Sequence[str] = ()) -> None:
        """Prepare to measure; nothing is drawn yet. `attacks`: only these, empty for all."""
        self.testbed, self.folder, self.attacks = testbed, folder, attacks
        folder.mkdir(parents=True, exist_ok=True)
        self.top = max(int(row["rung"]) for row in testbed.rows() if row["label"] == "VM")
        self.works = Selection(rung=self.top, part=FORGET)
        descriptors = testbed.folder / "descriptors"
        self.request = AuditRequest(
            model=str(testbed.folder / "pipeline"), prompts=self._list(), references=testbed.folder,
            out=folder / "original", sampling=testbed.sampling, clip=f"local-dir:{descriptors / 'clip-mini'}",
            bundled=descriptors / "sscd-mini",
        )  # fmt: skip

    def _list(self) -> Path:
        """Verbatim works of the top rung, base prompts and held-out works; a prompt per work."""
        rows = self.testbed.rows()
        kept = first_of_works([r for r in rows if r["label"] == "VM" and r["rung"] == str(self.top)])[:WORKS]
        kept += [r for r in rows if r["label"] == "base"][:BASE]
        kept += first_of_works([r for r in rows if r["label"] == "heldout"])[:HELDOUT]
        path = self.folder / "prompts.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(kept)
        return path

    def measure(self, results: dict[str, Any], wanted: Sequence[Model], write: Callable[[], None]) -> None:
        """Fill `results`, telling `write` after every attack."""
        before = there(stages.audit(self.request))
        stages.audit(replace(self.request, model=str(self.testbed.folder / "twin"), out=self.folder / "twin"))
        results |= {"protocol": before["protocol"]["id"], "descriptor": before["descriptor"]["id"]}
        held = results.setdefault("models", {})
        for model in wanted:
            started = time.monotonic()
            row = held.setdefault(model.name, {"attacks": {}})
            if not self._missing(model, row):
                continue
            place, about = self.made(model)
            row |= about
            run = self.audited(model, place, row)
            drawn = json.loads((run / "summary.json").read_text())["model"]["digest"]
            if row.setdefault("model", drawn) != drawn:  # attacks on other weights say nothing about these
                row |= {"model": drawn, "attacks": {}}
            for attack in self._missing(model, row):
                keep, limit = (model.keep, None) if attack == "dori" else (ENDS, FEW)
                row["attacks"][attack] = self.attacked(run, attack, keep, limit)
                write()
            print(f"{model.name}: {time.monotonic() - started:.0f} s", flush=True)

    def _missing(self, model: Model, row: Mapping[str, Any]) -> list[str]:
        """Attacks on a model that the results do not hold."""
        return [a for a in ("dori", *model.attacks)
                if a not in row["attacks"] and (not self.attacks or a in self.attacks)]  # fmt: skip

    def made(self, model: Model) -> tuple[Path, dict[str, Any]]:
        """Folder of a model, and what making it cost."""
        if model.located is None and model.finetuned is None:
            return self.testbed.folder / ("twin" if model.name == "twin" else "pipeline"), {}
        out = self.folder / "models" / slug(model.name)
        if model.located is not None:
            return out, self._pruned(model.located, out)
        return out, self._finetuned(*there(model.finetuned), out)

    def _pruned(self, located: tuple[str, Mapping[str, Any]], out: Path) -> dict[str, Any]:
        method, options = located
        record = there(
            stages.locate(LocateRequest(run=self.request.out, method=method, options=options, selection=self.works))
        )
        about = there(stages.prune(PruneRequest(run=self.request.out, out=out, located=record.id)))
        return {"passes": {"forward": record.data["passes"], "backward": 0}, "seconds": record.data["seconds"],
                "bytes_changed": 4 * about["weights"], "settings": plain(options)}  # fmt: skip

    def _finetuned(self, method: str, options: Mapping[str, Any], out: Path) -> dict[str, Any]:
        surrogates = self.folder / "models" / "nemo"
        if not surrogates.exists():
            self._pruned(NEMO, surrogates)
        record = there(stages.finetune(self.finetuning(method, options, out, surrogates)))
        data = record.data
        drawn = {"surrogates": {"forward": data.get("surrogate_passes", 0), "backward": 0}}
        return {"passes": data["passes"] | drawn, "seconds": data["seconds"], "bytes_changed": data["bytes"],
                "images": len(data["works"]), "settings": plain(record.made_by.parameters)}  # fmt: skip

    def finetuning(self, method: str, options: Mapping[str, Any], out: Path, surrogates: Path) -> FinetuneRequest:
        """What a method is asked: to forget half of the works, with surrogates of NeMo and pairs that judge nothing."""
        return FinetuneRequest(
            run=self.request.out, out=out, references=self.testbed.folder, method=method, options=options,
            selection=self.works, surrogates_from=str(surrogates), leave_out_copies=False,
            retain=self._pairs("retain", RETAIN_FROM), surrogates=SURROGATES.get(method, Wanted()),
            work=self.folder / "work" / slug(method),
        )  # fmt: skip

    def _pairs(self, name: str, start: int, n: int | None = None) -> Path:
        """Some of the captioned images of base prompts: the first ones judge, the others are trained on."""
        from pyarrow import parquet

        path = self.folder / f"{name}.parquet"
        if not path.exists():
            parquet.write_table(parquet.read_table(self.testbed.folder / "base.parquet").slice(start, n), path)
        return path

    def audited(self, model: Model, place: Path, row: dict[str, Any]) -> Path:
        """The plain audit of a model beside that of the original and the twin."""
        if model.name in ("original", "twin"):
            summary = json.loads((self.folder / model.name / "summary.json").read_text())
            return self.folder / model.name
        run = self.folder / f"{slug(model.name)}-audit"
        request = replace(
            self.request, model=str(place), out=run, before=self.request.out, twin=self.folder / "twin",
            real_images=self._pairs("real", 0, RETAIN_FROM),
        )  # fmt: skip
        summary = there(stages.audit(request))
        row |= utility(summary["before_after"])
        return run

    def attacked(self, run: Path, attack: str, keep: tuple[int, ...], limit: int | None) -> dict[str, Any]:
        """One attack on one model: works and held-out works, at most so many of each."""
        record = there(
            stages.attack(
                AttackRequest(
                    run=run, references=self.testbed.folder, method=attack,
                    selection=replace(self.works, limit=limit), random=False,
                    keep=keep, n_seeds=2 if attack in RIVALS else None,
                )
            )
        )  # fmt: skip
        return told_of(Run.open(run), record)

    def radius(self) -> dict[str, Any]:
        """How small an adjustment of the prompt's embedding brings works back, on two models."""
        found = {}
        for name in ("original", "wanda-subspace"):
            run = self.folder / ("original" if name == "original" else f"{name}-audit")
            record = there(
                stages.attack(
                    AttackRequest(
                        run=run, references=self.testbed.folder, selection=replace(self.works, limit=FEW),
                        random=False, keep=(0, 50), n_seeds=2, radii=RADII,
                        options={"start": "other-prompt"} if name == "original" else {},
                    )
                )
            )  # fmt: skip
            arms = {arm: Run.open(run).record(known) for arm, known in record.data["arms"].items()}
            unit = arms["works"].data["natural_distance"]
            moved = {arm: (one.tensors["moved"][0] / unit).tolist() for arm, one in arms.items()}
            key = name if name != "original" else "original, starting at another prompt"
            found[key] = {"radius": record.data["verdict"]["radius"], "moved": moved, "unit": unit}
        return found

    def locality(self) -> dict[str, Any]:
        """Where memorization lies: among embeddings and in the weights of the original."""
        request = LocalityRequest(
            run=self.request.out, references=self.testbed.folder, selection=self.works, starts=STARTS,
            localizers={"wanda-subspace": {"r": 0.1, "tau": 10}, "nemo": NEMO[1]}, clip=self.request.clip,
        )  # fmt: skip
        return dict(there(stages.locality(request)).data)


def told_of(run: Run, record: Record) -> dict[str, Any]:
    """The numbers of one attack."""
    arms = {name: run.record(known) for name, known in record.data["arms"].items()}
    works, heldout = (arm_of(arms[name], arms[name].data["threshold"]) for name in ("works", "heldout"))
    last = arms["works"]
    return {
        "mr_before": plain(share_above(works.before, works.threshold)),
        "mr": plain(share_above(works.best.amax(1), works.threshold)),
        "mr_heldout": plain(share_above(heldout.best.amax(1), heldout.threshold)),
        "sscd_before": plain(mean_over_works(works.before, seed=0)),
        "sscd": plain(mean_over_works(works.best[:, -1], seed=0)),
        "sscd_heldout": plain(mean_over_works(heldout.best[:, -1], seed=0)),
        "curve": plain(recovery_curve(works.best, works.steps, works.threshold, seed=0)),
        "curve_heldout": plain(recovery_curve(heldout.best, heldout.steps, heldout.threshold, seed=0)),
        "passes": {kind: float(last.tensors[kind].sum(0)[-1].amax()) for kind in ("forward", "backward")},
        "seconds": sum(sum(arm.data["seconds"].values()) for arm in arms.values()),
        "verdict": record.data["verdict"]["conclusion"],
        "flags": sorted({flag for arm in arms.values() for flag in arm.data["flags"]}),
    }  # fmt: skip


def utility(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a model lost beside the works."""
    changes = {(row["name"], row["group"]): row for row in told["changes"]}
    distances = {row["name"].split(" of ")[0]: row for row in told["distances"]}
    rates = {row["group"]: row for row in told["rates"]}
    return {
        "clip_alignment_change": changes["CLIP alignment", "base prompts"],
        "kid_change": distances["KID (CLIP features)"], "clip_mmd_change": distances["CLIP-MMD"],
        "distance_to_twin": changes.get(("likeness to the model that never saw the works", "works used to locate")),
        "rates": rates,
    }  # fmt: skip


def first_of_works(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The first prompt of every work."""
    seen: dict[str, dict[str, str]] = {}
    for row in rows:
        seen.setdefault(row["work"], row)
    return [*seen.values()]


def slug(name: str) -> str:
    """A model's name as a folder."""
    return "".join(c if c.isalnum() or c in ".=-" else "_" for c in name)


def there(found: T | None) -> T:
    """What a stage returns in the main process; this study runs in one."""
    if found is None:
        raise RuntimeError("run this study in one process")
    return found


def main() -> None:
    """Measure one or more testbeds, the bundled one first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/dori.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/results/dori"))
    parser.add_argument("--testbed", type=Path, action="append", default=[], help="a further testbed; repeatable")
    parser.add_argument("--only", action="append", default=[], help="only this model; repeatable")
    parser.add_argument("--attack", action="append", default=[], help="only this attack; repeatable")
    parser.add_argument("--beside", action="store_true", help="radius.json and locality.json instead")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}

    def write() -> None:
        write_json(given.out, results)

    for i, testbed in enumerate([bundled(), *map(open_testbed, given.testbed)]):
        name = f"seed {testbed.manifest['seed']}"
        study = Study(testbed, given.runs / name.replace(" ", "-"), given.attack)
        if i == 0 and given.beside:
            write_json(given.out.with_name("radius.json"), study.radius())
            write_json(given.out.with_name("locality.json"), study.locality())
            continue
        wanted = [m for m in models(full=i == 0) if not given.only or m.name in given.only]
        study.measure(results.setdefault(name, {}), wanted, write)


if __name__ == "__main__":
    main()
