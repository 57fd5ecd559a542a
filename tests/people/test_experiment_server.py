"""The server of a laboratory: serves the experiment alone, and keeps answers under names of its own."""

import http.client
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import command, refusal, run_here

from recognition.people.server import LARGEST_POST, Server

ROWS = [{"participant": "P1\n\x1b[31m", "episode": 0, "part": "test", "number": 0, "response": "1"}]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    folder = tmp_path / "experiment"
    (folder / "stimuli").mkdir(parents=True)
    (folder / "index.html").write_text("<!DOCTYPE html><html><head></head><body></body></html>")
    (folder / "timeline.js").write_text("const EXPERIMENT = {};")
    (folder / "stimuli/000.mp4").write_bytes(bytes(range(100)))
    (tmp_path / "experiment.key.json").write_text("secret")
    return folder


@pytest.fixture
def server(experiment: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), experiment, tmp_path / "data") as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: Server, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), answer.read()


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [("0-1", 0, 2), ("10-19", 10, 20), ("90-", 90, 100), ("-10", 90, 100), ("50-1000", 50, 100), ("-1000", 0, 100)],
)
def test_part_of_a_clip_is_sent_as_asked(server: Server, asked: str, first: int, end: int):
    status, headers, body = ask(server, "GET", "/stimuli/000.mp4", Range=f"bytes={asked}")
    assert (status, body) == (206, bytes(range(first, end)))
    assert headers["Content-Range"] == f"bytes {first}-{end - 1}/100"
    assert headers["Content-Type"] == "video/mp4"


@pytest.mark.parametrize("asked", ["100-", "20-10", "-0"])
def test_part_beyond_the_file_is_refused(server: Server, asked: str):
    status, headers, _ = ask(server, "GET", "/stimuli/000.mp4", Range=f"bytes={asked}")
    assert (status, headers["Content-Range"]) == (416, "bytes */100")


@pytest.mark.parametrize("asked", ["", "bytes=", "bytes=-", "bytes=0-1,4-5", "lines=0-1"])
def test_range_of_another_kind_gets_the_whole_clip(server: Server, asked: str):
    assert ask(server, "GET", "/stimuli/000.mp4", Range=asked)[::2] == (200, bytes(range(100)))


@pytest.mark.parametrize(
    "path",
    ["/experiment.key.json", "/../experiment.key.json", "/%2e%2e/experiment.key.json", "/stimuli/", "/data"],
)
def test_nothing_but_the_files_of_the_experiment_is_served(server: Server, path: str):
    status, _, body = ask(server, "GET", path)
    assert status == 404 or b"<!DOCTYPE html><html><head>\n" in body
    assert b"secret" not in body


def test_page_is_told_where_answers_go(server: Server):
    for path in ("/", "/index.html", "/?participant=1"):
        assert b'<head>\n  <meta name="save" content="answers">' in ask(server, "GET", path)[2]


def test_answers_become_a_file_with_our_own_name_and_a_line(server: Server, capfd: pytest.CaptureFixture):
    body = json.dumps(ROWS).encode()
    assert ask(server, "POST", "/answers", body, Origin=server.address.rstrip("/"))[0] == 200
    [path] = server.data.iterdir()
    assert path.read_bytes() == body
    assert capfd.readouterr().out.count("\n") == 1  # whatever the answers say


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/answers", b"[]", {}, 400),
        ("/answers", b"{}", {}, 400),
        ("/answers", b"[1]", {}, 400),
        ("/answers", b"not json", {}, 400),
        ("/answers", b"[" * 100_000, {}, 400),
        ("/answers", b"\xff", {}, 400),
        ("/answers", b"", {}, 413),
        ("/answers", b"[{}]", {"Content_Length": str(LARGEST_POST + 1)}, 413),
        ("/answers", b"[{}]", {"Content_Length": "-1"}, 413),
        ("/answers", b"[{}]", {"Content_Length": "many"}, 411),
        ("/answers", b"[{}]", {"Origin": "http://elsewhere.example"}, 403),
        ("/answers", b"[{}]", {"Origin": "null"}, 403),
        ("/", b"[{}]", {}, 404),
    ],
)
def test_what_is_no_session_leaves_no_file(server: Server, path: str, body: bytes, headers: dict, status: int):
    assert ask(server, "POST", path, body, **headers)[0] == status
    assert list(server.data.iterdir()) == []


def test_full_disk_is_told_to_the_page_and_to_the_laboratory(server: Server, capfd, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device", "data")

    monkeypatch.setattr(server, "save", refuse)
    assert ask(server, "POST", "/answers", json.dumps(ROWS).encode())[0] == 507
    assert "NOT SAVED" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing", "--data=data"), "nothing: has no index.html"),
        (("experiment", "--data=experiment/data"), "lies in the experiment"),
        (("experiment", "--data=data", "--host=203.0.113.1"), "cannot listen there"),
    ],
)
def test_wrong_place_is_refused_in_one_line(experiment: Path, words: tuple, said: str):
    result = run_here("recognition.participants", "serve", *words, "--port=0", cwd=experiment.parent)
    assert said in refusal(result)
    assert not (experiment / "data").exists()


def test_ctrl_c_ends_the_server_well(experiment: Path):
    words, environment = command("recognition.participants")
    process = subprocess.Popen(
        [*words, "serve", "experiment", "--data=data", "--port=0"],
        **{"cwd": experiment.parent, "env": environment, "text": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
    )
    address = process.stdout.readline().split()[3].rstrip(";")
    with urlopen(address) as page:
        assert b"answers" in page.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    assert "0 sessions were saved in data" in out
