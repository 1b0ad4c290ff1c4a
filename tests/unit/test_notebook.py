import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

import amnestic.notebook as notebook
from amnestic.core.errors import InputError
from amnestic.core.records import Keep, MethodSpec, plain
from amnestic.core.store import Record, Run
from amnestic.core.units import Site, Units
from amnestic.report.blocks import Block, Strip, Tile, render_blocks
from amnestic.report.notebook_blocks import curve_blocks
from amnestic.report.notebook_figures import layers_figure, losses_figure
from amnestic.stages import audit, gate, report
from amnestic.stages.reporting import ReportRequest
from amnestic.testbed.bundled import bundled

HOSTILE = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def located(*chosen, kind="value", size=8):
    """A record of units of one layer."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(chosen)] = True
    site = Site(name="mid_block.attentions.0.transformer_blocks.0.attn2.to_v", kind=kind, stage="mid", shape=(size,))
    units = Units(sites=(site,), masks={site.name: mask}, model="m")
    data = {
        "outcome": "found" if chosen else "found nothing", "units": len(chosen), "share": len(chosen) / size,
        "passes": 1234, "works": ["w0"], "controls": ["b0", "b1"], "sites": [plain(site)], "counts": units.counts(),
        "model": "m",
    }  # fmt: skip
    tensors = {f"mask.{name}": bits for name, bits in units.packed().items()}
    return Record(stage="locate", made_by=MethodSpec(name="nemo"), parents=(), data=data, tensors=tensors)


def attacked(sentence="Recoverable.", flags=()):
    points = [{"step": s, "ever": {"estimate": e, "lower": 0.0, "upper": 1.0, "n": 4},
               "mean": {"estimate": e, "lower": 0.0, "upper": 1.0}} for s, e in ((0, 0.0), (10, 1.0))]  # fmt: skip
    arm = {"before": {"estimate": 0.0, "n": 4}, "curve": points, "passes": [0, 80]}
    verdict = {"arms": {"works": arm, "random": arm}, "sentence": sentence, "flags": flags, "threshold": 0.7}
    return Record(
        stage="attack", made_by=MethodSpec(name="dori"), parents=(), data={"verdict": verdict, "arms": {"works": "x"}},
        tensors={},
    )  # fmt: skip


@pytest.fixture
def audited(request_of):
    audit(request_of)
    return request_of


class TestView:
    def test_jupyter_gets_html_and_a_terminal_gets_text(self):
        view = notebook.View(html="<div>a</div>", text="a")
        assert view._repr_html_() == "<div>a</div>"
        assert repr(view) == "a"

    def test_no_module_needs_ipython(self):
        for file in Path(notebook.__file__).parent.glob("*.py"):
            assert "import IPython" not in file.read_text()
            assert "from IPython" not in file.read_text()

    def test_it_has_text_for_every_kind_of_piece(self):
        strip = Strip(title="w0", prompt="a cat", tiles=(Tile("original", None), Tile("0.9", None)))
        view = notebook.view.view_of(
            [Block(title="t", words=("w",), rows=(("a", "b"),), strips=(strip,), svg="<svg/>")]
        )
        assert view.text.splitlines() == ["t", "w", "a | b", "w0 a cat: original, 0.9", "(a figure)"]


class TestHostileText:
    @pytest.mark.parametrize("part", ["title", "note"])
    def test_a_line_stays_text(self, part):
        assert HOSTILE not in render_blocks([Block(**{part: HOSTILE})])
        assert ESCAPED in render_blocks([Block(**{part: HOSTILE})])

    def test_words_cells_prompts_and_captions_stay_text(self):
        tiles = (Tile(f"caption {HOSTILE}", b"no picture"),)
        blocks = [
            Block(words=(f"words {HOSTILE}",), head=(f"head {HOSTILE}",), rows=((f"cell {HOSTILE}", HOSTILE),)),
            Block(strips=(Strip(title=HOSTILE, prompt=f"prompt {HOSTILE}", tiles=tiles),)),
        ]
        html = render_blocks(blocks)
        assert "<script" not in html
        assert html.count(ESCAPED) == 7

    def test_a_text_cannot_turn_the_line_around(self):
        assert "[U+202E]" in render_blocks([Block(words=("a\u202eb",))])

    def test_an_attribute_cannot_be_left(self):
        picture = np.zeros((2, 2, 3), dtype=np.uint8)
        html = notebook.show_pictures({'" onerror="alert(1)': picture}).html
        assert 'onerror="' not in html
        assert "data:image/png" in html

    def test_a_figure_that_is_none_is_left_out_and_said_to_be(self):
        html = render_blocks([Block(svg="<svg><script>alert(1)</script></svg>")])
        assert "<script" not in html
        assert "The figure cannot be shown." in html

    def test_the_prompt_of_a_run_stays_text(self, audited):
        html = notebook.show_pairs(audited.out, audited.references).html
        assert "<script" not in html
        assert ESCAPED in html

    def test_what_a_gate_and_an_attack_say_stays_text(self):
        outcome = {"verdict": "fail", "outcomes": [{"line": HOSTILE}]}
        record = attacked(HOSTILE, [{"name": HOSTILE, "because": "", "meaning": "", "remedy": ""}])
        for view in (
            notebook.show_gate(outcome),
            notebook.show_verdict(record),
            notebook.show_layers({HOSTILE: located(1)}),
        ):
            assert "<script" not in view.html
            assert ESCAPED in view.html


class TestPictures:
    def test_originals_come_first_and_copies_are_framed(self, audited):
        html = notebook.show_pairs(audited.out, audited.references, n=2).html
        assert html.count("<figure") == 2 * (1 + audited.n_seeds)
        assert html.count("data:image/png") == 2 * (1 + audited.n_seeds)
        hits = sum(
            row["label"] == "VM" and row["sscd_paired"] > 0.99 for row in Run.open(audited.out).read_table("matches")
        )
        assert notebook.show_pairs(audited.out, audited.references, n=4).html.count('class="hit"') == hits

    def test_a_base_prompt_has_no_original(self, audited):
        html = notebook.show_pairs(audited.out, audited.references, n=1, label="base").html
        assert "original</figcaption>" not in html
        assert html.count("<figure") == audited.n_seeds

    def test_an_unknown_label_is_refused(self, audited):
        with pytest.raises(InputError, match="expected a label of VM, base, got bass; did you mean base"):
            notebook.show_pairs(audited.out, audited.references, label="bass")

    def test_an_image_of_which_only_the_latent_was_kept_is_said_to_be_missing(self, request_of):
        request = replace(request_of, keep=Keep.LATENTS)
        audit(request)
        html = notebook.show_pairs(request.out, request.references, n=1).html
        assert html.count("no picture") == request.n_seeds

    def test_before_and_after_show_both_models(self, audited, tmp_path):
        again = tmp_path / "again"
        shutil.copytree(audited.out, again)
        html = notebook.show_before_after(audited.out, again, audited.references, n=1).html
        assert html.count("before, seed") == html.count("after, seed") == 2 * audited.n_seeds  # alt text and caption

    def test_an_unknown_arm_is_refused(self, audited):
        with pytest.raises(InputError, match="expected an arm of works, got work; did you mean works"):
            notebook.show_attempts(audited.out, attacked(), audited.references, arm="work")


class TestRuns:
    def test_a_summary_shows_the_rate_beside_the_controls(self, audited):
        view = notebook.show_summary(audited.out)
        assert "tested works" in view.text
        assert "<svg" in view.html

    def test_a_run_that_was_not_compared_says_how(self, audited):
        assert "before=FOLDER" in notebook.show_change(audited.out).text

    def test_a_ladder_is_a_figure(self, audited):
        assert "<svg" in notebook.show_ladder(audited.out).html

    def test_a_gate_has_a_line_per_limit(self, audited):
        lines = notebook.show_gate(gate(audited.out, ["leak_rate.upper_one_sided > 5%"])).text.splitlines()
        assert len(lines) == 2
        assert "leak_rate.upper_one_sided > 5%" in lines[1]

    def test_findings_are_kept_apart_and_gaps_have_reasons(self, audited):
        findings = report(ReportRequest(run=audited.out, formats=("json",))).findings
        told = notebook.show_findings(findings).text
        places = [told.index(title) for title in ("1. Leaks", "2. Recoverable", "3. After", "Decision", "What this")]
        assert places == sorted(places)
        rows = [line.split(" | ") for line in notebook.show_missing(findings).text.splitlines()]
        assert {len(row) for row in rows} == {3}
        assert {state for _, state, _ in rows} <= {"not measured", "not given", "not applicable", "left out"}
        assert all(place and why for place, _, why in rows)
        states = [state for _, state, _ in rows]
        assert states == sorted(states, key=["not measured", "left out", "not given", "not applicable"].index)
        given = [place for place, state, _ in rows if state == "not given"]
        assert any(place.startswith("auditor.") for place in given)
        assert any(place.startswith("review.") for place in given)

    def test_a_seal_names_what_changed(self, audited):
        assert "are as they were sealed" in notebook.show_seal(audited.out).text
        with (audited.out / "summary.json").open("a") as file:
            file.write(" ")
        told = notebook.show_seal(audited.out).text
        assert told.startswith("1 file differs from the seal.")
        assert "summary.json | changed" in told


class TestRecords:
    def test_overlap_is_beside_chance(self):
        view = notebook.show_overlap({"a": located(0, 1), "b": located(1, 2)})
        assert view.text.splitlines()[0].startswith("a and b | 2 | 2 | 0.333 | ")
        # of two from eight, 0, 1 or 2 are shared by chance in 15, 12 and 1 of 28 cases: (12/3 + 1) / 28
        assert view.text.endswith("0.179")

    def test_overlap_of_different_layers_is_refused(self):
        with pytest.raises(InputError, match="one kind of unit, got a, b"):
            notebook.show_overlap({"a": located(0), "b": located(0, size=16)})

    def test_sharing_without_values_is_not_measured(self):
        record = Record(stage="sharing", made_by=MethodSpec(name="nemo"), parents=(), data={}, tensors={})
        view = notebook.show_sharing(record)
        assert "not measured" in view.text.lower()
        assert "<svg" not in view.html

    def test_sharing_puts_memorized_sets_beside_controls(self):
        row = {"site": "all layers", "stage": "", "within_memorized": 0.5, "with_controls": 0.25, "random": 0.1}
        data = {"layers": [row], "whole_test": {"p_value": 0.2, "n_permutations": 10}}
        record = Record(stage="sharing", made_by=MethodSpec(name="nemo"), parents=(), data=data, tensors={})
        view = notebook.show_sharing(record)
        assert "0.500" in view.text
        assert "0.250" in view.text
        assert "<svg" in view.html

    def test_layers_say_how_many(self):
        view = notebook.show_layers({"nemo": located(0, 1, 2), "none": located()})
        assert (
            "3 units, 37.5\u00a0% of those that were searched; works: 1, controls: 2; 1,234 rows through" in view.text
        )
        assert "Nothing was located." in view.text
        assert view.html.count("<svg") == 1

    def test_random_search_is_compared_by_passes_alone(self):
        assert "random search" not in notebook.show_curve(attacked()).html
        assert "random search" in notebook.show_curve(attacked(), over="passes").html
        with pytest.raises(ValueError, match="step or passes, got steps"):
            curve_blocks({}, "steps")

    def test_a_curve_that_was_not_measured_says_so(self):
        assert "not measured" in curve_blocks({}, "step")[0].words[0]

    def test_an_unknown_part_of_a_study_is_refused(self):
        with pytest.raises(InputError, match="did you mean starts"):
            notebook.show_locality(attacked(), "start")

    def test_losses_leave_the_gradient_out(self):
        curve = torch.linspace(1, 0, 12)
        record = Record(
            stage="finetune", made_by=MethodSpec(name="retrack"), parents=(),
            data={"steps": 12, "seconds": 1.5, "weights": 3400},
            tensors={"curve.loss.forget": curve, "curve.gradient": curve},
        )  # fmt: skip
        view = notebook.show_losses(record)
        assert "retrack: 12 steps, 1.5 s, 3,400 weights changed." in view.text
        assert "loss.forget" in view.html
        assert "gradient" not in view.html


class TestFigures:
    def test_empty_ones_are_empty_text(self):
        assert layers_figure("nemo", [], {}) == losses_figure({}) == losses_figure({"loss": []}) == ""

    def test_a_layer_without_units_is_there(self):
        sites = [{"name": f"down_blocks.{i}.attentions.0.x", "shape": [4, 4]} for i in range(3)]
        svg = layers_figure("nemo", sites, {sites[0]["name"]: 16, sites[2]["name"]: 2})
        for text in (">16<", ">0<", ">2<", ">down 0.0<", ">down 1.0<", ">down 2.0<"):
            assert text in svg

    def test_nan_leaves_a_gap_and_long_curves_are_drawn(self):
        assert "<svg" in losses_figure({"a": [1.0, float("nan"), 0.5], "b": [float("nan")], "c": list(range(1001))})


class TestSmallAudits:
    def rows_of(self, request):
        with request.prompts.open(newline="") as file:
            return list(csv.DictReader(file))

    def test_it_takes_as_many_as_are_asked_for(self, tmp_path):
        rows = self.rows_of(notebook.small_audit(bundled(), tmp_path / "run", works=3, lower=1, heldout=2, base=4))
        of = [(row["label"], row["rung"]) for row in rows]
        assert of.count(("VM", "4")) == 3
        assert [of.count(("VM", str(rung))) for rung in range(4)] == [1] * 4
        assert of.count(("heldout", "")) == 2
        assert of.count(("base", "")) == 4
        assert len({row["work"] for row in rows if row["work"]}) == 3 + 4 + 2

    def test_it_asks_for_the_settings_of_the_contract(self, tmp_path):
        request = notebook.small_audit(bundled(), tmp_path / "run")
        assert request.sampling == bundled().sampling
        assert request.out == tmp_path / "run"
        assert request.prompts == tmp_path / "run-prompts.csv"

    def test_what_is_trained_on_is_not_audited(self, tmp_path):
        asked = self.rows_of(notebook.small_audit(bundled(), tmp_path / "run", base=120))
        audited = {row["prompt"] for row in asked if row["label"] == "base"}
        trained = parquet.read_table(notebook.other_pairs(bundled(), tmp_path / "pairs.parquet"))["caption"].to_pylist()
        assert len(audited) == len(trained) == 120
        assert not audited & set(trained)
