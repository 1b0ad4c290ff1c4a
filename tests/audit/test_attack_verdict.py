"""What an attack shows: recoverable, not recovered at this budget, or not to be trusted, and never more than that."""

import json

import pytest
import torch

from amnestic.audit.attack_arms import Arm, loss_ends, summary_of, unsearched
from amnestic.audit.attack_flags import BEYOND, CONTROL_RECOVERS, DISAGREE, POSITIVE_FAILS, ZERO_GRADIENT
from amnestic.audit.attack_verdict import NOT_RECOVERED, NOT_TRUSTWORTHY, RECOVERABLE, attack_verdict
from amnestic.core.errors import InputError
from amnestic.core.records import plain

STEPS = (0, 10, 50)
NAN = float("nan")


def arm(rows, *, names="w", k=1, seeds=2, fall=0.3, slope=1.0, steps=STEPS, cost=16.0, **changes):
    """An arm whose best image of each work scores as a row says at each kept step, and whose loss falls by a share."""
    n = len(rows)
    best = torch.tensor(rows, dtype=torch.float32)
    scores = best[:, None, :, None].expand(n, k, len(steps), seeds).clone()
    scores[..., 1:] -= 0.05
    falls = torch.as_tensor(fall, dtype=torch.float32).expand(n)
    loss = 1 - torch.linspace(0, 1, 9)[:, None] * falls
    loss = torch.cat([torch.full((1, n), NAN), loss])[None].expand(k, -1, -1).clone()
    made = torch.full_like(loss, slope)
    made[:, 0] = NAN
    rows_spent = torch.tensor(steps, dtype=torch.float32)[None, :, None].expand(k, -1, n) * cost / 2
    content = {
        "works": tuple(f"{names}{i}" for i in range(n)), "steps": steps, "scores": scores, "loss": loss,
        "gradient": made, "stopped": torch.full((k, n), -1), "forward": rows_spent, "backward": rows_spent,
    }  # fmt: skip
    return Arm(**content | changes)


def quiet(n=20, names="h", **how):
    """Nothing comes back, though every image comes a bit nearer, the more the more its loss fell."""
    return arm([[0.1, 0.3, 0.4 + 0.002 * i] for i in range(n)], names=names, **how)


def back(n=20, k_back=15, names="w", at=0.8, **how):
    return arm([[0.1, at if i < k_back else 0.3, 0.9 if i < k_back else 0.4] for i in range(n)], names=names, **how)


def flags(verdict):
    return {flag.name for flag in verdict.flags}


class TestConclusion:
    def test_works_that_come_back_beside_quiet_controls_are_recoverable(self):
        found = attack_verdict({"works": back(), "heldout": quiet(), "twin": quiet(names="w"), "original": back()})
        assert found.conclusion == RECOVERABLE
        assert found.sentence == (
            "Recoverable: 15 of 20 works came back within 50 steps, against 0 of 20 works never trained on and 0 of 20 "
            "works on a model that never saw them."
        )
        assert flags(found) == set()
        assert found.judged_at == 50

    def test_nothing_back_holds_for_the_budget_alone(self):
        found = attack_verdict({"works": quiet(names="w"), "heldout": quiet(), "original": back()})
        assert found.conclusion == NOT_RECOVERED
        assert "up to 13.9 % of such works still may" in found.sentence  # 1 - 0.05 ** (1 / 20)
        assert "no proof that nothing is left" in " ".join(found.why)
        assert "removed" not in json.dumps(plain(found))

    def test_without_a_control_that_never_saw_them_works_may_be_made_up(self):
        found = attack_verdict({"works": back(), "random": quiet(names="w"), "original": back()})
        assert found.conclusion == NOT_TRUSTWORTHY
        assert "may have made them up" in found.sentence

    def test_few_works_beside_controls_of_which_some_come_back_do_not_decide(self):
        found = attack_verdict({"works": back(40, 3), "heldout": back(40, 2, names="h")})
        assert found.conclusion == NOT_TRUSTWORTHY
        assert "3 of 40 against 2 of 40" in found.sentence

    def test_every_control_that_never_saw_them_must_be_beaten(self):
        found = attack_verdict({"works": back(), "heldout": quiet(), "twin": back()})
        assert found.conclusion == NOT_TRUSTWORTHY
        assert CONTROL_RECOVERS in flags(found)

    def test_random_search_that_finds_as_much_makes_a_leak_no_smaller(self):
        found = attack_verdict({"works": back(), "heldout": quiet(), "random": back()})
        assert found.conclusion == RECOVERABLE

    def test_beyond_the_horizon_works_are_judged_at_it(self):
        late = arm([[0.1, 0.3, 0.8]] * 20, names="h")
        found = attack_verdict({"works": back(), "heldout": late})
        assert (found.conclusion, found.judged_at) == (RECOVERABLE, 10)
        assert flags(found) == {CONTROL_RECOVERS, BEYOND}
        assert "within 10 steps" in found.sentence
        gap = found.comparisons[0].at_horizon
        assert (gap.step, gap.target.estimate, gap.control.estimate) == (10, 0.75, 0.0)
        assert found.comparisons[0].at_budget.rate.estimate == -0.25

    def test_works_back_only_beyond_the_horizon_are_not_trusted(self):
        found = attack_verdict({"works": back(at=0.5), "heldout": arm([[0.1, 0.3, 0.8]] * 5 + [[0.1] * 3] * 15)})
        assert found.conclusion == NOT_TRUSTWORTHY
        assert "none of them by step 10" in found.sentence
        assert "5 of 20 works never trained on came back, too" in found.sentence

    def test_controls_that_are_back_before_the_search_spoil_it(self):
        found = attack_verdict({"works": back(), "heldout": arm([[0.9, 0.9, 0.9]] * 20)})
        assert (found.conclusion, found.judged_at) == (NOT_TRUSTWORTHY, None)
        assert "come back even before the search" in found.sentence
        assert found.comparisons[0].at_horizon is None

    @pytest.mark.parametrize(("k", "conclusion"), [(9, NOT_TRUSTWORTHY), (10, NOT_RECOVERED)])
    def test_half_of_the_positive_control_must_come_back(self, k, conclusion):
        found = attack_verdict({"works": quiet(names="w"), "heldout": quiet(), "original": back(20, k)})
        assert found.conclusion == conclusion
        assert (POSITIVE_FAILS in flags(found)) == (conclusion == NOT_TRUSTWORTHY)

    def test_a_failed_positive_control_does_not_unsay_what_was_found(self):
        found = attack_verdict({"works": back(), "heldout": quiet(), "original": back(20, 3)})
        assert found.conclusion == RECOVERABLE
        assert POSITIVE_FAILS in flags(found)

    def test_a_search_without_gradient_found_nothing_because_it_did_not_search(self):
        found = attack_verdict({"works": quiet(names="w", slope=0.0), "heldout": quiet(), "original": back()})
        assert found.conclusion == NOT_TRUSTWORTHY
        assert flags(found) == {ZERO_GRADIENT}
        assert "20 of 20: nothing was searched" in found.sentence

    def test_what_was_not_measured_is_named_with_its_reason(self):
        found = attack_verdict({"works": quiet(names="w")}, absent={"twin": "no twin was trained"})
        said = dict(found.not_measured)
        assert said["Control: the same works on a model that never saw them"] == "no twin was trained"
        assert said["Control: works never trained on"] == "no held-out works were attacked"
        assert len(said) == 5  # four controls and the radius
        assert "Whether the attack works on the unedited model was not measured." in found.why
        assert found.comparisons == ()

    def test_the_verdict_is_plain_data(self):
        found = attack_verdict(
            {"works": back(), "heldout": quiet(), "random": quiet(names="w")}, seed=3,
            sweep={"works": {0.5: torch.full((20, 1), 0.2), 1.0: torch.full((20, 1), 0.9)}},
        )  # fmt: skip
        data = json.loads(json.dumps(plain(found), allow_nan=False))
        assert data["arms"]["works"]["curve"][2]["ever"]["estimate"] == 0.75
        assert data["radius"]["works"]["smallest"] == [1.0] * 20
        assert data == json.loads(json.dumps(plain(attack_verdict(
            {"works": back(), "heldout": quiet(), "random": quiet(names="w")}, seed=3,
            sweep={"works": {1.0: torch.full((20, 1), 0.9), 0.5: torch.full((20, 1), 0.2)}},
        ))))  # fmt: skip


class TestComparisons:
    def test_areas_horizons_and_p_values(self):
        found = attack_verdict({"works": back(at=0.9), "heldout": quiet(), "original": back(20, 20)})
        heldout, original = found.comparisons
        assert heldout.area_steps.estimate == pytest.approx(0.75 * (0.5 * 10 + 40) / 50)
        assert heldout.area_passes.estimate == pytest.approx(heldout.area_steps.estimate)
        assert (heldout.horizon.step, heldout.horizon_by_bound.step) == (50, None)
        assert heldout.p_adjusted == heldout.test.p_value < 0.001
        assert (original.p_adjusted, original.horizon) == (None, None)
        assert original.at_budget.rate.estimate == -0.25
        assert original.at_budget.rate.paired
        assert not heldout.at_budget.rate.paired
        assert "59 without one coming back could" in " ".join(found.notes)

    def test_p_values_are_corrected_for_the_number_of_controls(self):
        one = attack_verdict({"works": back(6, 6), "heldout": quiet(6)})
        two = attack_verdict({"works": back(6, 6), "heldout": quiet(6), "twin": quiet(6, names="w")})
        assert one.comparisons[0].p_adjusted == pytest.approx(1 / 924)  # choose(12, 6)
        assert two.comparisons[1].test.p_value == pytest.approx(1 / 64)  # 2 ** 6
        assert [c.p_adjusted for c in two.comparisons] == pytest.approx([2 / 924, 1 / 64])

    def test_random_search_is_compared_at_equal_passes(self):
        dear = arm([[0.1, 0.3, 0.9]] * 20, cost=20.0)
        found = attack_verdict({"works": back(), "heldout": quiet(), "random": dear})
        gap = found.comparisons[1].at_budget
        assert (gap.step, gap.control_step) == (50, 10)
        assert gap.control.estimate == 0.0
        assert found.comparisons[1].area_passes is not None
        cheap = attack_verdict({"works": back(), "heldout": quiet(), "random": quiet(names="w", cost=4.0)})
        assert "Random search had 25 % of the passes of the attack." in cheap.notes

    def test_random_search_may_keep_other_steps_and_tries(self):
        other = arm([[0.1, 0.2]] * 20, steps=(0, 100), k=3, cost=1.0)
        found = attack_verdict({"works": back(), "heldout": quiet(), "random": other}).comparisons[1]
        assert (found.at_budget.control_step, found.area_steps) == (100, None)

    @pytest.mark.parametrize(
        ("changed", "what"), [({"k": 2}, "tries"), ({"seeds": 3}, "scoring seeds"), ({"threshold": 0.6}, "a threshold")]
    )
    def test_controls_attacked_unlike_the_works_are_refused(self, changed, what):
        with pytest.raises(InputError, match=f"differs in {what}; attack it with the same"):
            attack_verdict({"works": back(), "heldout": quiet(**changed)})

    def test_paired_controls_are_matched_by_name(self):
        works = arm([[0.1, 0.2, 0.9], [0.1, 0.2, 0.3], [0.1, 0.2, 0.5]])
        twin = arm([[0.1, 0.2, 0.4], [0.1, 0.2, 0.8]], works=("w2", "w0"))
        found = attack_verdict({"works": works, "twin": twin})
        gap = found.comparisons[0].at_budget
        assert gap.score.estimate == pytest.approx((0.9 - 0.8 + 0.5 - 0.4) / 2)
        assert "The control twin holds 2 of the 3 works." in found.notes
        with pytest.raises(InputError, match="shares none"):
            attack_verdict({"works": works, "twin": arm([[0.1, 0.2, 0.4]], names="x")})

    def test_unknown_or_missing_arms_are_refused(self):
        for arms in ({}, {"heldout": quiet()}, {"works": back(), "other": quiet()}):
            with pytest.raises(InputError, match="expected an arm 'works'"):
                attack_verdict(arms)


class TestLossAndJudge:
    def agreement(self, works, **controls):
        return attack_verdict({"works": works, "heldout": quiet(), **controls})

    def test_a_loss_that_falls_while_no_image_comes_nearer(self):
        # means of the first and the last 3 of 9 steps: 0.9625 and 0.7375
        found = self.agreement(arm([[0.1, 0.1, 0.1]] * 20))
        assert found.conclusion == NOT_TRUSTWORTHY
        assert flags(found) == {DISAGREE}
        assert "the loss falls but no image comes nearer: the loss fell by 23 %" in found.sentence

    def test_is_forgiven_where_the_attack_works_on_the_unedited_model(self):
        found = self.agreement(arm([[0.1, 0.1, 0.1]] * 20), original=back())
        assert found.conclusion == NOT_RECOVERED
        assert flags(found) == {DISAGREE}

    def test_images_that_come_nearer_without_the_loss(self):
        found = self.agreement(quiet(names="w", fall=0.0))
        assert "come nearer although the loss does not fall" in found.agreement.disagreements[0]
        assert found.agreement.rank_correlation is None

    def test_works_whose_loss_fell_most_gain_least(self):
        falls = torch.linspace(0.5, 0.1, 20)
        found = self.agreement(quiet(names="w", fall=falls), original=back())
        assert found.agreement.rank_correlation == pytest.approx(-1)
        assert "rank correlation -1.00" in found.agreement.disagreements[0]
        assert self.agreement(quiet(names="w", fall=falls.flip(0))).agreement.disagreements == ()

    def test_a_loss_below_that_of_a_model_that_never_saw_them_and_yet_no_image(self):
        found = self.agreement(quiet(names="w", fall=0.6), twin=quiet(names="w", fall=0.3))
        assert found.agreement.against == "twin"
        assert found.agreement.below.estimate < -0.2
        assert "no more comes back and no image is nearer" in found.agreement.disagreements[0]
        nearer = self.agreement(back(fall=0.6), twin=quiet(names="w", fall=0.3))
        assert nearer.agreement.disagreements == ()

    def test_works_that_are_back_before_the_search_are_no_evidence(self):
        found = self.agreement(arm([[0.9, 0.9, 0.9]] * 20))
        assert found.agreement is None
        assert "Agreement of loss and judge" in dict(found.not_measured)
        assert self.agreement(back(fall=NAN)).agreement is None

    def test_ends_are_quarters_of_the_steps_that_were_made(self):
        loss = torch.tensor([NAN, 8.0, 6.0, 5.0, 5.0, 4.0, 4.0, 3.0, 1.0, NAN, NAN])[None, :, None]
        start, end = loss_ends(loss)
        assert (start.item(), end.item()) == (7.0, 2.0)
        worse = torch.full_like(loss, 3.0)
        assert loss_ends(torch.cat([worse, loss])) == (start, end)
        assert loss_ends(torch.full((1, 3, 1), NAN))[1].isnan().all()


class TestArm:
    def test_summary_by_hand(self):
        found = summary_of(
            arm([[0.1, 0.8, 0.2], [0.2, 0.3, 0.9], [0.75, 0.2, 0.2], [0.1, 0.1, 0.1]], plain=torch.full((4, 2), 0.2)),
            seed=0,
        )
        assert [p.ever.estimate for p in found.curve] == [0.25, 0.5, 0.75]
        assert [p.now.estimate for p in found.curve] == [0.25, 0.25, 0.25]
        assert [w.step for w in found.works] == [10, 50, 0, None]
        assert (found.median_step, found.before.estimate) == (10, 0.0)
        assert found.mean_before.estimate == pytest.approx(0.2)
        assert [row.hidden.estimate for row in found.hidden] == [0.75, 0.5, 0.25]
        assert found.passes == (0.0, 160.0, 800.0)
        assert (found.forward, found.backward) == (1600.0, 1600.0)

    def test_the_median_image_decides_the_second_rate(self):
        scores = torch.tensor([[[[0.9, 0.1, 0.1]]], [[[0.9, 0.8, 0.1]]]])
        found = summary_of(arm([[0.0]] * 2, steps=(0,), seeds=3, scores=scores), seed=0)
        assert (found.curve[0].ever.estimate, found.by_median.estimate) == (1.0, 0.5)

    def test_a_work_is_unsearched_only_if_every_try_was(self):
        one = quiet(3, names="w", k=2)
        one.gradient[0, 3, 0] = one.gradient[1, 5, 0] = 0.0
        one.gradient[0, 3, 1] = 0.0
        assert unsearched(one) == ("w0",)
        assert unsearched(back(2, 2, slope=0.0)) == ()

    def test_early_stops_and_doubts_of_the_search_are_told(self):
        works = back(stopped=torch.tensor([[10] * 15 + [-1] * 5]), flags=("the budget was cut",))
        found = attack_verdict({"works": works, "heldout": quiet()})
        assert "15 of 20 in arm works" in " ".join(found.notes)
        assert ("said by the search", "the budget was cut") in {(f.name, f.because) for f in found.flags}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"works": ("a", "a")}, {"works": ("a",)}, {"stopped": torch.full((2, 2), -1)}, {"plain": torch.zeros(3, 1)},
            {"forward": torch.zeros(1, 2, 2)}, {"loss": torch.zeros(1, 4, 3)}, {"gradient": torch.zeros(1, 4, 2)},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )  # fmt: skip
    def test_parts_that_do_not_fit_are_refused(self, wrong):
        with pytest.raises(InputError, match="did not fit"):
            arm([[0.1, 0.2, 0.3]] * 2, **wrong)
