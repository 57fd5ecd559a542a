"""The server of the page about a stream: 127.0.0.1 alone, only GET, and no reader that holds up another."""

import json
import re
import socket
import socketserver
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from recognition.common.command_line import InputError

if TYPE_CHECKING:
    from recognition.streaming.page import LivePage

BROWSER = Path(__file__).parent / "browser"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/chart.js": ("chart.js", "text/javascript"),
}
HERE, USUAL_PORT = "127.0.0.1", 8000
# By another port the page is reached through a tunnel; by another name only if that name is made to lead here.
HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
THEN = re.compile(r"/then/(-?\d{1,9})\.jpg")
PICTURE_S, NEWS_S = 0.1, 0.2  # at least so long from one picture, or news, to the next
PATIENCE_S = 10  # with a browser that says nothing or takes nothing
RETRY_MS = 1000  # after which a browser asks again for what has broken off
FAREWELL_S = 1.0  # for the last that is said
MOST_READERS = 24  # a page that is open has two, and others for a moment
BUFFER = 1 << 17  # bytes on their way to a reader: a slow one is not to find old pictures there
BOUNDARY = "picture"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",  # no page from elsewhere shows the pictures
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PageServer(ThreadingHTTPServer):
    """Serves a `LivePage` from the moment it is made until it is closed.

    port: as LivePage has it. Raises InputError if nothing can listen there.
    """

    allow_reuse_port = False  # else some versions of Python share a port that is taken

    def __init__(self, port: int | None, page: "LivePage"):
        self.page, self.closing = page, threading.Event()
        self._readers: dict[threading.Thread, socket.socket] = {}
        try:
            super().__init__((HERE, USUAL_PORT if port is None else port), Handler)
        except (OSError, OverflowError) as error:
            if port is not None:
                why = getattr(error, "strerror", None) or error
                raise InputError(
                    f"--page {port}: cannot listen there ({why}); name another port, or 0 for a free one"
                ) from None
            super().__init__((HERE, 0), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="page", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{HERE}:{self.server_port}/"

    def server_bind(self) -> None:
        """As the library's own, but no name server is asked what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HERE, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a thread answer, unless there are too many readers."""
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), name="page reader", daemon=True
        )
        self._readers = {reader: its for reader, its in self._readers.items() if reader.is_alive()}
        if len(self._readers) < MOST_READERS:
            thread.start()
            self._readers[thread] = request
        else:
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """End all threads; the page is closed already, and what is still said is its last."""
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        deadline_s = time.monotonic() + FAREWELL_S
        for way in (socket.SHUT_RD, socket.SHUT_RDWR):  # first those who wait for a request, then all
            for request in self._readers.values():
                with suppress(OSError):
                    request.shutdown(way)
            for thread in self._readers:
                thread.join(max(0.0, deadline_s - time.monotonic()))
            deadline_s += FAREWELL_S


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PageServer
    timeout = PATIENCE_S
    server_version, sys_version = "Live", ""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self) -> None:
        if not HOST.fullmatch(self.headers.get("Host", "")):
            return self.send_error(HTTPStatus.FORBIDDEN, "This page is reached as 127.0.0.1 or localhost")
        path = urlsplit(self.path).path
        if path in FILES:
            name, kind = FILES[path]
            return self.send_whole((BROWSER / name).read_bytes(), f"{kind}; charset=utf-8")
        if path == "/news":
            return self.send_news()
        if path == "/pictures":
            return self.send_pictures()
        if (found := THEN.fullmatch(path)) and (picture := self.server.page.thumbnail(int(found[1]))):
            return self.send_whole(picture, "image/jpeg")
        return self.send_error(HTTPStatus.NOT_FOUND)

    def send_whole(self, data: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_news(self) -> None:
        """All that there is to tell, and what is new, as events that a server sends."""
        self.begin_stream("text/event-stream")
        self.wfile.write(f"retry: {RETRY_MS}\n\n".encode())
        for news in self.server.page.news():
            text = json.dumps(news, allow_nan=False, default=lambda number: number.item())  # numpy's own
            self.wfile.write((f"data: {text}\n\n" if news else ": nothing new\n\n").encode())
            self.server.closing.wait(NEWS_S)
        self.wfile.write(b"event: end\ndata: end\n\n")

    def send_pictures(self) -> None:
        """The newest picture, again and again. Browsers show one once they know that another follows: it is announced
        at once."""
        self.begin_stream(f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        following = f"\r\n--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
        self.wfile.write(following)
        for picture in self.server.page.pictures():
            self.wfile.write(picture + following)
            self.server.closing.wait(PICTURE_S)

    def begin_stream(self, kind: str) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.end_headers()
