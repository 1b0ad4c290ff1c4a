"""``amnestic verify`` and ``amnestic sign`` on a run that an audit left."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from typer.testing import CliRunner

from amnestic import stages
from amnestic.cli import app
from amnestic.core.errors import InputError, StoreError
from amnestic.core.seal import SIGNATURE, SUMS, check, run_digest
from amnestic.core.signature import sign, signature_fits
from amnestic.core.store import Run
from amnestic.stages.sealing import seal_run

IMAGE = "images/w0/0.png"
PASSWORD = "a long one"


def amnestic(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return {}


@pytest.fixture
def run(request_of, kept, tmp_path):
    """A finished audit that a test may damage; drawn once."""
    if "run" not in kept:
        stages.audit(request_of)
        kept["run"] = shutil.copytree(request_of.out, tmp_path / "kept")
        return request_of.out
    return shutil.copytree(kept["run"], request_of.out)


def keys(folder, private=None, password=None):
    private = private or ec.generate_private_key(ec.SECP256R1())
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(private.private_bytes(serialization.Encoding.PEM, form, how))
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "key.pub").write_bytes(public)
    return folder / "key.pem", folder / "key.pub"


class TestVerify:
    def test_a_whole_run(self, run):
        done = amnestic("verify", run)
        assert done.exit_code == 0, done.output
        assert f"digest: {run_digest(run)}" in done.output
        assert "not signed" in done.output
        told = json.loads(amnestic("verify", run, "--json").output)
        assert told["whole"] is True
        assert told["differences"] == []
        assert told["files"] == len((run / SUMS).read_text().splitlines())

    def test_a_line_for_each_file_that_differs(self, run):
        (run / IMAGE).write_bytes((run / IMAGE).read_bytes() + b"x")
        (run / "matches.parquet").unlink()
        (run / "images" / "no\x1b[31mte\n").write_text("hostile name")
        done = amnestic("verify", run)
        assert done.exit_code == 3
        lines = ["images/no\\x1b[31mte\\n: added", f"{IMAGE}: changed", "matches.parquet: missing"]
        assert done.output.splitlines()[:3] == lines
        told = amnestic("verify", run, "--json")
        assert told.exit_code == 3
        found = {d["file"]: d["kind"] for d in json.loads(told.output)["differences"]}
        assert found == {"images/no\x1b[31mte\n": "added", IMAGE: "changed", "matches.parquet": "missing"}

    def test_a_changed_byte_of_the_manifest_is_a_change_not_a_mistake(self, run):
        content = (run / "manifest.json").read_bytes()
        (run / "manifest.json").write_bytes(b"?" + content[1:])
        done = amnestic("verify", run)
        assert done.exit_code == 3
        assert "manifest.json: changed" in done.output

    def test_a_digest_tells_a_seal_that_was_made_anew(self, run):
        told = run_digest(run)
        assert amnestic("verify", run, "--digest", told.upper()).exit_code == 0
        (run / IMAGE).write_bytes(b"forged")
        (run / SUMS).unlink()
        seal_run(Run.open(run))
        assert amnestic("verify", run).exit_code == 0
        done = amnestic("verify", run, "--digest", told)
        assert done.exit_code == 3
        assert f"{SUMS}: changed" in done.output

    @pytest.mark.parametrize("digest", ["abc", "z" * 64])
    def test_a_digest_that_is_none(self, run, digest):
        done = amnestic("verify", run, "--digest", digest)
        assert isinstance(done.exception, InputError)
        assert "64 hexadecimal digits" in str(done.exception)

    def test_folders_that_cannot_be_verified(self, run, tmp_path):
        def sentence(folder):
            done = amnestic("verify", folder)
            assert isinstance(done.exception, StoreError), done.output
            assert done.exception.exit_code == 2
            return str(done.exception)

        (tmp_path / "empty").mkdir()
        assert "holds no run" in sentence(tmp_path / "empty")
        assert "holds no run" in sentence(tmp_path / "nowhere")
        Run.open(run).event("start", stage="generate")
        assert "has not finished (1 more lines in events.jsonl)" in sentence(run)
        (run / SUMS).unlink()
        assert "was never sealed" in sentence(run)
        (run / "summary.json").unlink()
        assert "has not finished" in sentence(run)
        manifest = json.loads((run / "manifest.json").read_text()) | {"schema": 0}
        (run / "manifest.json").write_text(json.dumps(manifest))
        assert "was written with schema 0" in sentence(run)
        seal_run(Run(run))
        assert "was written with schema 0" in sentence(run)

    def test_in_a_process_of_its_own(self, run):
        (run / IMAGE).write_bytes(b"x")
        words = [sys.executable, "-m", "amnestic", "verify", str(run)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (3, f"{IMAGE}: changed", "")

    def test_it_loads_nothing_heavy(self, run):
        code = (
            "import sys; from amnestic.cli import app\n"
            f"try:\n    app(['verify', {str(run)!r}])\nexcept SystemExit as end:\n    assert end.code == 0\n"
            "assert not {'torch', 'diffusers', 'pyarrow'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class TestStages:
    def test_an_audit_that_is_issued_again_does_not_make_a_forged_image_right(self, run, request_of):
        shutil.copy(run / "images/w1/0.png", run / IMAGE)
        with pytest.raises(StoreError, match=rf"{IMAGE}: changed"):
            stages.audit(request_of)
        done = amnestic("verify", run)
        assert (done.exit_code, done.output.splitlines()[0]) == (3, f"{IMAGE}: changed")

    def test_an_image_that_is_deleted_is_drawn_and_sealed_again(self, run, request_of):
        before = (run / IMAGE).read_bytes()
        (run / IMAGE).unlink()
        stages.audit(request_of)
        assert (run / IMAGE).read_bytes() == before
        assert amnestic("verify", run).exit_code == 0

    @pytest.mark.parametrize("sealed_before", [False, True])
    def test_killed_between_writing_and_sealing(self, run, request_of, monkeypatch, sealed_before):
        if not sealed_before:
            (run / SUMS).unlink()
        with monkeypatch.context() as patched:
            patched.setattr(sys.modules["amnestic.stages.auditing"], "seal_run", _killed)
            with pytest.raises(KeyboardInterrupt):
                stages.audit(request_of)
        assert amnestic("verify", run).exit_code != 0
        stages.audit(request_of)
        assert amnestic("verify", run).exit_code == 0

    def test_a_record_that_was_damaged_and_deleted_is_made_and_sealed_again(self, run, request_of):
        name = Run.open(run).records("embed")[0]
        shutil.rmtree(run / "records" / name)
        stages.audit(request_of)
        assert amnestic("verify", run).exit_code == 0

    def test_a_run_that_an_audit_is_compared_with_stays_sealed(self, run, request_of, tmp_path):
        one = Run.open(run)
        one.drop(one.records("embed")[0])  # so that the second audit has to write into the first
        seal_run(one)
        after = replace(request_of, out=tmp_path / "after", before=run)
        stages.audit(after)
        assert Run.open(run).records("embed")
        for folder in (run, after.out):
            assert not check(folder).differences

    def test_provenance_is_in_the_manifest(self, run, request_of, tiny_pipeline):
        told = Run.open(run).manifest()["provenance"]
        assert "unet/config.json" in told["model"]["files"]
        assert told["command"].startswith("amnestic audit ")
        assert told["attention"] == ["AttnProcessor2_0"]
        assert (told["dtype"], told["device"]["type"], told["batch_size"], told["processes"]) == (
            "float32",
            "cpu",
            4,
            1,
        )
        assert str(tiny_pipeline) not in json.dumps(told)
        assert os.fspath(request_of.out) not in json.dumps(told)

    def test_a_run_that_is_continued_elsewhere_says_so(self, run, request_of, monkeypatch):
        from amnestic.stages import provenance as module

        there = module.provenance
        monkeypatch.setattr(module, "provenance", lambda device: there(device) | {"threads": 99})
        stages.audit(request_of)
        starts = [json.loads(x) for x in (run / "events.jsonl").read_text().splitlines() if '"start"' in x]
        assert "differs" not in starts[0]
        assert "threads was " in starts[-1]["differs"]
        assert "now 99" in starts[-1]["differs"]

    def test_a_manifest_that_tells_less_is_continued(self, run, request_of):
        content = json.loads((run / "manifest.json").read_text())
        content["provenance"] = {"utc": "2026-01-01T00:00:00+00:00", "python": "3.11", "packages": {"torch": "2.9"}}
        (run / "manifest.json").write_text(json.dumps(content))
        (run / SUMS).unlink()
        stages.audit(request_of)
        assert amnestic("verify", run).exit_code == 0


def _killed(*_names):
    raise KeyboardInterrupt


class TestSignature:
    def test_made_with_a_fresh_key_it_fits_until_something_changes(self, run, tmp_path):
        private, public = keys(tmp_path)
        done = amnestic("sign", run, "--key", private)
        assert done.exit_code == 0, done.output
        assert amnestic("verify", run).exit_code == 0, "the bundle itself is no evidence"
        done = amnestic("verify", run, "--public-key", public)
        assert (done.exit_code, "signature fits" in done.output) == (0, True)

        (run / IMAGE).write_bytes(b"forged")
        (run / SUMS).unlink()
        seal_run(Run.open(run))
        assert amnestic("verify", run).exit_code == 0, "a seal alone can be made anew"
        done = amnestic("verify", run, "--public-key", public)
        assert (done.exit_code, done.output.splitlines()[0]) == (3, f"{SIGNATURE}: changed")

    def test_another_key_does_not_fit(self, run, tmp_path):
        amnestic("sign", run, "--key", keys(tmp_path)[0])
        (tmp_path / "other").mkdir()
        assert not signature_fits(run, keys(tmp_path / "other")[1])

    def test_a_damaged_or_missing_bundle(self, run, tmp_path):
        private, public = keys(tmp_path)
        amnestic("sign", run, "--key", private)
        bundle = json.loads((run / SIGNATURE).read_text())
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = bundle["dsseEnvelope"]["signatures"][0]["sig"][::-1]
        for content in (json.dumps(bundle), "{}", "", "\xff", "[]"):
            (run / SIGNATURE).write_text(content, encoding="latin-1")
            assert amnestic("verify", run, "--public-key", public).exit_code == 3
        (run / SIGNATURE).unlink()
        done = amnestic("verify", run, "--public-key", public)
        assert (done.exit_code, done.output.splitlines()[0]) == (3, f"{SIGNATURE}: missing")

    def test_what_is_not_whole_is_not_signed(self, run, tmp_path):
        (run / IMAGE).write_bytes(b"x")
        done = amnestic("sign", run, "--key", keys(tmp_path)[0])
        assert isinstance(done.exception, StoreError)
        assert not (run / SIGNATURE).exists()

    def test_an_encrypted_key(self, run, tmp_path):
        private, public = keys(tmp_path, password=PASSWORD.encode())
        with pytest.raises(InputError, match="--ask-password"):
            sign(run, private)
        with pytest.raises(InputError, match="none that can be used"):
            sign(run, private, password="wrong")
        done = CliRunner().invoke(
            app, ["sign", str(run), "--key", str(private), "--ask-password"], input=PASSWORD + "\n"
        )
        assert done.exit_code == 0, done.output
        assert PASSWORD not in done.output
        assert signature_fits(run, public)

    def test_keys_that_cannot_be_used(self, run, tmp_path):
        private, public = keys(tmp_path, rsa.generate_private_key(public_exponent=65537, key_size=2048))
        (tmp_path / "text").write_text("no key")
        for file in (private, tmp_path / "text", tmp_path / "nowhere", tmp_path):
            with pytest.raises(InputError, match="expected an elliptic-curve key"):
                sign(run, file)
        for file in (public, tmp_path / "text", tmp_path / "nowhere"):
            with pytest.raises(InputError, match="expected the public half"):
                signature_fits(run, file)

    def test_without_the_extra_it_says_how_to_get_it(self, run, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "model_signing", None)
        done = amnestic("sign", run, "--key", keys(tmp_path)[0])
        assert isinstance(done.exception, InputError)
        assert "pip install 'amnestic[sign]'" in str(done.exception)
        assert amnestic("verify", run).exit_code == 0
