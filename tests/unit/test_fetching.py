"""Originals by address: what a hostile server can do, and that nothing of it is dropped silently."""

import gzip
import io
import json
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from amnestic.cli import app
from amnestic.core.errors import InputError, StoreError
from amnestic.sources import fetching_network
from amnestic.sources.fetching import Fetcher, Limits
from amnestic.sources.fetching_answers import checked
from amnestic.sources.fetching_network import FetchProblem, GuardedBackend, is_public
from amnestic.sources.prompts import read_prompts
from amnestic.sources.references import read_references
from amnestic.stages.fetching import FetchRequest, fetch, read_log

QUICK = Limits(connect_timeout=10, read_timeout=10, total_timeout=30, retries=1, allow_private=True)
HASTY = {"read_timeout": 0.4, "total_timeout": 1.2}


def picture(kind="PNG", seed=0, size=(24, 16)):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@cache
def gzip_bomb():
    return gzip.compress(b"\x89PNG\r\n\x1a\n" + b"\0" * 20_000_000)


@cache
def many_pixels():
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Answers by path; counts requests and remembers their headers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.headers, self.ended, self.sent = [], [], threading.Event(), 0

    def handle_error(self, *_):
        """A client that goes away is what these tests are about."""

    def at(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers))
        getattr(self, "on_" + self.path.strip("/").split("/")[0].split("?")[0].replace("-", "_"), self.on_missing)()

    def say(self, body=b"", code=200, **headers):
        self.send_response(code)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def on_missing(self):
        self.say(b"nothing here", 404)

    def on_png(self):
        self.say(picture("PNG"), content_type="image/png")

    def on_liar(self):
        self.say(picture("JPEG"), content_type="text/html")

    def on_webp(self):
        self.say(picture("WEBP"), content_type="image/webp")

    def on_html(self):
        self.say(b"<html><script>alert(1)</script></html>", content_type="image/png")

    def on_gif(self):
        self.say(picture("GIF"), content_type="image/png")

    def on_cut(self):
        self.say(picture("PNG", size=(200, 200))[:3000], content_type="image/png")

    def on_empty(self):
        self.say(b"")

    def on_circle(self):
        self.say(code=302, location="/circle")

    def on_deeper(self):
        self.say(code=302, location="/deeper/" + self.path.rsplit("/", 1)[-1] + "x")

    def on_moved(self):
        self.say(code=301, location="/png", set_cookie="track=1")

    def on_away(self):
        self.say(code=302, location=f"http://127.0.0.2:{self.server.server_port}/png")

    def on_file(self):
        self.say(code=302, location="file:///etc/passwd")

    def on_login(self):
        self.say(code=302, location="http://user:secret@127.0.0.1/png")

    def on_hang(self):
        self.server.ended.wait(10)

    def on_drip(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(picture("PNG")[:16])
        while not self.server.ended.wait(0.1):
            self.wfile.write(b"x")
            self.wfile.flush()

    def on_slow_header(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.ended.wait(0.1):
            self.wfile.write(b"x: y\r\n")
            self.wfile.flush()

    def on_endless(self):
        self.send_response(200)
        self.send_header("content-type", "image/png")
        self.end_headers()
        self.wfile.write(b"\x89PNG\r\n\x1a\n")
        for _ in range(10 * 1024):  # ten gigabytes, if anyone took them
            self.wfile.write(b"\0" * 1024 * 1024)
            self.server.sent += 1

    def on_huge(self):
        self.say(picture("PNG"), content_length=str(10 * 1024**3))

    def on_bomb(self):
        self.say(gzip_bomb(), content_encoding="gzip")

    def on_pixels(self):
        self.say(many_pixels())

    def on_busy(self):
        if self.server.asked.count(self.path) < 2:
            self.say(code=429, retry_after="0")
        else:
            self.on_png()

    def on_later(self):
        self.say(code=429, retry_after="3600")

    def on_down(self):
        self.say(code=503)

    def on_forbidden(self):
        self.say(code=403)

    def on_short(self):
        self.say(picture("PNG"), content_length="99999")


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.ended.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def get(server, tmp_path):
    def one(path, **changes):
        limits = Limits(**{f: getattr(QUICK, f) for f in Limits.__dataclass_fields__} | changes)
        return Fetcher(folder=tmp_path / "to", limits=limits).fetch(server.at(path) if path[0] == "/" else path)

    return one


def left_over(folder):
    return [f.name for f in folder.rglob("*") if f.is_file()] if folder.exists() else []


@pytest.mark.parametrize(("path", "kind", "ending"), [("/png", "png", "png"), ("/webp", "webp", "webp")])
def test_a_picture_is_kept_under_its_content(get, server, tmp_path, path, kind, ending):
    found = get(path)
    assert (found.status, found.reason, found.type) == ("ok", "", f"image/{kind}")
    assert found.file == f"images/{found.sha256}.{ending}"
    assert (tmp_path / "to" / found.file).read_bytes() == picture(kind.upper())
    assert (found.bytes, found.width, found.height) == (len(picture(kind.upper())), 24, 16)
    assert found.url == found.final_url == server.at(path)
    assert found.utc.startswith("20")


def test_the_type_follows_from_the_content_not_from_the_header(get):
    assert get("/liar").type == "image/jpeg"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nothing", "missing", "404"),
        ("/html", "wrong-type", "no PNG, JPEG or WebP (the server calls it 'image/png')"),
        ("/gif", "wrong-type", "no PNG, JPEG or WebP"),
        ("/empty", "wrong-type", "no PNG, JPEG or WebP"),
        ("/cut", "unreadable", "truncated"),
        ("/circle", "refused", "circle"),
        ("/deeper/x", "refused", "more than 5 times"),
        ("/file", "refused", "only http and https"),
        ("/login", "refused", "user name or password"),
        ("/forbidden", "refused", "403"),
        ("/hang", "timed-out", "no answer"),
        ("/drip", "timed-out", "longer than 1.2 s in all"),
        ("/slow-header", "timed-out", "longer than 1.2 s in all"),
        ("/huge", "too-large", "10737418240 bytes"),
        ("/bomb", "wrong-type", "compressed as 'gzip'"),
        ("/pixels", "too-large", "9000 x 9000"),
        ("/later", "unreachable", "asks to wait 3600 s"),
        ("/down", "unreachable", "503"),
        ("/short", "unreachable", "connection failed"),
        ("ftp://127.0.0.1/a.png", "refused", "only http and https"),
        ("http://me:pw@127.0.0.1/a.png", "refused", "user name or password"),
        ("http://", "refused", "no host"),
        ("http://[::1/a.png", "refused", "no valid address"),
        ("http://127.0.0.1:1/a.png", "unreachable", "connection failed"),
    ],
)
def test_every_failure_has_a_status_and_a_reason(get, tmp_path, path, status, words):
    started = time.monotonic()
    found = get(path, **(HASTY if status == "timed-out" else {}))
    assert (found.status, found.file, found.sha256) == (status, "", "")
    assert words in found.reason
    assert time.monotonic() - started < 10
    assert left_over(tmp_path / "to") == []


def test_ten_gigabytes_end_at_the_limit(get, server, tmp_path):
    found = get("/endless", max_bytes=3 * 1024 * 1024)
    assert found.status == "too-large"
    assert server.sent < 100
    assert left_over(tmp_path / "to") == []


def test_a_busy_server_is_asked_again_and_a_moved_picture_followed(get, server):
    assert get("/busy").status == "ok"
    assert server.asked == ["/busy", "/busy"]
    assert get("/moved").final_url == server.at("/png")


def test_neither_cookies_nor_credentials_nor_a_wish_for_compression_are_sent(get, server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert get("/moved").status == "ok"
    for headers in server.headers:
        names = {name.lower() for name in headers}
        assert not names & {"cookie", "authorization", "referer"}
        assert headers["Accept-Encoding"] == "identity"


def test_the_own_network_is_refused_unless_asked_for(get, server):
    found = get("/png", allow_private=False)
    assert (found.status, server.asked) == ("refused", [])
    assert "--allow-private" in found.reason


@pytest.mark.parametrize(
    "host", ["localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "0.0.0.0", "127.1"]
)
def test_no_spelling_of_the_own_machine_gets_through(get, server, host):
    found = get(f"http://{host}:{server.server_port}/png", allow_private=False)
    assert found.status in ("refused", "unreachable")
    assert server.asked == []


def test_a_redirect_into_the_own_network_is_refused(get, server, monkeypatch):
    monkeypatch.setattr(fetching_network, "is_public", lambda address: address == "127.0.0.1")
    assert get("/png", allow_private=False).status == "ok"
    found = get("/away", allow_private=False)
    assert found.status == "refused"
    assert "127.0.0.2" in found.reason


def test_the_connection_goes_to_the_address_that_was_checked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching_network, "is_public", lambda address: address == "127.0.0.1")
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    def changing(_host, _port):
        return answers.pop(0)

    fetcher = Fetcher(folder=tmp_path, limits=Limits(retries=0), resolve=changing)
    url = f"http://rebind.example:{server.server_port}/png"
    assert fetcher.fetch(url).status == "ok"
    assert len(answers) == 1  # one look-up for one connection
    assert fetcher.fetch(url).status == "refused"
    mixed = Fetcher(folder=tmp_path, resolve=lambda *_: ["10.0.0.1", "127.0.0.1"])
    assert mixed.fetch(url).status == "ok"  # the private one of two is passed over


def test_a_look_up_that_hangs_is_given_up(tmp_path):
    fetcher = Fetcher(folder=tmp_path, limits=Limits(connect_timeout=0.2), resolve=lambda *_: time.sleep(3) or [])
    assert fetcher.fetch("http://slow.example/a.png").status == "timed-out"


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:192.168.0.1", "fe80::1", "fec0::1", "fc00::1",
        "ff02::1", "2002:7f00:1::", "64:ff9b::a00:1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address):
    assert is_public(address)


def test_multicast_is_refused_even_when_private_addresses_are_allowed(get):
    for host in ("224.0.0.1", "[ff02::1]", "0.0.0.0"):
        assert get(f"http://{host}/a.png").status == "refused"


def test_an_address_keeps_no_fragment_and_needs_a_host():
    assert str(checked("https://example.org/a.png#b")) == "https://example.org/a.png"
    with pytest.raises(FetchProblem, match="scheme"):
        checked("javascript:alert(1)")


def test_a_backend_opens_no_unix_socket():
    backend = GuardedBackend(fetching_network.Deadline(1, threading.Event()), allow_private=True)
    with pytest.raises(NotImplementedError):
        backend.connect_unix_socket("/var/run/docker.sock")


def a_list(tmp_path, server, *paths):
    file = tmp_path / "list.jsonl"
    rows = [{"caption": f'work {i},\n"x"', "url": server.at(p) if p else ""} for i, p in enumerate(paths)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def test_a_list_becomes_one_of_files_and_failures_stay_in_it(server, tmp_path):
    listed = a_list(tmp_path, server, "/png", "/nothing", "/png?again", "", "/liar")
    found = fetch(FetchRequest(prompts=listed, out=tmp_path / "to", limits=QUICK))
    assert found.counts() == {s: {"ok": 3, "missing": 1}.get(s, 0) for s in found.counts()}
    before, after = read_prompts(listed, remote=True), read_prompts(found.prompts)
    assert [(p.id, p.prompt) for p in after] == [(p.id, p.prompt) for p in before]
    assert after[0].image == after[2].image  # one content, one file
    assert after[3].image == ""
    references = read_references(tmp_path / "to", extra=[p.image for p in after])
    assert references.counts() == {"ok": 2, "unreadable": 0, "missing": 1}
    lost = next(r for r in references.references if r.status == "missing")
    assert lost.id == after[1].image
    assert lost.id.startswith("not-fetched/missing-")


def test_the_same_command_fetches_only_what_is_missing(server, tmp_path):
    listed = a_list(tmp_path, server, "/png", "/nothing", "/webp")
    request = FetchRequest(prompts=listed, out=tmp_path / "to", limits=QUICK)
    first = fetch(request)
    (tmp_path / "to" / first.fetched[2].file).write_bytes(b"damaged")
    with (tmp_path / "to" / "fetched.jsonl").open("a") as log:
        log.write('{"url": "torn')
    server.asked.clear()
    again = fetch(request)
    assert sorted(server.asked) == ["/nothing", "/webp"]
    assert (first.before, again.before) == (0, 1)
    assert [one.status for one in again.fetched] == ["ok", "missing", "ok"]
    log = read_log(tmp_path / "to")
    assert {url.rsplit("/", 1)[-1]: one.status for url, one in log.items()} == {
        "png": "ok", "nothing": "missing", "webp": "ok"
    }  # fmt: skip


def test_a_folder_with_something_else_and_a_list_without_addresses_are_refused(server, tmp_path):
    listed = a_list(tmp_path, server, "/png")
    with pytest.raises(StoreError, match="not empty"):
        fetch(FetchRequest(prompts=listed, out=tmp_path, limits=QUICK))
    plain = tmp_path / "plain.csv"
    plain.write_text("prompt,image\na,b.png\n")
    with pytest.raises(InputError, match="names no address"):
        fetch(FetchRequest(prompts=plain, out=tmp_path / "to", limits=QUICK))
    with pytest.raises(InputError, match="--total-timeout 0"):
        fetch(FetchRequest(prompts=listed, out=tmp_path / "to", limits=Limits(total_timeout=0)))


def test_an_audit_says_to_fetch(tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("prompt,image\na red cat,https://example.org/cat.png\n")
    with pytest.raises(InputError, match=r"row 1: image 'https://example.org/cat.png' is an address.* amnestic fetch"):
        read_prompts(listed)


def test_the_command_tells_what_failed_and_what_to_do_next(server, tmp_path):
    listed = a_list(tmp_path, server, "/png", "/html")
    out = tmp_path / "to"
    result = CliRunner().invoke(app, ["fetch", str(listed), "--out", str(out), "--allow-private"])
    assert result.exit_code == 0, result.output
    assert "wrong-type" in result.output
    assert f"--prompts {out / 'prompts.csv'} --references {out}" in result.output
    refused = CliRunner().invoke(app, ["fetch", str(listed), "--out", str(tmp_path / "other")])
    assert refused.exit_code == 4
    assert "127.0.0.1 is no public address" in refused.output


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_server(server, tmp_path):
    (tmp_path / "images").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        Fetcher(folder=tmp_path, limits=QUICK).fetch(server.at("/png"))
    assert server.asked == ["/png"]
    assert not list(tmp_path.glob(".*.partial"))
