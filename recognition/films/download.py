"""Step 1: fetch the films of a list into one folder, where manifest.csv says how each of them went.

A film is fetched into `<folder>/.part/`, read to its end, synced to disk and renamed to `<folder>/<video_id>.mp4`,
so nothing half-written ever bears a film's name, whatever is killed and whenever.
"""

import io
import os
import queue
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from recognition.common.command_line import InputError
from recognition.common.files import is_there, sha256, why
from recognition.films.manifest import Film, Manifest, Row, make_row

# A film is named after the container it is found to be in, by PyAV's name of it, never after what its address claims.
SUFFIXES = {"mov,mp4,m4a,3gp,3g2,mj2": ".mp4", "matroska,webm": ".webm", "mpegts": ".ts", "avi": ".avi"}

# Sites answer in sentences; the first pattern found in yt-dlp's message decides.
REASONS = (
    ("bot check", r"not a bot|captcha"),
    ("rate limit", r"HTTP Error 429|too many requests|rate.limit|content isn.t available, try again later"),
    ("private", r"private video|video is private|members.only|members on level"),
    ("age", r"confirm your age|age.restricted|inappropriate for some users"),
    ("other", r"in your country|from your location|geo.?restrict"),
    ("removed", r"video unavailable|been removed|been terminated|no longer available|isn.t available anymore"),
    ("removed", r"does not exist|HTTP Error 404|HTTP Error 410"),
    ("format", r"requested format|no video formats|unsupported url|\bDRM\b"),
    ("other", r"HTTP Error 4\d\d"),
    ("network", r"HTTP Error 5\d\d|timed? ?out|connection|unreachable|failed to resolve|name resolution|not known"),
    ("network", r"(Transport|SSL|Proxy)Error|\bSSL\b|certificate|got error|giving up after"),
)
# So many films in a row that the network did not let through end the queue, until one has come and after that.
PATIENCE_AT_FIRST, PATIENCE_LATER = 3, 10
ADVICE = {
    "network": "the network lets nothing through: see that this machine reaches the addresses (its name server, "
    "HTTPS_PROXY, certificates in SSL_CERT_FILE) and run the same command again",
    "rate limit": "YouTube gives this machine no more films for now: wait an hour and run the same command again, "
    "with a higher --sleep or fewer --workers",
    "bot check": "YouTube wants to see that this is not a bot: wait an hour, or export a browser's cookies and add "
    "--cookies cookies.txt, and run the same command again",
}
NO_JAVASCRIPT = (
    "yt-dlp could not run YouTube's JavaScript, which hides formats: install Deno (https://deno.com) "
    'and pip install "yt-dlp[default]"'
)


class Failure(Exception):
    """A film could not be had, for a reason already known: the class, then the message."""


def download(
    films: list[Film], manifest: Manifest, fetch: Callable[[Film, Path], Path], num_workers: int, sleep_s: float
) -> Iterator[Row]:
    """Fetch the films that are not done; yield every film's row once, recorded: those already there come first.

    `fetch(film, empty_folder)` returns the file it made there, or raises; it is called by `num_workers` threads, each
    of which rests `sleep_s` seconds between films. A failure that all later films would share (see `Patience`) ends the
    queue: films being fetched are finished, the rest are skipped.
    """
    part = manifest.folder / ".part"
    shutil.rmtree(part, ignore_errors=True)  # a killed run's; taking up such a file might join two formats in one film
    part.mkdir(exist_ok=True)
    todo: queue.SimpleQueue[Film] = queue.SimpleQueue()
    for film in films:
        try:
            if not manifest.is_done(film) and (row := _found(film, manifest)):
                manifest.record(row)
        except OSError as error:  # the file is left as it is, and so is what the manifest says of it
            yield make_row(film, "failed", reason="other", message=f"is there but cannot be read: {why(error)}")
            continue
        if manifest.is_done(film):
            yield manifest.rows[film.video_id]
        else:
            todo.put(film)

    stopped, patience = threading.Event(), Patience()
    finished: queue.SimpleQueue[Row | None] = queue.SimpleQueue()

    def work() -> None:
        while not stopped.is_set():
            try:
                film = todo.get_nowait()
            except queue.Empty:
                break
            row = _attempt(film, manifest.folder, part, fetch)
            if patience.is_over(row):
                stopped.set()
            finished.put(row)
            if not todo.empty():
                stopped.wait(sleep_s)
        finished.put(None)

    try:
        for _ in range(num_workers):
            threading.Thread(target=work, daemon=True).start()  # daemon: Ctrl-C ends the process at once, like a kill
        for _ in range(num_workers):
            for row in iter(finished.get, None):
                manifest.record(row)
                yield row
    finally:
        stopped.set()

    message = "not tried, the queue had stopped"
    skipped = [make_row(todo.get(), "skipped", reason=patience.reason, message=message) for _ in range(todo.qsize())]
    manifest.record(*skipped)
    yield from skipped
    shutil.rmtree(part, ignore_errors=True)


class Patience:
    """Tells, of the films that were tried so far, whether those to come would fail as well. Threads may share it."""

    def __init__(self) -> None:
        self.reason = ""  # of the failure that all share
        self._num_come = self._num_lost = 0
        self._lock = threading.Lock()

    def is_over(self, row: Row) -> bool:
        """Count one more film in; whether to try no other."""
        with self._lock:
            self._num_come += row["status"] == "done"
            self._num_lost = self._num_lost + 1 if row["reason"] == "network" else 0
            most = PATIENCE_LATER if self._num_come else PATIENCE_AT_FIRST
            if advice(row) or self._num_lost >= most:
                self.reason = row["reason"]
            return self.reason != ""


def advice(row: Row) -> str | None:
    """What to do about a failure that every later film shares, or None where the next film may well succeed."""
    if row["status"] == "failed" and re.search("no space left|quota exceeded", row["message"], re.IGNORECASE):
        return "the disk is full: make room and run the same command again"
    is_of_one = row["status"] == "failed" and row["reason"] == "network"
    return None if is_of_one else ADVICE.get(row["reason"])


def classify(error: Exception) -> tuple[str, str]:
    """The reason class of a failure, and its message in one line without yt-dlp's trimmings."""
    if isinstance(error, Failure):
        return error.args
    message = str(error) if str(error).startswith("ERROR:") else f"{type(error).__name__}: {error}"
    message = " ".join(re.sub(r"^ERROR: (\[[\w:]+\] ([\w-]+: )?)?", "", message).split())
    reason = next((reason for reason, words in REASONS if re.search(words, message, re.IGNORECASE)), "other")
    return reason, re.split(r"; please report this issue on | \(caused by ", message)[0]


def examine(path: Path) -> tuple[str, float]:
    """Read a film to its end; return the suffix that fits its container, and its duration in seconds.

    The first frame is decoded; a cover picture is none. The other packets are only read: a film whose end is missing
    shows in a packet cut short or in a last packet more than a second before the end that the file itself declares.
    Raises Failure.
    """
    import av

    from recognition.films.video import DecodeError, picture_stream, reason

    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            film = picture_stream(container)
            if not (suffix := SUFFIXES.get(container.format.name)):
                raise Failure("format", f"what came is in a container we do not keep ({container.format.name})")
            is_decodable, is_cut, end_s = False, False, 0.0
            for packet in container.demux(film, *container.streams.audio):
                is_cut |= packet.is_corrupt
                if packet.pts is not None:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if not is_decodable and packet.stream.type == "video":
                    is_decodable = bool(packet.decode())
            duration_s = end_s - (container.start_time or 0) / av.time_base
            declared_s = (container.duration or 0) / av.time_base
    except DecodeError as error:
        raise Failure("format", f"what came {error}") from None
    except av.error.FFmpegError as error:
        raise Failure("format", f"what came is not a video that can be decoded: {error.strerror}") from None
    except OSError:
        raise
    except Exception as error:  # a file can bring up any kind
        raise Failure("format", f"what came is not a video that can be decoded: {reason(error)}") from None
    if not is_decodable or duration_s <= 0:
        raise Failure("format", "what came is a video without frames")
    if is_cut or duration_s < declared_s - 1:
        raise Failure("network", f"what came ends after {duration_s:.1f} s of {declared_s:.1f} s")
    return suffix, duration_s


def format_selector(max_height: int) -> str:
    """yt-dlp's expression for one plain file, with or without sound: H.264 in mp4 where there is any.

    Two files to merge, or a playlist to remux, would need FFmpeg. AV1 comes last: OpenCV reads it as no frames at all.
    `?` lets pass what a site does not tell, such as the height and codec behind a direct link.
    """
    fits, plain, not_av1 = f"bv*[height<=?{max_height}]", "[protocol~='^https?$']", "[vcodec!^=?av01]"
    h264, mp4 = f"{fits}{plain}[ext=mp4][vcodec^=avc1]", f"{fits}{plain}[ext=mp4]{not_av1}"
    return f"{h264}/{mp4}/{fits}{plain}{not_av1}/{fits}"


class YtDlp:
    """Fetches one film with yt-dlp, quietly. The cookies file is read once and never written back to."""

    def __init__(self, max_height: int, cookies: Path | None = None, num_retries: int = 3):
        self.cookies = _read_cookies(cookies) if cookies else None
        self.options = {
            "format": format_selector(max_height),
            "outtmpl": "film.%(ext)s",
            "fixup": "never",  # would call FFmpeg where there is one, and so give other bytes there
            "noplaylist": True,
            "playlist_items": "1",
            "retries": num_retries,
            "fragment_retries": num_retries,
            "retry_sleep_functions": {"http": lambda n: 2**n, "fragment": lambda n: 2**n},
            "quiet": True,
            "noprogress": True,
            "color": "no_color",
            # It takes certifi's authorities alone, unless told to look where the system and the user have theirs.
            "compat_opts": {"no-certifi"} if "SSL_CERT_FILE" in os.environ else set(),
        }

    def __call__(self, film: Film, folder: Path) -> Path:
        import yt_dlp

        warnings: list[str] = []
        log = SimpleNamespace(debug=lambda _: None, error=lambda _: None, warning=warnings.append)
        home = str(folder.absolute())
        if os.path.expandvars(home) != home:  # yt-dlp expands them, and there is no way to quote a name
            raise Failure("other", "yt-dlp would take the $ in the folder's name for a variable: choose another folder")
        options = {**self.options, "paths": {"home": home}, "logger": log}
        if self.cookies is not None:
            options["cookiefile"] = io.StringIO(self.cookies)
        try:
            with yt_dlp.YoutubeDL(options) as downloader:
                downloader.download([film.video_url])
        except yt_dlp.utils.DownloadError as error:
            reason, message = classify(error)
            if reason in ("format", "other") and any(re.search("JavaScript|challenge", text) for text in warnings):
                message += f" ({NO_JAVASCRIPT})"
            raise Failure(reason, message) from error
        files = list(folder.iterdir())
        if len(files) != 1:
            raise Failure("format", f"the address led to {len(files)} files, not to one film")
        return files[0]


def _attempt(film: Film, folder: Path, part: Path, fetch: Callable[[Film, Path], Path]) -> Row:
    try:
        with tempfile.TemporaryDirectory(prefix=film.video_id, dir=part) as empty:
            fetched = fetch(film, Path(empty))
            row = _done(film, fetched)
            with open(fetched, "rb") as file:
                os.fsync(file.fileno())
            fetched.replace(folder / row["file"])
            return row
    except Exception as error:  # whatever a site or yt-dlp did to this film, the others are still to be fetched
        reason, message = classify(error)
        return make_row(film, "failed", reason=reason, message=message)


def _found(film: Film, manifest: Manifest) -> Row | None:
    """The row of a film that is there whole without one: a run was killed just before, or the user put it there.

    Raises OSError if one is there that the system does not let be read.
    """
    if manifest.rows.get(film.video_id, {}).get("status") == "done":
        return None  # its file is not the one that was fetched
    for suffix in SUFFIXES.values():
        path = manifest.folder / f"{film.video_id}{suffix}"
        if not is_there(path):
            continue
        try:
            row = _done(film, path)
        except Failure:
            continue
        return row if row["file"].endswith(suffix) else None
    return None


def _done(film: Film, path: Path) -> Row:
    size, digest = str(path.stat().st_size), sha256(path)  # first: a file that cannot be read is not a wrong one
    suffix, duration_s = examine(path)
    file = f"{film.video_id}{suffix}"
    return make_row(film, "done", file=file, size_bytes=size, sha256=digest, duration_s=f"{duration_s:.3f}")


def _read_cookies(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the cookies file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if not re.match(r"#( Netscape)? HTTP Cookie File", text):  # yt-dlp would refuse it too, but once for every film
        raise InputError(f"{path} is not a cookies.txt: it does not begin with '# Netscape HTTP Cookie File'")
    return text
