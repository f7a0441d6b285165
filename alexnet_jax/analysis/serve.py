"""A web page for this machine alone: drop a photo, and see what the network makes of it.

It listens on 127.0.0.1, answers only requests that name this machine, and takes nothing but the bytes of an image,
which it keeps in memory and nowhere else. The page loads nothing from anywhere.
"""

import contextlib
import ctypes
import errno
import json
import re
import secrets
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from alexnet_jax.analysis import look
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import images, splits
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.inference.network import Network
from alexnet_jax.pages import html

LIMIT = 32 * 2**20
"""Bytes of an image file."""
PIXEL_LIMIT = 32_000_000
"""Of formats other than JPEG, whose decoders take much memory."""
UPLOADS = 8
"""Files that are received at the same time."""
SECONDS = 30
"""A connection that sends nothing for so long is closed."""
EXAMPLES = 8


def serve(net: Network, title: str, port: int) -> None:
    """Serve until Ctrl-C. Raises ConfigError if the port is taken."""
    with Server(net, title, port) as server:
        print("compiling; of a large network this takes a minute", file=sys.stderr, flush=True)
        finding = threading.Thread(target=server.find_examples, daemon=True)
        finding.start()
        server.look(np.zeros_like(net.pixels(_BLANK)[0]))  # compiles before anyone waits for it
        finding.join(SECONDS)  # of ImageNet in folders the list alone takes long
        print(f"http://127.0.0.1:{server.server_port}/ is open; Ctrl-C closes it", flush=True)
        server.serve_forever()


class Server(ThreadingHTTPServer):
    """The page on http://127.0.0.1:`port`; with port 0 on a free one."""

    daemon_threads = True

    def __init__(self, net: Network, title: str, port: int = 0):
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            busy = error.errno == errno.EADDRINUSE
            said = "another program has it" if busy else error.strerror
            raise ConfigError(f"--port={port}: {said}; choose another (0: any free one)") from None
        self.net, self.title, self.examples = net, title, []
        self._lock, self._decoding = threading.Lock(), threading.Lock()
        self.uploads = threading.BoundedSemaphore(UPLOADS)
        names = (f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}")
        # A browser leaves the port out if it is 80.
        self.hosts = (*names, "127.0.0.1", "localhost") if self.server_port == 80 else names

    def look(self, pixels: np.ndarray, answer: int | None = None) -> dict:
        """What `look.look` says of uint8 [s s 3]; one image at a time."""
        with self._lock:
            return look.look(self.net, pixels, answer)

    def decode(self, encoded: bytes) -> np.ndarray:
        """uint8 [s s 3] of the bytes of a file; one at a time, for the memory that it takes. Raises DataError."""
        data = self.net.run.config.data
        with self._decoding:
            try:
                return images.decode(
                    encoded, data.image_size, exif=data.exif, name="the file", limit=PIXEL_LIMIT
                )
            finally:
                _give_back()

    def find_examples(self) -> None:
        """A few images of the default split for the page, each of another class; none if the data are not here."""
        config = self.net.run.config
        try:
            found = sources.open_dataset(config.data, config.seed).splits
            split = found[splits.default(found)]
            _, first = np.unique(split.labels, return_index=True)
            chosen = first[np.linspace(0, len(first) - 1, min(EXAMPLES, len(first))).astype(int)]
            self.examples = [html.data_uri(pixels) for pixels in split.images[chosen]]
        except (DataError, OSError):
            return

    def handle_error(self, *_) -> None:
        """A browser that leaves early is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            traceback.print_exc()

    def page(self, nonce: str) -> str:
        run = self.net.run
        facts = f"{run.config.name}, step {run.step:,}, {len(run.class_names):,} classes"
        examples = html.join(
            html.fill('<button type="button"><img src="{uri}" alt="example {i}"></button>\n', uri=uri, i=i)
            for i, uri in enumerate(self.examples, 1)
        )  # fmt: skip
        applied = run.config.data.exif == "apply"
        turned = "It is turned upright" if applied else "The camera's orientation (EXIF) is ignored"
        return html.page(
            "look.html", nonce=nonce, title=self.title, facts=facts, examples=examples,
            orientation="from-image" if applied else "none", turned=f"{turned}, as in training.",
        )  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = SECONDS
    server_version, sys_version = "alexnet_jax", ""

    def do_GET(self) -> None:
        if not self._from_here():
            return
        if self.path != "/":
            return self._answer(404, {"error": "there is only one page: /"})
        nonce = secrets.token_urlsafe()
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._send(200, "text/html; charset=utf-8", self.server.page(nonce).encode(), policy)

    def do_POST(self) -> None:
        if not self._from_here():
            return
        length = self.headers.get("Content-Length", "")
        asked = re.fullmatch(r"/look(?:\?class=([0-9]{1,6}))?", self.path)
        answer = int(asked[1]) if asked and asked[1] else None
        if not asked or (answer or 0) >= len(self.server.net.class_names):
            return self._refuse(404, "images go to /look, or to /look?class= and the number of one")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            return self._refuse(411, "the length of the image is not said")
        if int(length) > LIMIT:
            return self._refuse(413, f"the file is larger than {LIMIT >> 20} MB")
        try:
            with self.server.uploads:
                pixels = self.server.decode(self.rfile.read(int(length)))
            self._answer(200, self.server.look(pixels, answer))
        except DataError as error:
            self._answer(422, {"error": str(error)})
        except OSError:  # the browser left, or sends nothing
            raise
        except MemoryError:
            self._answer(422, {"error": "the file takes more memory than there is"})
        except Exception:
            traceback.print_exc()
            self._answer(500, {"error": "a fault of the program; the terminal has the details"})

    def _from_here(self) -> bool:
        """Whether the request names this machine: a page elsewhere whose name was made to lead here does not."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host in self.server.hosts and origin in (None, f"http://{host}"):
            return True
        self._refuse(403, f"this page is http://127.0.0.1:{self.server.server_port}/")
        return False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of requests that http.server itself refuses."""
        if code != 501:  # no HTTP: there are no headers to look at
            self._refuse(code, "this is no request of HTTP that can be answered")
        elif self._from_here():
            self._refuse(code, "only GET and POST are answered")

    def _refuse(self, status: int, reason: str) -> None:
        """An answer to a request whose body is not read; the connection cannot go on."""
        self.close_connection = True
        self._answer(status, {"error": reason})

    def _answer(self, status: int, content: dict) -> None:
        self._send(status, "application/json", json.dumps(content).encode(), "default-src 'none'")

    def _send(self, status: int, kind: str, body: bytes, policy: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Nothing: the terminal is for errors."""


def _give_back() -> None:
    """Hand the memory that a decoder has freed to the system, where the C library keeps it (glibc does)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


_BLANK = np.zeros((1, 64, 64, 3), np.uint8)
