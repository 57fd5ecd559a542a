"""Downloading: with a fake in yt-dlp's place, with yt-dlp itself against a local server, and as a user runs it."""

import contextlib
import csv
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import yt_dlp
from conftest import ROOT, run_script
from yt_dlp.utils import DownloadError

from recognition.common.files import sha256
from recognition.films import download as download_module
from recognition.films import video
from recognition.films.download import Failure, YtDlp, advice, classify, download, examine, format_selector
from recognition.films.manifest import Film, Manifest

IDS = [f"film-numb-{k}" for k in range(6)]


def write_film(path: Path, seed: int = 0, codec: str = "libx264", **options: str) -> Path:
    """4 s of noise, its index in front, so that a file cut short still opens and plays."""
    frames = np.random.default_rng(seed).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart", **options}) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def film_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("films") / "film.mp4")


class Site(ThreadingHTTPServer):
    """Serves one film at every address: /whole as it is, the other names with something wrong."""

    def __init__(self, film: bytes):
        super().__init__(("127.0.0.1", 0), Page)
        self.film, self.released = film, threading.Event()
        self.requests, self.cookies = Counter(), set()

    def film_list(self, path: Path, *pages: str) -> Path:
        rows = [f"{IDS[k]},http://127.0.0.1:{self.server_port}/{page}/{k}.mp4,NA" for k, page in enumerate(pages)]
        path.write_text("\n".join(["video_id,video_url,title", *rows, ""]))
        return path


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        self.server.cookies.add(self.headers["Cookie"])
        page, film = self.path.split("/")[1], self.server.film
        status = {"missing": 404, "limited": 429, "broken": 503}.get(page, 200)
        body = film if status == 200 and "text" not in page else b"<html>Nothing to see here.</html>"
        self.send_response(status)
        self.send_header("Content-Type", "video/mp4" if status == 200 and page != "text" else "text/html")
        if page != "unmeasured":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:half])
            if page == "slow":
                self.server.released.wait(20)
            if page not in ("truncated", "unmeasured"):
                self.wfile.write(body[half:])

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def site(film_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site(film_file.read_bytes()) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "download_videos.py"), *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_script("download_videos.py", *arguments, cwd=Path.cwd(), timeout=60)


def films_of(num: int) -> list[Film]:
    return [Film(video_id, f"https://example.org/{video_id}", f"Title, {video_id}") for video_id in IDS[:num]]


def fetch_all(folder: Path, films: list[Film], fetch, num_workers: int = 1) -> dict[str, dict[str, str]]:
    rows = list(download(films, Manifest(folder, films), fetch, num_workers, sleep_s=0))
    assert sorted(row["video_id"] for row in rows) == sorted(film.video_id for film in films)
    return {row["video_id"]: row for row in rows}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class FakeFetch:
    """Writes the film, or raises what `errors` holds for it; counts what it was asked for."""

    def __init__(self, film: Path, **errors: str | Exception):
        self.film, self.errors, self.asked = film, errors, []

    def __call__(self, film: Film, folder: Path) -> Path:
        self.asked.append(film.video_id)
        error = self.errors.get(f"at{IDS.index(film.video_id)}")
        if error:
            raise error if isinstance(error, Exception) else DownloadError(f"ERROR: [youtube] {film.video_id}: {error}")
        path = folder / "film.mp4"
        path.write_bytes(self.film.read_bytes())
        return path


# What YouTube and yt-dlp say, word for word.
LIMITED = "Video unavailable. This content isn't available, try again later. The current session has been rate-limited"
BOT = "Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies for the authentication"
PRIVATE = "Private video. Sign in if you've been granted access to this video"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (PRIVATE, "private"),
        ("Video unavailable. This video is private", "private"),
        ("Join this channel to get access to members-only content like this video", "private"),
        ("Video unavailable. This video has been removed by the uploader", "removed"),
        ("This video is no longer available because the YouTube account associated has been terminated.", "removed"),
        ("Video unavailable", "removed"),
        ("Sign in to confirm your age. This video may be inappropriate for some users.", "age"),
        (BOT, "bot check"),
        ("Video unavailable. YouTube is requiring a captcha challenge before playback", "bot check"),
        (LIMITED, "rate limit"),
        ("Unable to download API page: HTTP Error 429: Too Many Requests", "rate limit"),
        ("Unable to download webpage: The read operation timed out", "network"),
        ("Unable to download webpage: [Errno -3] Temporary failure in name resolution", "network"),
        ("Unable to download webpage: [Errno 111] Connection refused", "network"),
        ("[download] Got error: 2048 bytes read, 4096 more expected. Giving up after 3 retries", "network"),
        ("unable to download video data: HTTP Error 503: Service Unavailable", "network"),
        (
            "Unable to download API page: ('Unable to connect to proxy', OSError('Tunnel connection failed: 403'))",
            "network",
        ),
        ("Unable to download webpage: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "network"),
        ("Requested format is not available. Use --list-formats for a list of available formats", "format"),
        ("This video is DRM protected", "format"),
        ("The uploader has not made this video available in your country", "other"),
        ("unable to download video data: HTTP Error 403: Forbidden", "other"),
        ("Premieres in 3 hours", "other"),
    ],
)
def test_reason_class_follows_from_what_the_site_says(message: str, reason: str):
    trimmings = " (caused by <HTTPError>); please report this issue on  https://github.com/yt-dlp/yt-dlp/issues"
    assert classify(DownloadError(f"ERROR: [youtube] DRM-Bqr4-_Y: {message}{trimmings}")) == (reason, message)


def test_manifest_has_one_row_for_every_film_in_the_order_of_the_list(tmp_path, film_file):
    fetch_all(tmp_path, films_of(4), FakeFetch(film_file, at1=PRIVATE, at2=RuntimeError("odd")), num_workers=2)
    with open(tmp_path / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video_id"], row["status"], row["reason"]) for row in rows] == [
        (IDS[0], "done", ""),
        (IDS[1], "failed", "private"),
        (IDS[2], "failed", "other"),
        (IDS[3], "done", ""),
    ]
    assert rows[0]["file"] == f"{IDS[0]}.mp4"
    assert rows[0]["size_bytes"] == str(film_file.stat().st_size)
    assert rows[0]["sha256"] == sha256(film_file)
    assert rows[0]["duration_s"] == "4.000"
    assert rows[1]["message"] == PRIVATE
    assert set(contents(tmp_path)) == {"manifest.csv", f"{IDS[0]}.mp4", f"{IDS[3]}.mp4"}


def test_rerun_tries_only_what_is_not_done(tmp_path, film_file):
    fetch_all(tmp_path, films_of(4), FakeFetch(film_file, at1=PRIVATE))
    (tmp_path / f"{IDS[2]}.mp4").unlink()
    (tmp_path / f"{IDS[3]}.mp4").write_bytes(film_file.read_bytes()[:-1])
    rerun = FakeFetch(film_file)
    rows = fetch_all(tmp_path, films_of(4), rerun)
    assert rerun.asked == IDS[1:4]
    assert {row["status"] for row in rows.values()} == {"done"}


def test_shorter_list_keeps_the_rows_of_the_longer_one(tmp_path, film_file):
    fetch_all(tmp_path, films_of(3), FakeFetch(film_file))
    before = contents(tmp_path)
    fetch_all(tmp_path, films_of(1), FakeFetch(film_file))
    assert contents(tmp_path) == before


def test_whole_film_without_a_row_is_entered_and_a_cut_one_is_fetched(tmp_path, film_file):
    (tmp_path / f"{IDS[0]}.mp4").write_bytes(film_file.read_bytes())
    (tmp_path / f"{IDS[1]}.mp4").write_bytes(film_file.read_bytes()[:-2000])
    fetch = FakeFetch(film_file)
    rows = fetch_all(tmp_path, films_of(2), fetch)
    assert fetch.asked == [IDS[1]]
    assert [rows[video_id]["sha256"] for video_id in IDS[:2]] == [sha256(film_file)] * 2


@pytest.mark.parametrize("error", [LIMITED, BOT, OSError(28, "No space left on device")])
def test_what_every_film_would_meet_stops_the_queue_with_advice(tmp_path, film_file, error):
    fetch = FakeFetch(film_file, at1=error)
    rows = fetch_all(tmp_path, films_of(5), fetch)
    assert fetch.asked == IDS[:2]
    assert [rows[video_id]["status"] for video_id in IDS[:5]] == ["done", "failed", "skipped", "skipped", "skipped"]
    assert "run the same command again" in advice(rows[IDS[1]])
    assert [row["status"] for row in fetch_all(tmp_path, films_of(5), FakeFetch(film_file)).values()] == ["done"] * 5


NO_NETWORK = (
    "Unable to download webpage: [Errno -3] Temporary failure in name resolution",
    "Unable to download API page: ('Unable to connect to proxy', OSError('Tunnel connection failed: 407'))",
    "Unable to download webpage: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
    "Unable to download webpage: The read operation timed out",
)


@pytest.mark.parametrize("error", NO_NETWORK)
def test_network_that_lets_nothing_through_stops_the_queue_with_advice(tmp_path, film_file, error):
    fetch = FakeFetch(film_file, **{f"at{k}": error for k in range(6)})
    rows = fetch_all(tmp_path, films_of(6), fetch)
    assert fetch.asked == IDS[:3]
    assert [rows[video_id]["status"] for video_id in IDS] == ["failed"] * 3 + ["skipped"] * 3
    assert "run the same command again" in advice(rows[IDS[5]])
    assert [row["status"] for row in fetch_all(tmp_path, films_of(6), FakeFetch(film_file)).values()] == ["done"] * 6


def test_network_that_is_lost_on_the_way_stops_the_queue_later(tmp_path, film_file, monkeypatch):
    monkeypatch.setattr(download_module, "PATIENCE_LATER", 4)
    fetch = FakeFetch(film_file, **{f"at{k}": NO_NETWORK[3] for k in range(1, 6)})
    rows = fetch_all(tmp_path, films_of(6), fetch)
    assert [rows[video_id]["status"] for video_id in IDS] == ["done", *["failed"] * 4, "skipped"]


def test_failures_of_single_films_do_not_stop_the_queue(tmp_path, film_file):
    lost, gone = NO_NETWORK[0], "Video unavailable"
    fetch = FakeFetch(film_file, at0=lost, at1=lost, at2=gone, at3=lost, at4=gone)
    rows = fetch_all(tmp_path, films_of(6), fetch)
    assert [rows[video_id]["status"] for video_id in IDS] == ["failed"] * 5 + ["done"]
    assert {advice(row) for row in rows.values()} == {None}


def test_two_workers_fetch_at_the_same_time(tmp_path, film_file):
    both = threading.Barrier(2, timeout=10)

    def fetch(film: Film, folder: Path) -> Path:
        both.wait()
        return FakeFetch(film_file)(film, folder)

    rows = fetch_all(tmp_path, films_of(4), fetch, num_workers=2)
    assert {row["status"] for row in rows.values()} == {"done"}


@pytest.mark.parametrize("movflags", ["faststart", "dash+frag_keyframe+global_sidx"])
def test_film_cut_short_anywhere_is_not_taken_for_a_film(tmp_path, movflags):
    film = write_film(tmp_path / "film.mp4", movflags=movflags)
    whole = film.read_bytes()
    assert examine(film) == (".mp4", pytest.approx(4.0))
    for share in (0.0, 0.1, 0.5, 0.9, 0.99):
        film.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(Failure):
            examine(film)


def test_whatever_a_library_raises_over_a_file_it_is_not_taken_for_a_film(tmp_path, film_file, monkeypatch):
    def fails(*_):
        raise ValueError("an odd file")

    monkeypatch.setattr(video, "picture_stream", fails)
    with pytest.raises(Failure, match="ValueError: an odd file"):
        examine(film_file)


def test_film_is_named_after_the_container_it_is_in(tmp_path):
    film = write_film(tmp_path / "film.webm", codec="libvpx").rename(tmp_path / "film.mp4")
    assert examine(film) == (".webm", pytest.approx(4.0))


def test_sound_with_a_cover_picture_is_not_taken_for_a_film(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("aac", rate=8000, layout="mono"), container.add_stream("mjpeg")
        cover.width = cover.height = 64
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic.value
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        noise.rate = 8000
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8)).reformat(format="yuvj420p")
        for stream, frame in ((sound, noise), (cover, picture)):
            container.mux([*stream.encode(frame), *stream.encode()])
    with av.open(str(path)) as container:
        assert {stream.type for stream in container.streams} == {"audio", "video"}
    with pytest.raises(Failure, match="holds no video stream") as failure:
        examine(path)
    assert classify(failure.value)[0] == "format"


@pytest.mark.parametrize(("max_height", "chosen"), [(360, "h264-360"), (480, "h264-480"), (240, "h264-144")])
def test_largest_h264_file_that_fits_is_chosen(max_height, chosen):
    def entry(name: str, height: int, ext: str, vcodec: str, protocol: str = "https") -> dict:
        video = {"format_id": f"{name}-{height}", "height": height, "width": height * 16 // 9, "vcodec": vcodec}
        return video | {"ext": ext, "acodec": "none", "protocol": protocol, "url": "https://example.org/film"}

    formats = [entry("h264", height, "mp4", "avc1.4d401e") for height in (144, 360, 480, 720)]
    formats += [entry("vp9", height, "webm", "vp9") for height in (240, 360)]
    formats += [entry("av1", height, "mp4", "av01.0.01M.08") for height in (240, 360)]
    formats += [entry("hls", 360, "mp4", "avc1.4d401e", "m3u8_native")]
    with yt_dlp.YoutubeDL({"quiet": True, "format": format_selector(max_height)}) as downloader:
        page = {"id": "film", "title": "Film", "formats": formats, "extractor": "test", "webpage_url": "https://x"}
        assert downloader.process_ie_result(page, download=False)["format_id"] == chosen


def test_missing_javascript_runtime_is_named_in_the_message(tmp_path, monkeypatch):
    class Downloader(contextlib.nullcontext):
        def download(self, _) -> None:
            self.enter_result["logger"].warning("[youtube] No supported JavaScript runtime could be found.")
            raise DownloadError("ERROR: [youtube] abc: Requested format is not available.")

    Downloader.__enter__ = lambda self: self
    monkeypatch.setattr(yt_dlp, "YoutubeDL", Downloader)
    with pytest.raises(Failure, match="install Deno"):
        YtDlp(max_height=360)(films_of(1)[0], tmp_path)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("missing", "removed"),
        ("limited", "rate limit"),
        ("broken", "network"),
        ("truncated", "network"),
        ("unmeasured", "network"),  # cut short by a server that never said how long the film is
        ("text", "format"),
        ("text-as-video", "format"),
    ],
)
def test_nothing_but_a_whole_film_is_taken_for_one(tmp_path, site, page, reason):
    film = Film(IDS[0], f"http://127.0.0.1:{site.server_port}/{page}/0.mp4", "")
    rows = fetch_all(tmp_path / "videos", [film], YtDlp(360, num_retries=0))
    assert (rows[IDS[0]]["status"], rows[IDS[0]]["reason"]) == ("failed", reason)
    assert set(contents(tmp_path / "videos")) == {"manifest.csv"}


def test_script_downloads_the_list_then_nothing_again(tmp_path, site):
    films = site.film_list(tmp_path / "list.csv", "whole", "missing", "whole")
    folder = tmp_path / "my videos, 100 %(id)s"
    options = ("--list", films, "--output_dir", folder, "--sleep", "0")
    first = run(*options)
    assert first.returncode == 1
    assert "2 done, 1 failed, 0 skipped of 3 films" in first.stdout
    assert f"removed: {IDS[1]}" in first.stdout
    asked, before = site.requests.copy(), contents(folder)
    assert run(*options).returncode == 1
    assert {path: count - asked[path] for path, count in site.requests.items() if "whole" in path} == {
        "/whole/0.mp4": 0,
        "/whole/2.mp4": 0,
    }
    assert contents(folder) == before
    assert run(*options, "--n_videos", "1").returncode == 0


def test_rate_limit_of_the_site_ends_the_script_with_one_line_of_advice(tmp_path, site):
    films = site.film_list(tmp_path / "list.csv", "limited", "whole", "whole")
    result = run("--list", films, "--output_dir", tmp_path / "videos", "--workers", "1", "--sleep", "0")
    assert result.returncode == 1
    assert "0 done, 1 failed, 2 skipped" in result.stdout
    assert result.stderr.count("wait an hour") == 1
    assert set(site.requests) == {"/limited/0.mp4"}


def test_network_that_is_not_there_ends_the_script_with_one_line_of_advice(tmp_path, site):
    films = site.film_list(tmp_path / "list.csv", *["whole"] * 5)
    site.server_close()
    result = run("--list", films, "--output_dir", tmp_path / "videos", "--workers", "1", "--sleep", "0")
    assert result.returncode == 1
    assert "0 done, 3 failed, 2 skipped" in result.stdout
    assert result.stderr.count("the network lets nothing through") == 1


def test_certificate_authorities_of_the_user_are_taken(tmp_path, film_file, monkeypatch):
    """As behind a company's proxy, which signs every page anew."""
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the certificate, is not here")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", certificate]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *made, *named], check=True, capture_output=True)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site(film_file.read_bytes()) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        [film] = [Film(IDS[0], f"https://127.0.0.1:{server.server_port}/whole/0.mp4", "")]
        assert fetch_all(tmp_path / "none", [film], YtDlp(360, num_retries=0))[IDS[0]]["reason"] == "network"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch_all(tmp_path / "ours", [film], YtDlp(360))[IDS[0]]["status"] == "done"
        server.shutdown()


def test_killed_in_the_middle_of_a_film_then_run_again_gives_the_same_files(tmp_path, site):
    films = site.film_list(tmp_path / "list.csv", "whole", "slow", "whole")
    options = ("--list", films, "--sleep", "0", "--workers", "1", "--output_dir")
    killed, unkilled = tmp_path / "killed", tmp_path / "unkilled"
    process = subprocess.Popen(command(*options, killed), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in killed.glob(".part/*/*")):  # bytes of a film that is not whole yet
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / f"{IDS[1]}.mp4").exists()

    site.released.set()
    assert run(*options, killed).returncode == 0
    assert run(*options, unkilled).returncode == 0
    assert contents(killed) == contents(unkilled)
    assert sorted(path.name for path in killed.iterdir()) == sorted(["manifest.csv", *(f"{k}.mp4" for k in IDS[:3])])


def test_cookies_are_sent_and_their_file_is_left_as_it_was(tmp_path, site):
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tsecret\n"
    cookies, films = tmp_path / "cookies.txt", site.film_list(tmp_path / "list.csv", "whole")
    cookies.write_text(text)
    assert run("--list", films, "--output_dir", tmp_path / "videos", "--cookies", cookies).returncode == 0
    assert site.cookies == {"session=secret"}
    assert cookies.read_text() == text


def test_folder_that_ytdlp_would_take_for_another_is_refused(tmp_path, site, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", "../elsewhere")
    film = Film(IDS[0], f"http://127.0.0.1:{site.server_port}/whole/0.mp4", "")
    rows = fetch_all(tmp_path / "$ELSEWHERE", [film], YtDlp(360))
    assert "$" in rows[IDS[0]]["message"]
    assert set(contents(tmp_path)) == {"$ELSEWHERE/manifest.csv"}


HEAD, FILM = "video_id,video_url,title\n", "film-number,https://example.org/film,A film\n"


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (None, "list.csv"),
        ("", "list.csv"),
        (HEAD, "no film"),
        ("video_id,title\nfilm-number,A film\n", "video_url"),
        (HEAD + FILM + "../../etc/x,https://example.org/film,A film\n", "'../../etc/x'"),
        (HEAD + "too-short,https://example.org/film,A film\n", "'too-short'"),
        (HEAD + "film-number,file:///etc/passwd,A film\n", "'file:///etc/passwd'"),
        (HEAD + FILM + FILM, "film 2"),
        (HEAD + FILM + "a,b,c,d,e\n", "line 3"),
    ],
)
def test_wrong_list_ends_in_one_line_and_status_2(tmp_path, table, named):
    if table is not None:
        (tmp_path / "list.csv").write_text(table)
    result = run("--list", tmp_path / "list.csv", "--output_dir", tmp_path / "videos")
    assert result.returncode == 2
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--workers", "0"),
        ("--n_videos", "none"),
        ("--max_height", "10"),
        ("--sleep", "-1"),
        ("--cookies", "missing.txt"),
        ("--cookies", "sfd.csv"),
        ("--output_dir", "LICENSE"),
        ("--outputdir", "videos"),
    ],
)
def test_wrong_argument_ends_in_one_line_and_status_2(tmp_path, option, value):
    (tmp_path / "list.csv").write_text(HEAD + FILM)
    (tmp_path / "LICENSE").write_text("a file where a folder should be")
    (tmp_path / "sfd.csv").write_text("no cookies here\n")
    result = run_script("download_videos.py", "--list", "list.csv", option, value, cwd=tmp_path, timeout=60)
    assert result.returncode == 2
    assert option in result.stderr or value in result.stderr
    assert result.stderr.count("\n") == 1
