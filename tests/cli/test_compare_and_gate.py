"""`amnestic compare` and `amnestic gate` as a person types them, on small finished audits."""

import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from runs import DESCRIPTOR, attack, finished_run, prompts_of, summary_with

from amnestic import cli, stages
from amnestic.core.records import Sampling

LOW, HIGH = 0.1, 0.9
HOSTILE = "<script>alert(1)</script>|`x`"


@pytest.fixture
def amnestic(monkeypatch, capsys):
    """Run a command in this process: exit code, output, errors."""

    def call(*words):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["amnestic", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return end.value.code or 0, shown.out, shown.err

    return call


@pytest.fixture
def two(tmp_path):
    """Audits of two models: the second replicates 8 works more, out of 20, and one less."""
    finished_run(tmp_path / "a", [HIGH] + [LOW] * 19, n_heldout=6, n_base=6, model="a")
    finished_run(tmp_path / "b", [LOW] + [HIGH] * 9 + [LOW] * 10, n_heldout=6, n_base=6, model="b")
    return tmp_path / "a", tmp_path / "b"


def last_line(text):
    return text.strip().splitlines()[-1]


class TestCompare:
    def test_a_regression_is_told_and_fails_when_asked(self, amnestic, two):
        code, out, _ = amnestic("compare", *two)
        assert code == 0
        assert last_line(out).startswith("Regression: the memorization rate rose from 5 % to 45 % of 20 works")
        assert "all works, after only: w1, w2" in out
        assert amnestic("compare", *two, "--fail-on-regression")[0] == 3
        assert amnestic("compare", *reversed(two), "--fail-on-regression")[0] == 0

    def test_groups_carry_works_rungs_and_controls(self, amnestic, two):
        code, out, _ = amnestic("compare", *two, "--json")
        found = json.loads(out)
        assert code == 0
        assert [(g["group"], g["works"]) for g in found["groups"]] == [
            ("all works", 20), ("rung 0", 10), ("rung 1", 10), ("held-out", 6), ("base prompts", 6),
        ]  # fmt: skip
        works = found["groups"][0]
        assert works["mcnemar"] == {"n": 20, "only_before": 1, "only_after": 9, "p_value": pytest.approx(22 / 1024)}
        assert works["no_longer"] == ["w0"]
        assert found["conclusion"] == "regression"
        assert (found["before"]["model"], found["after"]["model"]) == ("models/a", "models/b")

    def test_a_run_beside_itself_shows_nothing(self, amnestic, two):
        code, out, _ = amnestic("compare", two[0], two[0], "--json", "--fail-on-regression")
        found = json.loads(out)
        assert code == 0
        assert found["conclusion"] == "no difference detected"
        assert all(not g["newly"] and not g["no_longer"] and g["change"]["estimate"] == 0 for g in found["groups"])
        assert "Both audits are of the same weights." in found["notes"]

    def test_five_works_are_too_few(self, amnestic, tmp_path):
        for name, scores in (("a", [LOW] * 5), ("b", [HIGH] * 5)):
            finished_run(tmp_path / name, scores, model=name)
        code, out, _ = amnestic("compare", tmp_path / "a", tmp_path / "b", "--fail-on-regression")
        assert code == 4
        assert "Inconclusive" in last_line(out)
        assert amnestic("compare", tmp_path / "a", tmp_path / "b")[0] == 0

    def test_files(self, amnestic, two, tmp_path):
        for suffix in (".html", ".json", ".md"):
            code, out, _ = amnestic("compare", *two, "--out", tmp_path / "made" / f"c{suffix}")
            assert code == 0
            assert f"c{suffix}" in last_line(out)
        made = {file.suffix: file.read_text() for file in (tmp_path / "made").iterdir()}
        assert json.loads(made[".json"])["conclusion"] == "regression"
        assert made[".md"].startswith("# Comparison of two audits\n\n**Regression: ")
        assert "<script" not in made[".html"]
        assert all("Regression: the memorization rate rose from 5 % to 45 % of 20 works" in t for t in made.values())

    def test_hostile_names_stay_text(self, amnestic, tmp_path):
        named = [replace(p, work=HOSTILE if p.id == "w0" else p.work) for p in prompts_of(8)]
        for name, scores in (("a", [LOW] * 8), ("b", [HIGH] * 8)):
            finished_run(tmp_path / name, scores, model=name, prompts=named)
        for suffix in (".html", ".md"):
            amnestic("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / f"c{suffix}")
        assert "<script" not in (tmp_path / "c.html").read_text()
        assert "`<script>alert(1)</script>|'x'`" in (tmp_path / "c.md").read_text()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"seeds": 3}, "seeds was [0, 1], now [0, 1, 2]"),
            ({"sampling": Sampling(guidance_scale=3.0)}, "sampling.guidance_scale was 7.5, now 3.0"),
            ({"threshold": 0.5}, "threshold was 0.7, now 0.5"),
            ({"descriptor": replace(DESCRIPTOR, digest="e" * 64)}, "descriptor.digest was"),
            ({"n_base": 1}, "the prompts are others (8 and 9 of them)"),
            ({"prompts": [replace(p, prompt=f"{p.prompt}!") for p in prompts_of(8)]}, "the prompts are others"),
        ],
    )  # fmt: skip
    def test_what_differs_is_named_and_refused(self, amnestic, tmp_path, change, words):
        finished_run(tmp_path / "a", [LOW] * 8)
        finished_run(tmp_path / "b", [LOW] * 8, **change)
        code, out, err = amnestic("compare", tmp_path / "a", tmp_path / "b")
        assert (code, out) == (2, "")
        assert "cannot be compared" in err
        assert words in err
        assert err.count("\n") == 1

    def test_runs_that_are_not_whole_are_refused(self, amnestic, two, tmp_path):
        a, b = two
        (tmp_path / "empty").mkdir()
        assert "holds no run" in amnestic("compare", a, tmp_path / "empty")[2]
        shutil.copytree(b, tmp_path / "open")
        (tmp_path / "open" / "summary.json").unlink()
        assert "has not finished" in amnestic("compare", a, tmp_path / "open")[2]
        shutil.copytree(b, tmp_path / "torn")
        (tmp_path / "torn" / "summary.json").write_text('{"protocol": {}}')
        assert "is no summary of an audit (no descriptor, leak_rate)" in amnestic("compare", tmp_path / "torn", a)[2]
        shutil.copytree(b, tmp_path / "old")
        manifest = json.loads((b / "manifest.json").read_text()) | {"schema": 0}
        (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
        code, _, err = amnestic("compare", a, tmp_path / "old")
        assert code == 2
        assert "was written with schema 0" in err

    def test_summary_and_scores_of_two_scorings_are_refused(self, amnestic, two):
        protocol = json.loads((two[1] / "summary.json").read_text())["protocol"]
        summary_with(two[1], protocol=protocol | {"id": "0" * 12})
        code, _, err = amnestic("compare", *two)
        assert code == 2
        assert "are not of one scoring" in err

    def test_works_with_other_originals_are_left_out_and_counted(self, amnestic, tmp_path):
        finished_run(tmp_path / "a", [LOW] * 8, n_heldout=3)
        finished_run(tmp_path / "b", [HIGH] * 8, n_heldout=3, model="b", hashes={"w0.png": "another picture"})
        _, out, _ = amnestic("compare", tmp_path / "a", tmp_path / "b", "--json")
        found = json.loads(out)
        assert [g["group"] for g in found["groups"]] == ["all works", "rung 0", "rung 1"]
        assert found["groups"][0]["works"] == 7
        left = dict(map(tuple, found["not_compared"]))
        assert left["1 prompt"] == "their originals are not the same pictures"
        assert left["3 prompts"].startswith("controls are judged against all originals")

    def test_no_work_in_common_is_inconclusive(self, amnestic, tmp_path):
        finished_run(tmp_path / "a", [LOW] * 8)
        finished_run(tmp_path / "b", [HIGH] * 8, hashes={f"w{i}.png": "other" for i in range(8)})
        code, out, _ = amnestic("compare", tmp_path / "a", tmp_path / "b", "--fail-on-regression")
        assert code == 4
        assert "no work in common" in last_line(out)

    def test_another_suffix_is_refused_before_anything_is_read(self, amnestic, tmp_path):
        code, _, err = amnestic("compare", tmp_path, tmp_path, "--out", "c.pdf")
        assert code == 2
        assert "expected --out to end in .html, .json, .md, got c.pdf" in err


class TestComparedAttacks:
    def found(self, amnestic, two):
        return json.loads(amnestic("compare", *two, "--json")[1])

    def test_the_same_attack_is_compared_arm_by_arm(self, amnestic, two):
        for run, works in zip(map(stages.comparing.Run.open, two), ([HIGH] * 10, [LOW] * 10), strict=True):
            attack(run, works=works, heldout=[LOW] * 10)
        found = self.found(amnestic, two)
        arms = {arm["group"]: arm for arm in found["attacks"][0]["arms"]}
        assert (arms["works"]["before"]["estimate"], arms["works"]["after"]["estimate"]) == (1, 0)
        assert (arms["works"]["reading"], arms["heldout"]["reading"]) == ("fell", "no difference detected")
        assert "Under dori, the share of “works” that came back fell from 100 % to 0 % of 10" in " ".join(
            found["notes"]
        )

    def test_what_was_not_attacked_alike_is_listed_with_the_reason(self, amnestic, two):
        one, other = map(stages.comparing.Run.open, two)
        attack(one, works=[LOW] * 6, heldout=[LOW] * 6)
        attack(other, works=[LOW] * 6, twin=[LOW] * 6)
        attack(one, "hard-prompt", works=[LOW] * 6, parameters={"steps": 10})
        attack(other, "hard-prompt", works=[LOW] * 6, parameters={"steps": 20})
        attack(one, "null-text", works=[LOW] * 6)
        attack(one, "gcg-prompt", works=[LOW] * 6, steps=(0, 10))
        attack(other, "gcg-prompt", works=[LOW] * 6, asked="others", steps=(0, 10))
        attack(one, "random-tokens", works=[LOW] * 6, threshold=0.5)
        found = self.found(amnestic, two)
        assert [(a["method"], [arm["group"] for arm in a["arms"]]) for a in found["attacks"]] == [("dori", ["works"])]
        left = dict(map(tuple, found["not_compared"]))
        assert left["attack dori, arm heldout"] == "the second run has none"
        assert left["attack dori, arm twin"] == "it was made on a third model"
        assert left["attack hard-prompt of the second run"].endswith("with other settings (steps was 10, now 20)")
        assert left["attack null-text of the first run"] == "the other run was not attacked with it"
        assert left["attack gcg-prompt, arm works"].startswith("other known images were attacked")
        assert left["attack random-tokens of the first run"] == "it was judged at another threshold, 0.5"


class TestGate:
    @pytest.fixture
    def clean(self, tmp_path):
        """60 works of which none replicates."""
        return finished_run(tmp_path / "clean", [LOW] * 60, n_heldout=5)

    @pytest.mark.parametrize(
        ("expressions", "code", "verdicts"),
        [
            (["leak_rate.upper_one_sided > 5%"], 0, ["pass"]),
            (["leak_rate.upper_one_sided>0.01"], 4, ["inconclusive"]),
            (["leak_rate.upper >= 0"], 4, ["inconclusive"]),
            (["leak_rate.upper_one_sided > 5%", "controls.heldout.leak_rate.upper > 5%"], 4, ["pass", "inconclusive"]),
            (["leak_rate.upper < 50%", "controls.heldout.leak_rate.upper > 5%"], 3, ["fail", "inconclusive"]),
            (["attack.dori.works.upper > 10%"], 4, ["inconclusive"]),
            (["clip.leak_rate.upper > 10%"], 4, ["inconclusive"]),
        ],
    )
    def test_exit_codes_and_lines(self, amnestic, clean, expressions, code, verdicts):
        words = [word for text in expressions for word in ("--fail-on", text)]
        found = amnestic("gate", clean.folder, *words)
        lines = found[1].strip().splitlines()
        assert found[0] == code
        assert [line.split(":")[0] for line in lines[:-1]] == verdicts
        assert lines[-1] == f"verdict: { {0: 'pass', 3: 'fail', 4: 'inconclusive'}[code] }"

    def test_json_and_junit(self, amnestic, clean, tmp_path):
        words = ["--fail-on", "leak_rate.upper_one_sided > 4%", "--json", "--junit", tmp_path / "deep" / "gate.xml"]
        code, out, _ = amnestic("gate", clean.folder, *words)
        found = json.loads(out)
        assert code == found["exit_code"] == 4
        assert (found["run"], found["model"]) == ("clean", "models/a")
        assert found["outcomes"][0]["value"] == pytest.approx(1 - 0.05 ** (1 / 60))
        suite = ElementTree.parse(tmp_path / "deep" / "gate.xml").getroot()
        assert (suite.get("tests"), suite.get("errors")) == ("1", "1")

    def test_attacks_are_judged_by_the_strongest_and_not_by_stale_ones(self, amnestic, clean):
        for k, steps in ((2, 10), (14, 20)):
            attack(clean, works=[HIGH] * k + [LOW] * (20 - k), heldout=[LOW] * 20, steps=(0, steps))
        code, out, _ = amnestic("gate", clean.folder, "--fail-on", "attack.dori.works.upper_one_sided > 20%")
        assert code == 3
        assert "the strongest of 2" in out
        attack(clean, "hard-prompt", works=[LOW] * 20, threshold=0.5)
        code, out, _ = amnestic("gate", clean.folder, "--fail-on", "attack.hard-prompt.works.upper_one_sided > 20%")
        assert code == 4
        assert "as it is judged now" in out

    def test_an_attack_that_is_not_trustworthy_passes_nothing(self, amnestic, clean):
        attack(clean, works=[HIGH] * 2 + [LOW] * 18)  # works came back, but there is no control beside them
        code, out, _ = amnestic("gate", clean.folder, "--fail-on", "attack.dori.works.upper_one_sided > 50%")
        assert code == 4
        assert "not trustworthy" in out

    @pytest.mark.parametrize(
        ("expression", "words"),
        [
            ("leek_rate.upper > 5%", "did you mean leak_rate?"),
            ("leak_rate.estimate > 5%", "never at a point estimate"),
            ("leak_rate.upper > 5", "5 % is written 5% or 0.05"),
            ("leak_rate.lower_one_sided > 5%", "has no such bound"),
            ("(" * 5000, "got one of 5000 characters"),
            ("__import__('os')", "expected an expression such as"),
            ("leak_rate.upper\N{RIGHT-TO-LEFT OVERRIDE} > 5%", "expected a bound"),
            ("\U0001f600.upper > 5%", "expected a quantity"),
        ],
    )
    def test_mistakes_are_one_sentence(self, amnestic, clean, expression, words):
        code, out, err = amnestic("gate", clean.folder, "--fail-on", expression)
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
        assert err.strip().isprintable()

    def test_without_an_expression_or_a_whole_run_it_is_a_usage_error(self, amnestic, clean, tmp_path):
        assert amnestic("gate", clean.folder)[0] == 2
        limit = ("--fail-on", "leak_rate.upper > 5%")
        assert amnestic("gate", tmp_path / "nowhere", *limit)[0] == 2
        (clean.folder / "summary.json").write_text("{")
        code, _, err = amnestic("gate", clean.folder, *limit)
        assert code == 2
        assert "cannot be read" in err
        code, _, err = amnestic("gate", clean.folder, *limit, "--junit", tmp_path)
        assert code == 2

    def test_a_folder_in_place_of_the_junit_file_is_one_sentence(self, amnestic, clean, tmp_path):
        code, _, err = amnestic("gate", clean.folder, "--fail-on", "leak_rate.upper > 50%", "--junit", tmp_path)
        assert code == 2
        assert "cannot be written" in err


def test_a_real_audit_is_gated_as_the_audit_gates_itself_and_equals_itself(amnestic, request_of):
    summary = stages.audit(replace(request_of, threshold=-1.0, max_leak_rate=0.5))
    assert summary["verdict"] == "fail"
    assert amnestic("gate", request_of.out, "--fail-on", "leak_rate.upper_one_sided > 50%")[0] == 3
    code, out, _ = amnestic("compare", request_of.out, request_of.out, "--json")
    found = json.loads(out)
    assert code == 0
    assert {g["group"]: g["works"] for g in found["groups"]} == {
        "all works": 4, "rung 0": 2, "rung 1": 2, "base prompts": 2,
    }  # fmt: skip
    assert found["conclusion"] == "inconclusive"
    assert found["groups"][0]["before"] == summary["leak_rate"]
