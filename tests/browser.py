"""A headless Chromium for tests of pages, driven through chromedriver by plain WebDriver requests (W3C)."""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request

import pytest


class Browser:
    """One window. `wait` and `run` take the body of a JavaScript function."""

    def __init__(self, address: str):
        self._address = address
        options = {"args": ["--headless=new", "--disable-gpu", "--hide-scrollbars"]}
        if os.geteuid() == 0:
            options["args"].append("--no-sandbox")
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._post("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._address += f"/{session}"

    def open(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page as a window of `width` CSS pixels shows it, light or dark."""
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])
        self._post("/url", {"url": url})

    def run(self, script: str, *arguments):
        return self._post("/execute/sync", {"script": script, "args": arguments})

    def wait(self, script: str, seconds: float = 30):
        """What `script` returns once that is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"not within {seconds} s: {script}"
            time.sleep(0.1)
        return value

    def choose(self, selector: str, path) -> None:
        """Give the file at `path` to a file input, as a person who picks it."""
        found = self._post("/element", {"using": "css selector", "value": selector})
        [element] = found.values()
        self._post(f"/element/{element}/value", {"text": str(path)})

    def click(self, selector: str) -> None:
        [element] = self._post("/element", {"using": "css selector", "value": selector}).values()
        self._post(f"/element/{element}/click", {})

    def errors(self) -> list[str]:
        """What the console has said since the last call, without what is only of use to a developer."""
        said = self._post("/se/log", {"type": "browser"})
        return [line["message"] for line in said if line["level"] in ("SEVERE", "WARNING")]

    def too_wide(self) -> float:
        """CSS pixels by which the page is wider than its window."""
        return self.run("return document.scrollingElement.scrollWidth - innerWidth")

    def screenshot(self, path) -> None:
        """The whole page as a PNG."""
        taken = self._devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        self._request("DELETE", "")

    def _devtools(self, command: str, **parameters):
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _post(self, path: str, content: dict):
        return self._request("POST", path, json.dumps(content).encode())

    def _request(self, method: str, path: str, body: bytes | None = None):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None


@contextlib.contextmanager
def browser():
    """A Browser for the time of the context; skips the test where there is no chromedriver."""
    driver = shutil.which("chromedriver")
    if driver is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        lines = (re.search(r"successfully on port (\d+)", line) for line in process.stdout)
        port = next(found[1] for found in lines if found)
        window = Browser(f"http://127.0.0.1:{port}/session")
        try:
            yield window
        finally:
            window.close()
    finally:
        process.terminate()
        process.communicate(timeout=10)
