"""The seal of a run: every change is seen, and no later stage makes a change right."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amnestic.core.errors import StoreError
from amnestic.core.records import Keep, MethodSpec, Unit
from amnestic.core.seal import (
    SIGNATURE,
    SUMS,
    Difference,
    Kind,
    check,
    listing,
    printable,
    run_digest,
    seal,
    sealed,
)
from amnestic.core.store import Record, Run, write_atomically, write_json
from amnestic.core.sums import read_sums, sums_text
from amnestic.stages.sealing import seal_again, seal_run

IMAGE = "images/w0/0.png"
NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)


def new_run(folder):
    """A small run, as an audit leaves it, sealed."""
    run = Run.start(folder, {"stage": "audit", "seeds": [0]})
    run.event("start", stage="generate")
    write_atomically(run.image_file(Unit("w0", 0)), b"\x89PNG an image")
    write_atomically(run.image_file(Unit("w1", 0)), b"\x89PNG another")
    run.write_table("matches", [{"prompt_id": "w0", "score": 0.5}])
    run.save(record("score"))
    write_json(folder / "summary.json", {"verdict": "none"})
    write_atomically(folder / "report.html", "<html>")
    run.event("done")
    seal_run(run, "summary.json", "report.html")
    return run


def record(stage, value=1):
    return Record(
        stage=stage, made_by=MethodSpec(name="m"), parents=("p",), data={"value": value},
        tensors={"x": torch.tensor([float(value)])},
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    return new_run(tmp_path / "run")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return new_run(tmp_path_factory.mktemp("shared") / "run").folder


def differences(run):
    return {d.name: str(d.kind) for d in check(run.folder).differences}


def whole(run):
    found = check(run.folder)
    return not found.differences and not found.log_lines


class TestWhatIsSealed:
    def test_every_file_that_is_evidence(self, run):
        names = {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*") if p.is_file()}
        assert set(sealed(run.folder)) == names - {SUMS}
        assert {"manifest.json", "events.jsonl", "matches.parquet", IMAGE, "summary.json", "report.html"} < names
        assert whole(run)

    def test_what_is_left_out(self, run):
        for name in (".report.html.12.partial", "images/.DS_Store", "training/finetune-1/training.safetensors"):
            (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (run.folder / name).write_text("x")
        for inside in ("pruned/model/model_index.json", "pruned/audit/manifest.json", "pruned/audit/images/a/0.png"):
            (run.folder / inside).parent.mkdir(parents=True, exist_ok=True)
            (run.folder / inside).write_text("{}")
        (run.folder / SIGNATURE).write_text("{}")
        assert whole(run)
        assert check(run.folder).left_out == ("pruned/audit", "pruned/model")

    def test_what_was_sealed_cannot_be_hidden_in_a_folder_that_stands_for_itself(self, run):
        (run.folder / "images" / "manifest.json").write_text("{}")
        assert differences(run) == {IMAGE: "missing", "images/w1/0.png": "missing"}

    def test_order_and_digest_are_those_of_coreutils(self, run):
        content = (run.folder / SUMS).read_bytes()
        names = [row[66:] for row in content.splitlines()]
        assert names == sorted(names)
        assert run_digest(run.folder) == hashlib.sha256(content).hexdigest() == check(run.folder).digest

    def test_sealing_again_changes_nothing(self, run):
        before = run_digest(run.folder), (run.folder / "events.jsonl").read_bytes()
        seal_run(Run.open(run.folder))
        assert before == (run_digest(run.folder), (run.folder / "events.jsonl").read_bytes())

    @pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no coreutils")
    def test_coreutils_agrees(self, run):
        for name in ("back\\slash", "new\nline", "größe", " leading"):
            (run.folder / name).write_text(name)
        seal(run.folder)

        def asked():
            return subprocess.run(
                ["sha256sum", "--strict", "-c", SUMS], cwd=run.folder, capture_output=True, text=True, check=False
            )

        done = asked()
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(": OK") == check(run.folder).files == len(listing(run.folder).files)
        (run.folder / IMAGE).write_bytes(b"other")
        assert asked().returncode == 1


class TestWhatIsSeen:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_every_single_byte(self, shared, data):
        files = sorted(p for p in shared.rglob("*") if p.is_file())
        file = data.draw(st.sampled_from(files))
        content = file.read_bytes()
        place = data.draw(st.integers(0, len(content) - 1))
        changed = bytes([data.draw(st.integers(1, 255)) ^ content[place]])
        try:
            file.write_bytes(content[:place] + changed + content[place + 1 :])
            named = {d.name for d in check(shared).differences}
        finally:
            file.write_bytes(content)
        assert named == {file.relative_to(shared).as_posix()} or (file.name == SUMS and named)
        assert not check(shared).differences

    def test_every_byte_of_the_smallest_files(self, run):
        for name in (IMAGE, "report.html", SUMS):
            file = run.folder / name
            content = file.read_bytes()
            for place in range(len(content)):
                file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
                assert check(run.folder).differences, (name, place)
            for other in (content[:-1], content + b"\n", b""):
                file.write_bytes(other)
                assert check(run.folder).differences, (name, other)
            file.write_bytes(content)
        assert whole(run)

    def test_added_and_removed_files(self, run):
        (run.folder / "images/w0/1.png").write_bytes(b"one more")
        (run.folder / "matches.parquet").unlink()
        assert differences(run) == {"images/w0/1.png": "added", "matches.parquet": "missing"}

    def test_a_file_swapped_for_a_link_to_the_same_bytes(self, run, tmp_path):
        shutil.copy(run.folder / IMAGE, tmp_path / "same.png")
        (run.folder / IMAGE).unlink()
        (run.folder / IMAGE).symlink_to(tmp_path / "same.png")
        assert differences(run) == {IMAGE: "no plain file"}
        with pytest.raises(StoreError, match=r"images/w0/0\.png: no plain file"):
            seal_run(Run.open(run.folder))
        assert differences(run) == {IMAGE: "no plain file"}

    def test_a_folder_swapped_for_a_link(self, run, tmp_path):
        shutil.move(run.folder / "images", tmp_path / "elsewhere")
        (run.folder / "images").symlink_to(tmp_path / "elsewhere")
        assert differences(run) == {"images": "no plain file", IMAGE: "missing", "images/w1/0.png": "missing"}

    def test_a_pipe_is_not_waited_for(self, run):
        os.mkfifo(run.folder / "images/w0/2.png")
        assert differences(run) == {"images/w0/2.png": "no plain file"}

    def test_a_seal_that_is_a_pipe_is_not_waited_for(self, run):
        (run.folder / SUMS).unlink()
        os.mkfifo(run.folder / SUMS)
        assert differences(run) == {SUMS: "changed"}
        with pytest.raises(StoreError, match="put the sealed file back"):
            seal_run(Run.open(run.folder))

    @pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a//b", "./a"])
    def test_sums_that_name_files_outside_are_damaged(self, run, name):
        text = sums_text(sealed(run.folder) | {name: "0" * 64})
        (run.folder / SUMS).write_bytes(text)
        assert differences(run) == {SUMS: "changed"}

    def test_an_edited_seal_is_never_renewed(self, run):
        text = (run.folder / SUMS).read_text()
        (run.folder / SUMS).write_text("# a comment\n" + text)
        assert differences(run) == {SUMS: "changed"}
        with pytest.raises(StoreError, match="put the sealed file back"):
            seal_run(Run.open(run.folder))

    @pytest.mark.parametrize(("gone", "sentence"), [(False, "was never sealed"), (True, "has not finished")])
    def test_without_a_seal(self, run, gone, sentence):
        (run.folder / SUMS).unlink()
        if gone:
            (run.folder / "summary.json").unlink()
        with pytest.raises(StoreError, match=sentence):
            check(run.folder)


class TestTheLog:
    def test_it_may_grow_and_that_is_told(self, run):
        run.event("start", stage="generate")
        run.event("batch size", images=2)
        found = check(run.folder)
        assert (found.differences, found.log_lines) == ((), 2)
        seal_run(Run.open(run.folder))
        assert whole(run)

    def test_what_was_there_must_stay(self, run):
        log = run.folder / "events.jsonl"
        log.write_text(log.read_text().replace("generate", "generatX"))
        run.event("start")
        assert differences(run) == {"events.jsonl": "changed"}
        with pytest.raises(StoreError, match=r"events\.jsonl: changed"):
            seal_run(Run.open(run.folder))
        assert differences(run) == {"events.jsonl": "changed"}

    def test_a_line_cut_off_at_its_end_is_a_change(self, run):
        log = run.folder / "events.jsonl"
        log.write_bytes(log.read_bytes()[:-1])
        assert differences(run) == {"events.jsonl": "changed"}


class TestSealingAgain:
    def test_a_tampered_image_stays_tampered(self, run):
        (run.folder / IMAGE).write_bytes(b"not the image")
        later = Run.open(run.folder)
        later.save(record("locate"))
        write_json(run.folder / "summary.json", {"verdict": "fail"})
        with pytest.raises(StoreError, match=r"images/w0/0\.png: changed\), and no command of amnestic did that"):
            seal_run(later, "summary.json")
        assert differences(run) == {IMAGE: "changed"}, "what the stage made is sealed, the image is not"
        (run.folder / IMAGE).write_bytes(b"\x89PNG an image")
        assert whole(run)

    def test_a_file_that_is_gone_stays_missing(self, run):
        (run.folder / IMAGE).unlink()
        with pytest.raises(StoreError, match=r"images/w0/0\.png: missing"):
            seal_run(Run.open(run.folder))
        assert differences(run) == {IMAGE: "missing"}

    def test_what_a_stage_rewrites_is_taken(self, run):
        later = Run.open(run.folder)
        later.write_table("matches", [{"prompt_id": "w0", "score": 0.6}])
        later.save(record("score", value=2))
        write_json(run.folder / "summary.json", {"verdict": "pass"})
        seal_run(later, "summary.json")
        assert whole(run)

    def test_what_a_stage_did_not_name_is_not_taken(self, run):
        write_json(run.folder / "summary.json", {"verdict": "pass"})
        with pytest.raises(StoreError, match=r"summary\.json: changed"):
            seal_run(Run.open(run.folder), "report.html")

    def test_what_a_stage_drops_is_forgotten(self, run):
        later = Run.open(run.folder)
        later.drop(record("score").id)
        seal_run(later)
        assert whole(run)
        assert not [name for name in sealed(run.folder) if name.startswith("records/")]

    def test_an_image_that_is_drawn_again_is_taken(self, run):
        later, units = Run.open(run.folder), [Unit("w0", 0), Unit("w1", 0)]
        (run.folder / IMAGE).unlink()
        later.claim(units)
        write_atomically(run.folder / IMAGE, b"drawn on another device")
        seal_run(later)
        assert whole(run)
        (run.folder / "images/w1/0.png").write_bytes(b"was there, so nobody drew it")
        with pytest.raises(StoreError, match=r"images/w1/0\.png"):
            seal_run(later)

    def test_only_what_is_kept_is_claimed(self, run):
        later = Run.open(run.folder)
        later.claim([Unit("w9", 0)], Keep.LATENTS)
        assert later.written == {"images/w9/0.safetensors"}

    def test_what_an_interrupted_command_left_is_sealed_and_named(self, run):
        Run.open(run.folder).save(record("locate"))
        assert set(differences(run).values()) == {"added"}
        seal_run(Run.open(run.folder))
        assert whole(run)
        log = (run.folder / "events.jsonl").read_text().splitlines()[-1]
        assert '"event": "found"' in log
        assert f"records/{record('locate').id}/record.json" in log

    def test_a_run_that_was_only_read_is_not_sealed_by_the_way(self, run):
        (run.folder / SUMS).unlink()
        seal_again(Run.open(run.folder))
        assert not (run.folder / SUMS).exists()


class TestSpelling:
    @settings(max_examples=200, deadline=None)
    @given(st.dictionaries(NAMES, st.binary(max_size=8).map(lambda b: hashlib.sha256(b).hexdigest()), max_size=5))
    def test_sums_come_back_whatever_files_are_called(self, sums):
        assert read_sums(sums_text(sums)) == sums

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=90))
    def test_each_set_has_one_spelling(self, content):
        found = read_sums(content)
        assert found is None or sums_text(found) == content

    def test_names_that_are_no_text(self):
        name = os.fsdecode(b"\xff\xfe.png")
        assert read_sums(sums_text({name: "0" * 64})) == {name: "0" * 64}
        assert "\\udcff" in str(Difference(name=name, kind=Kind.ADDED))

    @given(st.text(max_size=30))
    def test_a_line_is_one_line_without_escapes_of_a_terminal(self, name):
        assert printable(name).isprintable()


def test_the_run_itself_may_be_a_link(run, tmp_path):
    link = Path(tmp_path / "link")
    link.symlink_to(run.folder)
    assert not check(link).differences
