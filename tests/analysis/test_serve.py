"""The page of `alexnet predict --serve`: responses, refused requests, and the page in a browser."""

import contextlib
import dataclasses
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.analysis import serve
from alexnet_jax.data.pipeline import images
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference.network import Network
from tests.browser import browser

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def loaded_once():
    """Undo the fixture of conftest.py: the command loads its net."""


def photo(width=80, height=60) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(net):
    """A server whose title and classes have hostile names."""
    names = tuple(f"{HOSTILE} {number}" for number in range(10))
    named = Network(net.trained._replace(class_names=names))
    with serve.Server(named, HOSTILE) as made:
        made.examples = []
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server, method, path, body=None, headers=None):
    """Send a request with exactly these headers besides Host: (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    headers = {"Host": f"127.0.0.1:{server.server_port}"} | (headers or {})
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def post(server, body, **headers):
    return ask(server, "POST", "/explain", body, {"Content-Length": str(len(body)), **headers})


def test_a_photo_is_answered_as_the_network_answers_it(server):
    status, headers, body = post(server, photo())
    assert status == 200 and headers["Content-Type"] == "application/json"
    found = json.loads(body)
    [expected] = server.net.top(np.asarray(Image.open(io.BytesIO(photo()))))
    assert [one["class"] for one in found["top"]] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [one["probability"] for one in found["top"]], [p for _, p in expected], rtol=1e-4
    )
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "conv2"]


@pytest.mark.parametrize(
    ("status", "words", "method", "path", "body", "headers"),
    [
        (403, "this page is http://127.0.0.1", "GET", "/", None, {"Host": "evil.example"}),
        (403, "this page is", "POST", "/explain", photo(), {"Host": "evil.example:8000"}),
        (403, "this page is", "POST", "/explain", photo(), {"Origin": "http://evil.example"}),
        (404, "only one page", "GET", "/etc/passwd", None, {}),
        (404, "POST images to /explain", "POST", "/", b"", {"Content-Length": "0"}),
        (404, "class=NUMBER", "POST", "/explain?class=10", b"", {"Content-Length": "0"}),
        (404, "class=NUMBER", "POST", "/explain?class=-1", b"", {"Content-Length": "0"}),
        (411, "Content-Length", "POST", "/explain", None, {"Transfer-Encoding": "chunked"}),
        (411, "Content-Length", "POST", "/explain", None, {"Content-Length": "-1"}),
        (413, "larger than 32 MB", "POST", "/explain", None, {"Content-Length": str(2**25 + 1)}),
        (411, "Content-Length", "POST", "/explain", None, {"Content-Length": "9" * 5000}),
        (422, "the file is not an image", "POST", "/explain", b"no image", {"Content-Length": "8"}),
        (422, "the file is empty", "POST", "/explain", None, {"Content-Length": "0"}),
    ],
)
def test_everything_else_is_refused(server, status, words, method, path, body, headers):
    found, _, content = ask(server, method, path, body, headers)
    assert found == status and words in json.loads(content)["error"]


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "<script>"])
def test_other_methods_are_refused_in_our_words(server, method):
    status, headers, body = ask(server, method, "/explain")
    assert status == 501 and json.loads(body) == {"error": "only GET and POST are allowed"}
    assert headers["Content-Security-Policy"] == "default-src 'none'"
    status, _, body = ask(server, method, "/explain", headers={"Host": "evil.example"})
    assert status == 403 and "this page is" in json.loads(body)["error"]
    assert ask(server, "HEAD", "/")[::2] == (501, b"")


@pytest.mark.parametrize(
    "request_line",
    [b"GET", b"GET /", b"GET / FTP/1.0", b"GET / HTTP/9.9", b"\xff \x00 \x01", b"G" * 70_000],
)
def test_what_is_no_http_gets_no_page_of_the_library(server, request_line):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(request_line + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            answer = connection.makefile("rb").read()
            assert (
                b"<html" not in answer.lower()
                and b'{"error": "this is not a valid HTTP request' in answer
            )


def test_large_images_are_refused_before_they_are_decoded(server):
    file = io.BytesIO()
    Image.new("L", (9400, 9400)).save(file, "PNG")
    status, _, body = post(server, file.getvalue())
    assert status == 422 and "more than 32,000,000 pixels" in json.loads(body)["error"]


def test_one_image_is_decoded_at_a_time(server, monkeypatch):
    at_once, most = 0, []
    decode = images.decode

    def slow(*arguments, **options):
        nonlocal at_once
        at_once += 1
        most.append(at_once)
        time.sleep(0.05)
        at_once -= 1
        return decode(*arguments, **options)

    monkeypatch.setattr(images, "decode", slow)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post(server, photo())[0], range(6)))
    assert answers == [200] * 6 and most == [1] * 6


def test_the_page_loads_nothing_and_escapes_its_title(server):
    status, headers, body = ask(server, "GET", "/")
    page = body.decode()
    assert status == 200 and HOSTILE not in page and "&lt;script&gt;" in page
    assert not re.search(r"https?://|@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")", page)
    [nonce] = re.findall(r'<script nonce="([^"]+)">', page)
    assert f"script-src 'nonce-{nonce}'" in headers["Content-Security-Policy"]
    assert page.count("<script") == 1 and "default-src 'none'" in headers["Content-Security-Policy"]


def test_a_port_that_is_taken_is_said(server):
    with pytest.raises(ConfigError, match=rf"--port={server.server_port}: another program has it"):
        serve.Server(server.net, "second", server.server_port)


def test_held_out_images_are_offered(net):
    with serve.Server(net, "examples") as made:
        made.find_examples()
        page = made.page("nonce")
    assert len(made.examples) == 8 and page.count('alt="example ') == 8


def test_in_a_browser_a_chosen_photo_is_answered_on_laptop_and_phone(server, tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(photo())
    [expected] = server.net.top(file)
    with browser() as window:
        for width, dark in ((1280, False), (390, True)):
            window.open(f"http://127.0.0.1:{server.server_port}/", width, dark=dark)
            window.choose("#file", file)
            window.wait("return !document.getElementById('result').hidden")
            rows = window.run(
                "return [...document.querySelectorAll('#top li')].map(row => "
                "[row.querySelector('.name').textContent, row.querySelector('.percent').textContent])"
            )
            assert rows == [[name, f"{100 * p:.1f} %"] for name, p in expected]
            # Of the first layer all 8 maps, of both their strip.
            window.wait("return document.querySelectorAll('.maps canvas').length === 8")
            assert window.run("return document.querySelectorAll('.strip canvas').length") == 16
            colors = window.run(
                "return Math.max(...[...document.querySelectorAll('.maps canvas')].map(canvas => new Set("
                "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size))"
            )
            assert colors > 8
            assert window.run("return document.querySelectorAll('#overlays figure').length") == 3
            window.wait("return document.getElementById('photo').naturalWidth === 80")
            assert (
                window.run("return document.getElementById('explained').textContent")
                == expected[0][0]
            )
            window.click("#top li:nth-of-type(2) button")
            window.wait(
                f"return document.getElementById('explained').textContent === {json.dumps(expected[1][0])}"
            )
            pressed = "return document.querySelectorAll('#top [aria-pressed=true]').length"
            assert window.run(pressed) == 1
            assert window.too_wide() <= 0
            scheme = window.run("return getComputedStyle(document.body).backgroundColor")
            assert (scheme == "rgb(21, 24, 27)") == dark
        window.choose("#file", __file__)  # no image: said, and what was there stays
        window.wait("return document.getElementById('message').classList.contains('error')")
        assert "not an image" in window.run("return document.getElementById('message').textContent")
        # The browser itself notes the refused request, and nothing else.
        assert all("/explain" in line and "422" in line for line in window.errors())


@pytest.mark.full
def test_the_command_serves_until_ctrl_c(weights_file):
    command = [sys.executable, "-m", "alexnet_jax", "predict", "--workdir", weights_file]
    process = subprocess.Popen(
        [*command, "--serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert process.stdout
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"tiny" in page.read()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)
        assert process.returncode == 130 and said[0] == "" and said[1].endswith("stopped\n")
    finally:
        process.kill()
        process.communicate()


def turned_photo(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.open(io.BytesIO(photo())).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("exif", ["ignore", "apply"])
def test_the_page_shows_a_photo_as_the_network_saw_it(net, exif):
    config = net.trained.config
    data = dataclasses.replace(config.data, exif=exif)
    chosen = Network(net.trained._replace(config=dataclasses.replace(config, data=data)))
    with serve.Server(chosen, "turned") as made:
        made.examples = []
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            page = ask(made, "GET", "/")[2].decode()
            found = json.loads(post(made, turned_photo(6))[2])
            upright = json.loads(post(made, photo())[2])
        finally:
            made.shutdown()
            thread.join()
    assert (found["input"] != upright["input"]) == (exif == "apply")
    [expected] = chosen.top(turned_photo(6))
    assert [one["class"] for one in found["top"]] == [name for name, _ in expected]
    said = "turned upright" if exif == "apply" else "(EXIF) is ignored"
    shown = "from-image" if exif == "apply" else "none"
    assert said in page and f"image-orientation: {shown};" in page
