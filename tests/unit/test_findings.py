"""The published findings: what a run becomes, what is missing, and that the schema is the one in docs."""

import json
from pathlib import Path

import jsonschema
import pytest
from found import COMPARED, HOSTILE, attack, facts
from pydantic import ValidationError

from amnestic.core.errors import InputError, StoreError
from amnestic.report.findings import Findings, canonical, digest_of, read_findings, schema_text
from amnestic.report.findings_auditor import AuditorFile, read_auditor
from amnestic.report.findings_parts import Missing
from amnestic.report.found import findings_of
from amnestic.report.found_attacked import attacked
from amnestic.report.run_facts import RecordFacts

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "findings-1.json"


def texts(value):
    """Every string in plain data."""
    if isinstance(value, dict):
        return [t for v in value.values() for t in texts(v)]
    if isinstance(value, list):
        return [t for v in value for t in texts(v)]
    return [value] if isinstance(value, str) else []


class TestSchema:
    def test_the_published_schema_is_that_of_the_models(self):
        assert SCHEMA.read_text("utf-8") == schema_text()

    @pytest.mark.parametrize("said", [None, AuditorFile(name="A. Person", licence="MIT")], ids=["silent", "told"])
    @pytest.mark.parametrize("records", [(), (attack(0, 2),)], ids=["ordinary", "attacked"])
    def test_a_document_fits_it(self, said, records):
        schema = json.loads(SCHEMA.read_text("utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(
            json.loads(canonical(findings_of(facts(records=records), said)))
        )

    def test_an_unknown_key_does_not(self):
        content = json.loads(canonical(findings_of(facts()))) | {"verdict": "clean"}
        with pytest.raises(jsonschema.ValidationError, match="verdict"):
            jsonschema.validate(content, json.loads(schema_text()))
        with pytest.raises(StoreError, match="verdict"):
            read_findings(json.dumps(content))

    def test_every_field_is_described(self):
        schema = json.loads(schema_text())
        parts = {k: v for k, v in schema["$defs"].items() if k != "JsonValue"} | {"Findings": schema}
        assert len(parts) > 40
        bare = [f"{name}.{field}" for name, part in parts.items() for field, about in part["properties"].items()
                if not about.get("description")]  # fmt: skip
        assert not bare
        assert all(part["additionalProperties"] is False for part in parts.values())

    def test_a_document_comes_back_as_it_was(self):
        found = findings_of(facts(records=[attack(0, 2)]), AuditorFile(prepared={"name": "A", "date": "2026-01-02"}))
        again = read_findings(canonical(found))
        assert again == found
        assert digest_of(again) == digest_of(found)

    def test_another_version_is_refused(self):
        content = json.loads(canonical(findings_of(facts()))) | {"schema_version": 2}
        with pytest.raises(StoreError, match="schema version 2, this version reads 1"):
            read_findings(json.dumps(content))
        with pytest.raises(StoreError, match="JSON"):
            read_findings("{")

    def test_it_is_frozen_and_refuses_nan(self):
        found = findings_of(facts())
        with pytest.raises(ValidationError):
            found.headline = ()
        with pytest.raises(ValidationError):
            Findings.model_validate(
                found.model_dump() | {"decision": found.decision.model_dump() | {"limit": float("nan")}}
            )


class TestOrdinary:
    def test_works_are_judged_by_the_best_of_their_first_prompt(self):
        works = findings_of(facts()).ordinary.works
        assert [(w.work, w.seed, w.seeds_above, w.replicated) for w in works] == [
            ("w0", 0, 1, True), (HOSTILE, 1, 1, True), ("w2", 1, 0, False),
        ]  # fmt: skip
        assert works[0].median_score == pytest.approx(0.55)

    def test_a_second_prompt_of_a_work_does_not_decide(self):
        run = facts()
        extra = [dict(row, prompt_id="again", sscd_paired=0.99) for row in run.matches if row["work"] == "w2"]
        run.matches.extend(extra)
        work = next(w for w in findings_of(run).ordinary.works if w.work == "w2")
        assert (work.replicated, work.prompts) == (False, 2)

    def test_tables_that_do_not_belong_together_are_refused(self):
        run = facts()
        run.summary["works"]["replicated"] = 1
        with pytest.raises(StoreError, match=r"counts 2 of 3 .* summary.json 1 of 3"):
            findings_of(run)

    def test_images_and_works_are_counted_apart(self):
        one = findings_of(facts()).ordinary
        assert (one.rate.estimate, one.rate.n) == (pytest.approx(2 / 3), 3)
        assert (one.images.estimate, one.images.n) == (pytest.approx(2 / 6), 3)

    def test_excess_over_held_out_works(self):
        excess = findings_of(facts()).scope.controls.excess
        assert excess.estimate == pytest.approx(2 / 3)
        assert excess.lower < 2 / 3 < excess.upper

    def test_pairs_name_images_and_originals(self):
        pair = findings_of(facts()).evidence.pairs[0]
        assert (pair.work, pair.image, pair.original, pair.original_sha256) == (
            "w0",
            "images/p0/0.png",
            "0.png",
            "c" * 64,
        )


class TestWords:
    def test_zero_events_are_an_upper_bound_and_never_an_absence(self):
        found = findings_of(facts({"w0": (0.1, 0.2), "w1": (0.3, 0.1)}, verdict="inconclusive"))
        said = " ".join(found.headline)
        assert "None of the 2 tested works" in said
        assert "77.6\u00a0%" in said  # 1 - 0.05 ** (1 / 2)
        every = " ".join(texts(json.loads(canonical(found)))).lower()
        for claim in ("contains no copies", "no memorization", "is clean", "free of copies", "does not memorize"):
            assert claim not in every

    def test_without_an_attack_nothing_is_known_about_recovery(self):
        found = findings_of(facts())
        assert "may still lie in the weights" in found.attacked.sentences[0]
        assert any(row.what == "Recovery under attack" for row in found.integrity.not_measured)

    def test_an_attack_that_brings_nothing_back_has_a_bound(self):
        found = findings_of(facts(records=[attack(0, 0)]))
        assert "52.7\u00a0%" in found.attacked.sentences[1]  # 1 - 0.05 ** (1 / 4)
        assert not any(row.what == "Recovery under attack" for row in found.integrity.not_measured)

    def test_a_smoke_run_says_so(self):
        assert findings_of(facts()).identity.smoke_only is True

    def test_no_field_is_empty_for_want_of_knowledge(self):
        found = findings_of(facts())
        assert isinstance(found.auditor.client, Missing)
        assert found.auditor.client.state == "not given"
        assert found.scope.references.missing[0].why == "it is gone"
        assert found.ordinary.similarity["SSCD_Gen"].state == "not measured"


class TestAttacked:
    def test_works_come_first_and_passes_are_summed(self):
        one = findings_of(facts(records=[attack(0, 2)])).attacked.attacks[0]
        assert [a.name for a in one.arms] == ["works", "heldout"]
        assert (one.cost.forward, one.cost.backward, one.cost.seconds) == (80.0, 80.0, 3.0)
        assert one.arms[0].curve[1].passes == 100.0
        assert (one.radius[0].arm, one.radius[0].rate.estimate) == ("works", 0.25)
        assert one.access.startswith("white box")

    def test_one_that_was_judged_before_the_audit_was_scored_again_is_in_doubt(self):
        assert not attacked(facts(records=[attack(0, 2)])).attacks[0].flags
        record = attack(0, 2)
        record.data["verdict"]["threshold"] = 0.5
        arm = RecordFacts(id="attack-arm-0123456789ab", stage="attack-arm", name="dori", parameters={}, data={},
                          parents=("m", "other/native/1"))  # fmt: skip
        record.data["arms"] = {"works": arm.id}
        protocol = {"id": "abc", "n_seeds": 2, "descriptor": "d/native/0"}
        found = attacked(facts(records=[arm, record], protocol=protocol))
        assert found.attacks[0].flags[0].because == (
            "threshold 0.5 here, 0.7 in the audit; descriptor other/native/1 here, d/native/0 in the audit"
        )
        assert "dori was judged otherwise than the audit, so that the two cannot be compared." in found.sentences


class TestMitigated:
    def test_before_and_after_with_what_was_changed(self):
        found = findings_of(facts(before_after=COMPARED)).mitigated
        assert found.compared.mitigation.located_by.parameters == {"theta": 1}
        assert "3 of 3" in found.sentences[0]
        assert "0 of 3" in found.sentences[0]
        assert "upper bound, not an absence" in found.sentences[1]
        assert found.sentences[-1].startswith("Whether the copies are gone or only hidden was not tested")
        assert found.compared.not_measured[0].what == "KID"

    def test_the_subject_says_that_it_was_modified(self):
        found = findings_of(facts(before_after=COMPARED), AuditorFile(modification="Ours alone"))
        assert found.scope.subject.modification.startswith("zero-units applied to m")
        assert found.scope.subject.modification.endswith("Ours alone")


class TestAuditorFile:
    def read(self, tmp_path, text):
        path = tmp_path / "auditor.yaml"
        path.write_text(text)
        return read_auditor(path)

    def test_what_a_person_says_is_in_the_document(self, tmp_path):
        said = self.read(tmp_path, "name: A. Person\nlimit_set_by: the board\napproved: {name: B, date: 2026-02-03}\n")
        found = findings_of(facts(), said)
        assert (found.auditor.name, found.decision.set_by) == ("A. Person", "the board")
        assert (found.review.approved.name, found.review.approved.date) == ("B", "2026-02-03")
        assert found.identity.report != findings_of(facts()).identity.report

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("nmae: A", r"unknown key 'nmae'; did you mean name\?"),
            ("prepared: {nam: A, name: B}", r"unknown key 'prepared.nam'; did you mean name\?"),
            ("name: [A]", "key name: input should be a valid string"),
            ("prepared: {name: A, date: soon}", "key prepared.date"),
            ("- name", "got list"),
            ("name: {", "is not YAML"),
            ("name: !!python/object/apply:os.system [id]", "is not YAML"),
        ],
    )
    def test_a_mistake_is_one_sentence(self, tmp_path, text, told):
        with pytest.raises(InputError, match=told) as error:
            self.read(tmp_path, text)
        assert "\n" not in str(error.value)

    def test_an_empty_one_says_nothing(self, tmp_path):
        assert self.read(tmp_path, "") == AuditorFile()
        assert isinstance(self.read(tmp_path, "client: ' '").said("client"), Missing)

    def test_a_missing_or_huge_one_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_auditor(tmp_path / "no.yaml")
        with pytest.raises(InputError, match="larger than"):
            self.read(tmp_path, "name: " + "a" * 1_000_001)
