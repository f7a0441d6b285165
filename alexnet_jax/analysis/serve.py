"""Serve a local web page: drop a photo, and see its predicted classes, feature maps and saliency.

The server listens on 127.0.0.1, refuses requests with a foreign Host or Origin, and accepts only the bytes of an
image, which stay in memory. The page loads nothing from the network.
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
from typing import Any

import numpy as np

from alexnet_jax.analysis import explanation
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import images, splits
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.inference.network import Network
from alexnet_jax.pages.render import data_uri, render

#: Largest image file, in bytes.
BYTE_LIMIT = 32 * 2**20
#: Maximum number of pixels in formats other than JPEG, whose decoders take much memory.
PIXEL_LIMIT = 32_000_000
#: Maximum number of files that are received at the same time.
UPLOADS = 8
#: Timeout of an idle connection, and of finding examples.
TIMEOUT_SECONDS = 30
#: Held-out images offered on the page.
EXAMPLES = 8


def serve(net: Network, title: str, port: int) -> None:
    """Serve until Ctrl-C. Raises ConfigError if the port is taken."""
    with Server(net, title, port) as server:
        print("compiling; for a large network this takes a minute", file=sys.stderr, flush=True)
        examples = threading.Thread(target=server.find_examples, daemon=True)
        examples.start()
        size = net.trained.config.data.image_size
        server.explain(np.zeros((size, size, 3), np.uint8))  # compiles before the first request
        examples.join(TIMEOUT_SECONDS)  # listing the folders of ImageNet takes long
        print(f"http://127.0.0.1:{server.server_port}/ is open; Ctrl-C closes it", flush=True)
        server.serve_forever()


class Server(ThreadingHTTPServer):
    """An HTTP server on 127.0.0.1:`port`; port 0 is any free one."""

    daemon_threads = True

    def __init__(self, net: Network, title: str, port: int = 0) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            busy = error.errno == errno.EADDRINUSE
            reason = "another program has it" if busy else error.strerror
            raise ConfigError(
                f"--port={port}: {reason}; choose another (0: any free one)"
            ) from None
        self.net, self.title = net, title
        self.examples: list[str] = []
        self._explaining, self._decoding = threading.Lock(), threading.Lock()
        self.uploads = threading.BoundedSemaphore(UPLOADS)
        names = (f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}")
        # Browsers omit port 80.
        self.hosts = (*names, "127.0.0.1", "localhost") if self.server_port == 80 else names

    def explain(self, pixels: np.ndarray, class_number: int | None = None) -> dict[str, Any]:
        """Explain uint8 [s s 3]; one image at a time."""
        with self._explaining:
            return explanation.explain(self.net, pixels, class_number)

    def decode(self, encoded: bytes) -> np.ndarray:
        """Decode the bytes of a file to uint8 [s s 3]; one at a time, to limit memory. Raises DataError."""
        data = self.net.trained.config.data
        with self._decoding:
            try:
                return images.decode(
                    encoded, data.image_size, exif=data.exif, name="the file", limit=PIXEL_LIMIT
                )
            finally:
                _release_memory()

    def find_examples(self) -> None:
        """Choose images of the default split from different classes; none if the data are missing."""
        config = self.net.trained.config
        try:
            found = sources.open_dataset(config.data, config.seed).splits
            split = found[splits.default(found)]
            _, first = np.unique(split.labels, return_index=True)
            chosen = first[np.linspace(0, len(first) - 1, min(EXAMPLES, len(first))).astype(int)]
            self.examples = [data_uri(pixels) for pixels in split.images[chosen]]
        except (DataError, OSError):
            return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback, unless the browser closed the connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            traceback.print_exc()

    def page(self, nonce: str) -> str:
        """The page, whose script has `nonce`."""
        run = self.net.trained
        facts = f"{run.config.name}, step {run.step:,}, {len(run.class_names):,} classes"
        applied = run.config.data.exif == "apply"
        note = "It is turned upright" if applied else "The camera's orientation (EXIF) is ignored"
        return render(
            "serve.html", nonce=nonce, title=self.title, facts=facts, examples=self.examples,
            orientation="from-image" if applied else "none",
            orientation_note=f"{note}, as in training.",
        )  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]
    timeout = TIMEOUT_SECONDS
    server_version, sys_version = "alexnet_jax", ""

    def parse_request(self) -> bool:
        """Refuse HTTP/0.9 too: its responses have no headers, and so no security policy."""
        if not super().parse_request():
            return False
        if self.request_version != "HTTP/0.9":
            return True
        self.request_version = "HTTP/1.0"
        self.send_error(400)
        return False

    def do_GET(self) -> None:
        if not self._is_local():
            return
        if self.path != "/":
            return self._send_json(404, {"error": "there is only one page: /"})
        nonce = secrets.token_urlsafe()
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._send(200, "text/html; charset=utf-8", self.server.page(nonce).encode(), policy)

    def do_POST(self) -> None:
        if not self._is_local():
            return
        length = self.headers.get("Content-Length", "")
        path = re.fullmatch(r"/explain(?:\?class=([0-9]{1,6}))?", self.path)
        class_number = int(path[1]) if path and path[1] else None
        if not path or (class_number or 0) >= len(self.server.net.class_names):
            return self._refuse(404, "POST images to /explain or /explain?class=NUMBER")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            return self._refuse(411, "Content-Length is missing or invalid")
        if int(length) > BYTE_LIMIT:
            return self._refuse(413, f"the file is larger than {BYTE_LIMIT >> 20} MB")
        try:
            with self.server.uploads:
                pixels = self.server.decode(self.rfile.read(int(length)))
            self._send_json(200, self.server.explain(pixels, class_number))
        except DataError as error:
            self._send_json(422, {"error": str(error)})
        except OSError:  # the browser closed the connection, or timed out
            raise
        except MemoryError:
            self._send_json(422, {"error": "the file takes more memory than there is"})
        except Exception:
            traceback.print_exc()
            self._send_json(500, {"error": "a fault of the program; the terminal has the details"})

    def _is_local(self) -> bool:
        """Check Host and Origin, against DNS rebinding; refuse the request if they name another host."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host in self.server.hosts and origin in (None, f"http://{host}"):
            return True
        self._refuse(403, f"this page is http://127.0.0.1:{self.server.server_port}/")
        return False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that http.server could not parse, or whose method it does not know (501)."""
        if code != 501:  # a request that was not parsed has no headers to check
            self._refuse(code, "this is not a valid HTTP request")
        elif self._is_local():
            self._refuse(code, "only GET and POST are allowed")

    def _refuse(self, status: int, reason: str) -> None:
        """Send an error and close the connection, as the body of the request is not read."""
        self.close_connection = True
        self._send_json(status, {"error": reason})

    def _send_json(self, status: int, content: dict[str, Any]) -> None:
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

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal is for errors."""


def _release_memory() -> None:
    """Return to the system the freed memory that glibc keeps for reuse."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
