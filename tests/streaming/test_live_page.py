"""The server of the page about a stream: who is answered, what is told, and that no reader holds it up."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from recognition.common.command_line import InputError
from recognition.streaming import page as live_page
from recognition.streaming import page_server
from recognition.streaming.annotated_video import labelled
from recognition.streaming.answers import Answer
from recognition.streaming.event import Event
from recognition.streaming.page import CHART_S, LAPSE, MOST_EVENTS, THUMBNAIL_WIDTH, LivePage

PICTURE = np.full((48, 64, 3), 90, np.uint8)
NUMBERS = {"studied": 1234.0, "latency_median_ms": 85.23, "dropped_share": 0.125, "any words": np.nan}
PATHS = ("/", "/page.css", "/page.js", "/chart.js", "/news", "/pictures", "/then/0.jpg", "/absent")


@pytest.fixture
def page() -> Iterator[LivePage]:
    page = LivePage(0, "knn", "film.mp4", threshold=1.5, num_thumbnails=3)
    yield page
    page.close()


def port_of(page: LivePage) -> int:
    return int(page.address.rstrip("/").rpartition(":")[2])


def asked(page: LivePage, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    """The response to a request, its body not yet read."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(page), timeout=10)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


def connected(page: LivePage, request: str = "") -> socket.socket:
    """A reader that has sent a request, or nothing, and reads nothing."""
    reader = socket.create_connection(("127.0.0.1", port_of(page)))
    reader.sendall(request.encode())
    return reader


def next_news(response: http.client.HTTPResponse) -> dict:
    """The next that a server tells."""
    while True:
        line = response.readline().decode()
        assert line, "it has ended"
        if line.startswith("data: {"):
            return json.loads(line.removeprefix("data: "))


def next_picture(response: http.client.HTTPResponse) -> np.ndarray:
    """The next picture of a stream of them."""
    data = b""
    while not data.endswith(b"\r\n--picture\r\nContent-Type: image/jpeg\r\n\r\n") or b"\xff\xd9" not in data:
        line = response.readline()
        assert line, "it has ended"
        data += line
    start = data.index(b"\xff\xd8")
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data[start:], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def event(start_s: float, kind: str = "replay") -> Event:
    seen = (None, None) if kind == "resemblance" else (start_s - 100, start_s - 96)
    return Event(start_s, start_s + 4, kind, *seen, 100.0, 3.0, 2.0, 40, "film.mp4")


def threads_of_pages() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("page")]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "192.168.0.7", "a@localhost"]
)
def test_another_name_of_this_machine_is_refused_everywhere(page, path, host):
    page.show(PICTURE, Answer(0.0, 1.0, False), {})
    assert asked(page, path, Host=host).status == 403


def test_request_without_a_name_is_refused(page):
    reader = connected(page, "GET / HTTP/1.0\r\n\r\n")
    assert b" 403 " in reader.makefile("rb").readline()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8000"])
def test_page_is_reached_through_a_tunnel_too(page, host):
    assert asked(page, "/", Host=host).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "get"])
def test_nothing_but_get_is_answered(page, method):
    assert asked(page, "/", method).status == 501


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_forbids_what_is_not_its_own(page, path):
    page.show(PICTURE, Answer(0.0, 1.0, False), {})
    response = asked(page, path)
    policy = response.getheader("Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert response.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert response.status == (404 if path == "/absent" else 200)


@pytest.mark.parametrize(
    "path", ["/../page.py", "/%2e%2e/page.py", "//etc/passwd", "/then/../page.js", "/then/1e9.jpg"]
)
def test_no_other_file_is_served(page, path):
    assert asked(page, path).status == 404


def test_only_this_machine_is_listened_to(page):
    assert page.address.startswith("http://127.0.0.1:")
    assert page._server.socket.getsockname()[0] == "127.0.0.1"


def test_port_that_is_taken_is_told_in_one_line(page):
    with pytest.raises(
        InputError, match=rf"^--page {port_of(page)}: cannot listen there \(.*\); name another port, or 0"
    ):
        LivePage(port_of(page), "knn", "film.mp4", 0.0)
    with pytest.raises(InputError, match="--page 70000: cannot listen there"):
        LivePage(70_000, "knn", "film.mp4", 0.0)


def test_without_a_port_the_usual_one_is_taken_or_any_that_is_free(page, monkeypatch):
    monkeypatch.setattr(page_server, "USUAL_PORT", port_of(page))
    other = LivePage(None, "knn", "film.mp4", 0.0)
    assert port_of(other) != port_of(page)
    assert asked(other, "/").status == 200
    other.close()


def test_page_holds_all_that_its_scripts_look_for(page):
    html = asked(page, "/").read().decode()
    for script in ("/page.js", "/chart.js"):
        assert f'src="{script[1:]}"' in html
    assert "onerror=" not in html
    assert "<script>" not in html
    assert "style=" not in html


def test_picture_is_the_newest_with_its_bar(page):
    answer = Answer(200.0, 2.5, True, 67.0)
    page.show(PICTURE, Answer(199.9, 0.0, False), {})
    page.show(PICTURE, answer, {})
    found = next_picture(asked(page, "/pictures")).astype(int)
    assert np.abs(found - labelled(PICTURE, answer)).mean() < 2


def test_picture_comes_as_soon_as_there_is_one(page):
    response = asked(page, "/pictures")
    for grey in (40, 200):
        page.show(np.full_like(PICTURE, grey), Answer(grey / 10, 0.0, False), {})
        assert abs(next_picture(response)[180, 320].mean() - grey) < 3


def test_reader_that_comes_late_is_told_all_and_then_what_is_new(page):
    for k in range(5):
        page.show(PICTURE, Answer(k / 10, k - 2.0, k > 3, None, 0.5 + k / 10), NUMBERS)
    page.event(event(200.0), is_over=True)
    response = asked(page, "/news")
    news = next_news(response)
    assert (news["run"], news["source"], news["threshold"], news["said"]) == ("knn", "film.mp4", 1.5, "old 0.88")
    assert news["points"] == [[k / 10, k - 2.0, pytest.approx(0.5 + k / 10)] for k in range(5)]
    told = {"frames studied": "1,234", "latency, median": "85.2 ms", "dropped": "12.5%", "any words": "–"}
    assert dict(news["numbers"]) == told
    assert [row["words"] for row in news["events"]] == ["01:40 to 01:44 again"]
    page.show(PICTURE, Answer(0.5, 7.0, True), {})
    news = next_news(response)
    assert news["points"] == [[0.5, 7.0, None]]
    assert "run" not in news
    assert "events" not in news


def test_chart_and_list_are_bounded_however_long_the_stream_is(page):
    for k in range(9_000):
        page.show(PICTURE, Answer(k / 20, 0.0, False), {})
    for k in range(MOST_EVENTS + 7):
        page.event(event(10.0 * k), is_over=True)
    news = next_news(asked(page, "/news"))
    assert len(news["points"]) <= CHART_S * 20 + 1
    assert news["points"][0][0] == pytest.approx(8_999 / 20 - CHART_S, abs=0.06)
    assert len(news["events"]) == MOST_EVENTS
    assert news["num_events"] == MOST_EVENTS + 7
    for k in range(200):  # faster than any chart shows
        page.show(PICTURE, Answer(1000 + k / 1000, 0.0, False), {})
    assert len(next_news(asked(page, "/news"))["points"]) == 4


def test_event_goes_on_until_it_is_over(page):
    response = asked(page, "/news")
    assert next_news(response)["running"] is None
    page.event(event(200.0), is_over=False)
    assert next_news(response)["running"]["when"] == "03:20 to 03:24"
    page.event(event(200.0), is_over=True)
    news = next_news(response)
    assert news["running"] is None
    assert len(news["events"]) == 1


def test_event_that_was_too_short_goes_from_the_page(page, monkeypatch):
    monkeypatch.setattr(live_page, "LAPSE_S", 0.0)
    page.event(event(0.0), is_over=False)
    for k in range(LAPSE + 1):
        assert next_news(asked(page, "/news"))["running"]
        page.show(PICTURE, Answer(k / 10, 0.0, False), {})
    assert next_news(asked(page, "/news"))["running"] is None


def test_picture_of_then_is_kept_for_the_last_seconds_alone(page):
    for k in range(40):
        page.show(np.full((30, 40, 3), 6 * k, np.uint8), Answer(k / 10, 0.0, False), {})
    assert [second for second in range(5) if page.thumbnail(second)] == [1, 2, 3]
    page.show(PICTURE, Answer(3.95, 2.0, True, seen_s=2.4), {})
    news = next_news(asked(page, "/news"))
    assert (news["then"], news["then_time"]) == (2, "00:02")
    data = asked(page, "/then/2.jpg").read()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (120, THUMBNAIL_WIDTH, 3)
    assert abs(picture.mean() - 6 * 20) < 2
    assert asked(page, "/then/0.jpg").status == 404


def test_no_picture_of_then_is_kept_unless_it_is_asked_for():
    page = LivePage(0, "knn", "film.mp4", 0.0)
    for k in range(3):
        page.show(PICTURE, Answer(float(k), 2.0, True, seen_s=0.0), {})
    news = next_news(asked(page, "/news"))
    assert news["then"] is None
    assert news["has_thumbnails"] is False
    assert page.thumbnail(0) is None
    page.close()


def test_reader_that_never_reads_holds_up_nobody(page):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (360, 640, 3), np.uint8)  # much to send
    idle = [connected(page, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n") for path in ("/pictures", "/news")]
    reading = asked(page, "/pictures")

    def show() -> None:
        for k in range(2_000):
            page.show(noise, Answer(k / 10, 0.0, False), {"a long text " * 50: k})
        page.show(PICTURE, Answer(1_000.0, 0.0, False), {})

    showing = threading.Thread(target=show)
    showing.start()
    showing.join(20)
    assert not showing.is_alive()
    while abs(next_picture(reading)[180, 320].mean() - 90) > 3:
        pass
    assert len(idle) == 2


def test_closing_tells_readers_of_the_last_and_ends_all_threads():
    before = threads_of_pages()
    page = LivePage(0, "knn", "film.mp4", 0.0)
    page.show(PICTURE, Answer(0.0, 0.0, False), {})
    news, pictures = asked(page, "/news"), asked(page, "/pictures")
    others = [
        connected(page),
        connected(page, "GET /"),
        connected(page, "GET /pictures HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ]
    next_news(news)
    page.event(event(9.0), is_over=True)
    page.close()
    page.close()
    assert threads_of_pages() == before
    assert len(next_news(news)["events"]) == 1
    assert b"event: end\n" in news.read()
    assert pictures.read().count(b"\xff\xd8\xff") == 1
    for reader in others:
        reader.close()
    with pytest.raises(OSError, match="refused"):
        asked(page, "/")


def test_too_many_readers_are_turned_away_and_the_page_goes_on(page, monkeypatch):
    monkeypatch.setattr(page_server, "MOST_READERS", 3)
    page.show(PICTURE, Answer(0.0, 0.0, False), {})
    readers = [asked(page, "/news") for _ in range(3)]
    for reader in readers:
        next_news(reader)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        asked(page, "/")
    page.event(event(9.0), is_over=True)
    assert all(len(next_news(reader)["events"]) == 1 for reader in readers)


def test_what_one_says_may_be_anything_and_stays_json(page):
    hostile = "</script>\n\ndata: {}\r\n\u2028\ud800<img src=x onerror=alert(1)>"
    other = LivePage(0, hostile, hostile, 0.0)
    other.event(Event(0.0, 1.0, "resemblance", None, None, None, 1.0, 1.0, 3, hostile), is_over=True)
    other.show(PICTURE, Answer(0.0, 0.0, False), {hostile: 1})
    news = next_news(asked(other, "/news"))
    assert news["run"] == news["source"] == news["events"][0]["source"] == news["numbers"][0][0] == hostile
    other.close()
