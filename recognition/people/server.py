"""Serve an experiment on this machine and keep the answers that are sent back.

  python -m recognition.participants serve experiment --data data
  python -m recognition.participants serve experiment --data data --host 0.0.0.0      for other machines too

The page is then at the address that is printed. Answers become a file a session in the folder of --data, which
`participants read` takes. Nothing of it is served. Any other web server will do as well, with `--save` of the export.
"""

import json
import re
import secrets
import shutil
import threading
import time
from argparse import Namespace
from contextlib import suppress
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from recognition.common.command_line import ArgumentParser, InputError, folder_path, one_line, whole_number
from recognition.common.files import written_whole

ANSWERS = "/answers"
LARGEST_POST = 5_000_000  # bytes
WAIT_S = 60  # for a browser that says nothing
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `participants serve`."""
    parser.add_argument("experiment", type=Path, help="folder that `participants export` wrote")
    parser.add_argument("--data", type=folder_path, required=True, help="folder for the answers, a file a session")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets other machines in")
    parser.add_argument(
        "--port", type=whole_number(0, 65535), default=8000, help="port to listen at; 0 takes a free one"
    )


def main(args: Namespace) -> None:
    """Serve until Ctrl-C."""
    with Server((args.host, args.port), args.experiment, args.data) as server:
        print(f"{args.experiment} is at {server.address}; answers go to {args.data}; Ctrl-C ends", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        with server.writing:  # what is being written is written whole
            print(f"{server.num_sessions} sessions were saved in {args.data}")


class Server(ThreadingHTTPServer):
    """A web server for one experiment.

    Raises InputError if the folder is none of an experiment, if the answers would lie in it, or if nothing can listen
    at the address.
    """

    daemon_threads = True  # browsers keep connections open in case they need one

    def __init__(self, address: tuple[str, int], experiment: Path, data: Path):
        self.experiment, self.data = experiment.resolve(), data
        self.writing = threading.Lock()
        self.num_sessions = 0
        if missing := [name for name in ("index.html", "timeline.js") if not (experiment / name).is_file()]:
            raise InputError(f"{experiment}: has no {missing[0]}; name a folder that `participants export` wrote")
        if data.resolve().is_relative_to(self.experiment):
            raise InputError(f"--data {data}: lies in the experiment, where all can read it; name another folder")
        data.mkdir(parents=True, exist_ok=True)
        try:
            super().__init__(address, Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--host {address[0]} --port {address[1]}: cannot listen there ({error})") from None

    @property
    def address(self) -> str:
        """The address of the page."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def save(self, text: bytes, rows: list[dict[str, Any]]) -> Path:
        """Write the answers of a session as a file with a name of our own, and tell of it in a line."""
        with self.writing:
            path = self.data / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}.json"
            with written_whole(path) as part:
                part.write_bytes(text)
            self.num_sessions += 1
            who = f"participant {rows[0].get('participant')}, episode {rows[0].get('episode')}"
            print(one_line(f"{time.strftime('%H:%M:%S')} {who}: {len(rows)} rows in {path}"), flush=True)
        return path

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error of ours."""


class Handler(SimpleHTTPRequestHandler):
    """Answers one request: a file of the experiment, or a part of it as Safari wants it, or answers to keep."""

    server: Server
    timeout = WAIT_S
    server_version, sys_version = "Experiment", ""

    def __init__(self, request: Any, client: Any, server: Server):
        self.left: int | None = None  # bytes of a range that was asked for
        super().__init__(request, client, server, directory=str(server.experiment))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line a session is enough."""

    def end_headers(self) -> None:
        """Files are asked for anew when they have changed, and taken for nothing but what they are."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        """No folder is listed."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def send_head(self) -> Any:
        """The headers; returns the open file, as the library's own, or None if all is said."""
        path = Path(self.translate_path(self.path))
        if path in (self.server.experiment, self.server.experiment / "index.html"):
            return self.send_page()
        found = RANGE.fullmatch(self.headers.get("Range", "").strip())
        if not found or not any(found.groups()) or not path.is_file():
            return super().send_head()
        return self.send_range(path, *found.groups())

    def send_page(self) -> None:
        """The page, told where answers go."""
        meta = f'<head>\n  <meta name="save" content="{ANSWERS.removeprefix("/")}">'
        page = (self.server.experiment / "index.html").read_text(encoding="utf-8").replace("<head>", meta, 1)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_text(page.encode())

    def send_range(self, path: Path, first: str, last: str) -> BinaryIO | None:
        """The headers of a part of a file, from byte `first` to `last`, or the last bytes if there is no `first`;
        returns the file, open at that place."""
        size = path.stat().st_size
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last), size - 1) if first and last else size - 1
        if start > end:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_text(b"")
            return None
        file = path.open("rb")
        file.seek(start)
        self.left = end - start + 1
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(self.left))
        self.end_headers()
        return file

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file, or what was asked for of it."""
        with suppress(ConnectionError):
            if self.left is None:
                shutil.copyfileobj(source, outputfile)
                return
            while self.left > 0 and (piece := source.read(min(self.left, 1 << 16))):
                outputfile.write(piece)
                self.left -= len(piece)

    def send_text(self, text: bytes) -> None:
        """End the headers and send a short body."""
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def do_POST(self) -> None:
        """Keep the answers of a session, if they are some."""
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self.send_error(HTTPStatus.LENGTH_REQUIRED)
        if urlsplit(self.path).path != ANSWERS:
            return self.send_error(HTTPStatus.NOT_FOUND)
        if not self.is_from_page():
            return self.send_error(HTTPStatus.FORBIDDEN)
        if not 0 < size <= LARGEST_POST:
            return self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        text = self.rfile.read(size)
        if len(text) < size or (rows := rows_of(text)) is None:
            return self.send_error(HTTPStatus.BAD_REQUEST)
        try:
            self.server.save(text, rows)
        except OSError as error:
            print(one_line(f"NOT SAVED: {error}"), flush=True)
            return self.send_error(HTTPStatus.INSUFFICIENT_STORAGE)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain")
        self.send_text(b"saved\n")

    def is_from_page(self) -> bool:
        """Whether our page sends this, and not one that the same browser has open elsewhere."""
        origin = self.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc == self.headers.get("Host")


def rows_of(text: bytes) -> list[dict[str, Any]] | None:
    """The rows of a session; None if it is something else."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return rows if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows) else None
