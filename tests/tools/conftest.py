"""Headless Chromium, driven by its DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Browser:
    """One page. Every message ends with a zero byte; file 3 is read by Chromium, file 4 written."""

    def __init__(self, program: str, profile: Path) -> None:
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        # The ends that Chromium gets must be its files 3 and 4.
        command = [
            "bash",
            "-c",
            f'exec "$@" 3<&{their_in} 4>&{their_out}',
            "bash",
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            command, pass_fds=(their_in, their_out), stderr=subprocess.DEVNULL
        )
        os.close(their_in)
        os.close(their_out)
        self._buffer = b""
        self._sent = 0
        self.errors: list[str] = []
        target = next(
            each
            for each in self._call("Target.getTargets")["targetInfos"]
            if each["type"] == "page"
        )
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        found = json.loads(message)
        match found.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(found["params"]["exceptionDetails"]))
            case "Log.entryAdded" if found["params"]["entry"]["level"] == "error":
                self.errors.append(found["params"]["entry"]["text"])
        return found

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, to the page."""
        return self._call(method, self._session, **parameters)

    def open(self, path: Path) -> None:
        """Load a file and wait until its script says that it is ready."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.value(
            "new Promise((done) => { const look = () => document.body?.dataset.ready === 'yes' ? "
            "done(1) : setTimeout(look, 20); look(); })"
        )

    def value(self, expression: str) -> Any:
        """What a JavaScript expression, or its promise, comes to."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move the mouse to a place of the window, press or turn the wheel there."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End Chromium."""
        os.write(self._out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    running = Browser(program, tmp_path / "profile")
    yield running
    running.close()
