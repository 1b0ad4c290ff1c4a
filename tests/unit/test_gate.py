"""Limits on bounds: how expressions are read, when they decide, and what hostile ones come to."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from amnestic.audit.gate import (
    Measured,
    Outcome,
    decide,
    judge,
    line,
    parse_condition,
    verdict_over,
)
from amnestic.audit.gate_quantities import AttackFound, quantities, require_known, why_absent
from amnestic.audit.summary import verdict_of
from amnestic.core.errors import InputError
from amnestic.core.records import plain
from amnestic.measures.intervals import rate
from amnestic.report.gate_junit import gate_junit

FAST = settings(max_examples=100, deadline=None, database=None)


def share(k, n):
    return plain(rate(k, n))


class TestReading:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("leak_rate.upper_one_sided>0.01", ("leak_rate", "upper_one_sided", ">", 0.01, False)),
            ("  by_label.VM.leak_rate.upper >= 5 % ", ("by_label.VM.leak_rate", "upper", ">=", 0.05, True)),
            ("ladder.4.leak_rate.lower<1e-2", ("ladder.4.leak_rate", "lower", "<", 0.01, False)),
            ("attack.auto-dori.excess.lower_one_sided <= -10%",
             ("attack.auto-dori.excess", "lower_one_sided", "<=", -0.1, True)),
        ],
    )  # fmt: skip
    def test_forms(self, text, parts):
        found = parse_condition(text)
        assert (found.quantity, found.bound, found.op, found.limit, found.in_percent) == parts
        assert found.text == text.strip()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "expected an expression"), ("leak_rate", "expected an expression"),
            ("leak_rate.upper > ", "expected an expression"), ("leak_rate.upper == 5%", "expected an expression"),
            ("leak_rate.upper > nan", "expected an expression"), ("leak_rate.upper > 1e999", "too large"),
            ("leak_rate.upper > \u0665%", "expected an expression"),
            ("0.1 < leak_rate.upper", "expected an expression"),
            ("leak_rate > 5%", "expected a bound of upper_one_sided"), (".upper > 5%", "expected a bound"),
            ("leak_rate.uper > 5%", "did you mean upper?"),
            ("leak_rate.estimate > 5%", "never at a point estimate"),
            ("leak_rate.upper > 5% or leak_rate.lower > 1%", "give --fail-on once for each comparison"),
            ("leak_rate.upper > 5% and leak_rate.lower > 1%", "give --fail-on once for each comparison"),
            ("__import__('os').system('id')", "expected an expression"),
            ("(((leak_rate.upper > 5%)))", "expected an expression"),
            ("leak_rate.upper > 5%; rm -rf /", "expected an expression"),
            ("leak_rate.upper\x1b[31m > 5%", "expected a bound"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_read_is_one_sentence(self, text, words):
        with pytest.raises(InputError, match=re.escape(words)) as raised:
            parse_condition(text)
        assert str(raised.value).isprintable()

    @pytest.mark.parametrize(
        "text", ["(" * 100_000, "a." * 50_000 + "upper > 5%", "leak_rate.upper > " + "9" * 100_000]
    )
    def test_very_long_ones_are_refused_by_their_length(self, text):
        with pytest.raises(InputError, match=r"got one of \d+ characters"):
            parse_condition(text)

    @FAST
    @given(st.text(max_size=300))
    def test_any_text_is_read_or_refused(self, text):
        told = ""
        try:
            told = f"read {parse_condition(text).limit}"
        except InputError as refused:
            told = str(refused)
        assert told.isprintable()
        assert 0 < len(told) < 400


class TestDeciding:
    @FAST
    @given(st.integers(0, 400), st.integers(0, 400), st.floats(0, 1))
    def test_one_rule_for_the_audit_and_for_the_gate(self, k, n, limit):
        leaks = rate(min(k, n), n)
        condition = replace(parse_condition("leak_rate.upper_one_sided > 5%"), limit=limit)
        assert judge(condition, [Measured(facts=plain(leaks))]).verdict == verdict_of(leaks, limit)

    @pytest.mark.parametrize(
        ("n", "limit", "verdict"),
        [(58, 0.05, "inconclusive"), (59, 0.05, "pass"), (298, 0.01, "inconclusive"), (299, 0.01, "pass")],
    )
    def test_clean_works_that_a_limit_needs(self, n, limit, verdict):
        assert decide(share(0, n), "upper_one_sided", ">", limit) == verdict

    @pytest.mark.parametrize(
        ("k", "n", "bound", "op", "limit", "verdict"),
        [
            (9, 60, "upper_one_sided", ">", 0.1, "fail"),
            (3, 4, "upper_one_sided", ">", 0.1, "fail"),  # few, but the lower end is above the limit
            (0, 0, "upper_one_sided", ">", 0.1, "inconclusive"),
            (60, 60, "lower", ">", 0.5, "fail"),  # surely more than half
            (20, 60, "lower", ">", 0.5, "pass"),
            (2, 4, "lower", ">", 0.9, "inconclusive"),  # even 4 of 4 could not have failed it
            (59, 60, "lower", "<", 0.5, "pass"),  # a control that must come back
            (2, 60, "lower", "<", 0.5, "fail"),
            (3, 3, "lower", "<", 0.5, "inconclusive"),  # even 3 of 3 do not show one half
            (0, 3, "lower", "<", 0.6, "fail"),  # few, but surely less
            (0, 60, "upper", "<", 0.5, "fail"),
            (1, 2, "upper", "<", 0.1, "inconclusive"),
        ],
    )
    def test_known_answers(self, k, n, bound, op, limit, verdict):
        assert decide(share(k, n), bound, op, limit) == verdict

    def test_equality_belongs_to_the_operator(self):
        facts = {"n": 100, "lower": 0.0, "upper": 0.3, "upper_one_sided": 0.25}
        decided = [decide(facts, "upper_one_sided", op, 0.25, is_share=False) for op in (">", ">=", "<", "<=")]
        assert decided == ["pass", "fail", "pass", "fail"]

    def test_what_has_no_number_decides_nothing(self):
        for value in (None, float("nan"), "0.1", True):
            assert decide({"n": 50, "upper": value}, "upper", ">", 0.5) == "inconclusive"

    @FAST
    @given(st.integers(1, 200), st.data())
    def test_more_leaks_never_turn_a_fail_into_a_pass(self, n, data):
        k = data.draw(st.integers(0, n - 1))
        order = ["pass", "inconclusive", "fail"]
        found = [decide(share(i, n), "upper_one_sided", ">", 0.2) for i in (k, k + 1)]
        assert order.index(found[0]) <= order.index(found[1])


class TestSeveral:
    def test_a_fail_wins_over_an_inconclusive_outcome_over_a_pass(self):
        condition = parse_condition("leak_rate.upper > 5%")
        made = {
            v: Outcome(condition=condition, verdict=v, value=None, n=None, why="")
            for v in ("pass", "fail", "inconclusive")
        }
        assert verdict_over([made["pass"], made["inconclusive"], made["fail"]]) == "fail"
        assert verdict_over([made["pass"], made["inconclusive"]]) == "inconclusive"
        assert verdict_over([made["pass"]] * 2) == "pass"
        assert verdict_over([]) == "inconclusive"

    def test_the_strongest_attack_counts_and_is_named(self):
        condition = parse_condition("attack.dori.works.upper_one_sided > 20%")
        weak, strong = Measured(facts=share(0, 60), source="attack-1"), Measured(facts=share(30, 60), source="attack-2")
        found = judge(condition, [weak, strong])
        assert (found.verdict, found.source) == ("fail", "attack-2")
        bound = binomtest(30, 60, alternative="less").proportion_ci(method="exact").high
        assert line(found) == (
            f"fail: attack.dori.works.upper_one_sided > 20%: the bound is {100 * bound:.4g} % (60 works); "
            "from attack-2, the strongest of 2"
        )

    @pytest.mark.parametrize("bound", ["upper_one_sided", "lower"])
    def test_few_works_with_a_wide_bound_hide_no_fail_of_many(self, bound):
        condition = parse_condition(f"attack.dori.works.{bound} > 10%")
        few, many = Measured(facts=share(0, 3), source="attack-1"), Measured(facts=share(30, 100), source="attack-2")
        assert few.facts["upper_one_sided"] > many.facts["upper_one_sided"]
        found = judge(condition, [few, many])
        assert (found.verdict, found.source) == ("fail", "attack-2")
        assert found.why.endswith("from attack-2, one of 2")

    def test_an_attack_in_doubt_decides_nothing_but_hides_no_fail(self):
        condition = parse_condition("attack.dori.works.upper_one_sided > 20%")
        doubtful = Measured(facts=share(50, 60), source="attack-1", doubt="it is not trustworthy")
        alone = judge(condition, [doubtful])
        assert alone.verdict == "inconclusive"
        assert "it is not trustworthy" in alone.why
        assert judge(condition, [doubtful, Measured(facts=share(0, 60))]).verdict == "inconclusive"
        assert judge(condition, [doubtful, Measured(facts=share(30, 60), source="attack-2")]).verdict == "fail"

    def test_a_limit_that_a_share_cannot_have_is_refused(self):
        with pytest.raises(InputError, match=r"expected a limit between 0 and 1; 5 % is written 5% or 0.05"):
            judge(parse_condition("leak_rate.upper > 5"), [Measured(facts=share(0, 60))])

    def test_a_bound_that_the_quantity_lacks_is_refused(self):
        with pytest.raises(InputError, match="has no such bound; it has upper_one_sided, upper, lower"):
            judge(parse_condition("leak_rate.lower_one_sided > 5%"), [Measured(facts=share(0, 60))])


def attacked(conclusion="recoverable"):
    gap = {
        "estimate": 0.5,
        "lower": 0.3,
        "upper": 0.7,
        "lower_one_sided": 0.35,
        "upper_one_sided": 0.65,
        "n_target": 24,
    }
    arms = {
        name: {"curve": [{"ever": share(0, 24)}, {"ever": share(k, 24)}]} for name, k in (("works", 12), ("heldout", 1))
    }
    return AttackFound(
        record="attack-1", method="dori",
        verdict={"conclusion": conclusion, "arms": arms,
                 "comparisons": [{"control": "heldout", "at_budget": {"rate": gap}, "at_horizon": None}]},
    )  # fmt: skip


class TestQuantities:
    def test_names_of_everything_with_bounds(self):
        change = {
            "n": 20,
            "estimate": 0.0,
            "lower": -0.1,
            "upper": 0.1,
            "lower_one_sided": -0.1,
            "upper_one_sided": 0.1,
        }
        summary = {
            "leak_rate": share(1, 20), "clip": "not measured", "by_label": {"VM": {"leak_rate": share(1, 20)}},
            "controls": {"heldout": {"leak_rate": share(0, 9), "images": share(0, 9)}},
            "ladder": [{"rung": 4, "leak_rate": share(1, 20)}],
            "before_after": {
                "rates": [{"group": "all works", "before": share(1, 20), "after": share(0, 20)}],
                "changes": [{"name": "CLIP alignment", "group": "base prompts", "change": change}],
            },
        }  # fmt: skip
        assert list(quantities(summary, [attacked()])) == [
            "leak_rate", "by_label.VM.leak_rate", "controls.heldout.leak_rate", "controls.heldout.images",
            "ladder.4.leak_rate", "before_after.all-works.before", "before_after.all-works.after",
            "before_after.clip-alignment.base-prompts", "attack.dori.works", "attack.dori.heldout",
            "attack.dori.excess.heldout", "attack.dori.excess",
        ]  # fmt: skip

    def test_an_attack_is_read_at_its_end_and_excess_by_its_own_bounds(self):
        there = quantities({}, [attacked()])
        assert there["attack.dori.works"][0].facts["estimate"] == 0.5
        assert (
            judge(parse_condition("attack.dori.excess.lower_one_sided > 0"), there["attack.dori.excess"]).verdict
            == "fail"
        )
        assert judge(parse_condition("attack.dori.excess.upper > 80%"), there["attack.dori.excess"]).verdict == "pass"

    def test_an_attack_that_is_not_trustworthy_puts_works_in_doubt_and_not_its_controls(self):
        there = quantities({}, [attacked("not trustworthy")])
        doubts = {name: bool(found[0].doubt) for name, found in there.items()}
        assert doubts == {"attack.dori.works": True, "attack.dori.heldout": False, "attack.dori.excess": True,
                          "attack.dori.excess.heldout": True}  # fmt: skip

    @pytest.mark.parametrize(
        "name",
        ["leak_rate", "clip.leak_rate", "by_label.TM.leak_rate", "controls.base.images", "ladder.7.leak_rate",
         "attack.auto-dori.twin", "attack.dori.excess.original", "before_after.all-works.after"],
    )  # fmt: skip
    def test_what_this_run_did_not_measure_is_known_all_the_same(self, name):
        require_known(name, ["leak_rate"], ["dori", "auto-dori"])
        assert why_absent(name).startswith("not measured in this run")

    @pytest.mark.parametrize(
        ("name", "meant"),
        [("leek_rate", "leak_rate"), ("attack.dory.works", "attack.dori.works"),
         ("attack.dori.wroks", "attack.dori.works"),
         ("controls.held.leak_rate", "controls.heldout.leak_rate"), ("ladder.\u0664.leak_rate", None),
         ("x" * 150, None), ("ladder.x.leak_rate", None)],
    )  # fmt: skip
    def test_a_name_that_no_run_has_is_refused_with_what_this_one_has(self, name, meant):
        there = ["leak_rate", "controls.heldout.leak_rate"]
        with pytest.raises(InputError, match="expected a quantity of this run") as raised:
            require_known(name, there, ["dori"])
        assert "leak_rate, controls.heldout.leak_rate" in str(raised.value)
        assert meant is None or f"did you mean {meant}?" in str(raised.value)
        assert len(str(raised.value)) < 300

    def test_a_misspelt_comparison_of_an_edited_model_is_refused(self):
        with pytest.raises(InputError, match=r"did you mean before_after\.all-works\.after"):
            require_known("before_after.all-work.after", ["leak_rate", "before_after.all-works.after"], ["dori"])


class TestJunit:
    def outcome(self, verdict, text="leak_rate.upper > 5%", why="the bound is 4 %"):
        return {"condition": {"text": text}, "verdict": verdict, "why": why}

    def test_failed_and_undecided_ones_do_not_look_passed(self):
        text = gate_junit({"run": "v2", "outcomes": [self.outcome(v) for v in ("pass", "fail", "inconclusive")]})
        suite = ElementTree.fromstring(text)
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
        assert [[child.tag for child in case] for case in suite] == [["system-out"], ["failure"], ["error"]]
        assert suite[1][0].get("message") == "the bound is 4 %"

    @FAST
    @given(st.text(max_size=40), st.text(max_size=40))
    def test_any_text_makes_a_file_that_can_be_read(self, text, run):
        suite = ElementTree.fromstring(
            gate_junit({"run": run, "outcomes": [self.outcome("fail", text, text)]}).encode()
        )
        assert len(suite) == 1
