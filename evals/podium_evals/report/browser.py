"""A headless Chromium over its own pipe: enough to open a page, ask it things, press keys and take pictures.

It speaks the DevTools protocol as null-terminated JSON on two file descriptors (`--remote-debugging-pipe`), so that it
needs no driver, no port and no package. Whatever the page asks of the network is counted, for a test that it asks
nothing.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from time import monotonic
from typing import Any, BinaryIO

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT_S = 60.0
"""For one answer. A machine at work on other things may take ten seconds to start a browser."""

FLAGS = (
    "--headless",
    "--no-sandbox",  # as root, in a container, there is none to be had
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


BECOME = (
    "import os, sys; a, b = map(int, sys.argv[1:3]); os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""The browser reads from descriptor 3 and writes to 4, whatever numbers the pipes have here."""


class BrowserError(Exception):
    """The browser ended, did not answer in time, or says that it cannot."""


def find() -> str | None:
    """Return the path of a browser on this machine, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@dataclass(slots=True)
class Page:
    """One tab.

    Args:
        asked: addresses that the page asked for, its own among them.
        complaints: what it wrote to the console as an error or warning, and exceptions that nobody caught.

    """

    _to: BinaryIO
    _from: BinaryIO
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _session: str = ""
    _number: int = 0
    _rest: bytes = b""
    _loaded: bool = False

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1.0) -> None:
        """Open an address in a window of that many pixels, and wait until it is loaded."""
        phone = width < 600
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        self.media("screen", dark=dark)
        self._loaded = False
        # Within a page that is open already, only the part behind # changes, and nothing is loaded.
        if "loaderId" in self.command("Page.navigate", url=url):
            self._until(lambda: self._loaded, "to load")
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)))")

    def media(self, media: str, *, dark: bool = False) -> None:
        """Set what the page is shown on (`screen`, `print`), and whether its reader likes it dark."""
        preferred = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", media=media, features=[preferred])

    def evaluate(self, expression: str) -> Any:
        """Return an expression's value, as JSON has it.

        Raises:
            BrowserError: it threw.

        """
        found = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(json.dumps(found["exceptionDetails"])[:800])
        return found["result"].get("value")

    def go(self, address: str) -> None:
        """Follow an address within the page, and wait until it is drawn."""
        self.evaluate(f"location.hash = {json.dumps(address)}; new Promise(done => setTimeout(done, 60))")

    def press(self, key: str, *, text: str = "") -> None:
        """Press a key and let it go."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        typed = text or {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown" if typed else "rawKeyDown", "keyUp"):
            self.command(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code.get(key, 0), text=typed
            )
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 20)))")

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Take a picture of the window, or of the whole page."""
        more: dict[str, Any] = {}
        if whole:
            size = self.command("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            more = {"captureBeyondViewport": True, "clip": clip}
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png", **more)["data"]))

    def command(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Ask the browser, and return its answer.

        Raises:
            BrowserError: it refused, ended, or said nothing.

        """
        self._number += 1
        number = self._number
        asked: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        self._to.write(json.dumps(asked).encode() + b"\0")
        self._to.flush()
        until = monotonic() + WAIT_S
        while True:
            told = self._next(until, method)
            if told.get("id") == number:
                if "error" in told:
                    raise BrowserError(f"{method}: {told['error'].get('message')}")
                answer: dict[str, Any] = told["result"]
                return answer

    def attach(self) -> None:
        """Take the first tab."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.command(f"{domain}.enable")

    def _until(self, reached: Any, what: str) -> None:
        until = monotonic() + WAIT_S
        while not reached():
            self._next(until, what)

    def _next(self, until: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select([self._from], [], [], max(0.0, until - monotonic()))[0]:
                raise BrowserError(f"the browser had {WAIT_S:.0f} s {what}, and did not")
            read = os.read(self._from.fileno(), 1 << 20)
            if not read:
                raise BrowserError(f"the browser ended while it was asked {what}")
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        self._note(told.get("method"), told.get("params", {}))
        return told

    def _note(self, event: str | None, about: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.asked.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(about["exceptionDetails"])[:800])
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{about['entry']['level']}: {about['entry']['text']}")


def _pipe() -> tuple[int, int]:
    """Return a pipe's ends, both clear of the descriptors that the browser uses."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


@contextlib.contextmanager
def browse(path: str) -> Iterator[Page]:
    """Start a browser with an empty profile, hand out a tab, and end the browser.

    Args:
        path: of the browser.

    Raises:
        BrowserError: it does not start.

    """
    (theirs_in, ours_out), (ours_in, theirs_out) = _pipe(), _pipe()
    with tempfile.TemporaryDirectory(prefix="podium-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [sys.executable, "-c", BECOME, str(theirs_in), str(theirs_out), path, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            with os.fdopen(ours_out, "wb") as to, os.fdopen(ours_in, "rb", buffering=0) as back:
                page = Page(to, back)
                page.attach()
                yield page
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
