"""A server of one's own: `podium serve` in a process beside, on a free port, for as long as a command needs it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from podium_server.errors import Unavailable

LISTENING = "listening on "

# Longer than the largest store takes to load; a server that says nothing by then is not coming.
START_S_MAX = 120.0
# Longer than the server's own drain of calls that nobody waits for any more.
STOP_S_MAX = 10.0


@contextlib.contextmanager
def local_server(
    *, config: Path | None = None, data_dir: Path | None = None, start_s_max: float = START_S_MAX
) -> Iterator[str]:
    """Start a server, give its target, and stop it on every way out, a signal's too.

    Raises:
        Unavailable: it did not start; the message is its own.

    """
    command = [sys.executable, "-m", "podium_server", "serve", "--host", "127.0.0.1", "--port", "0"]
    if config is not None:
        command += ["--config", str(config)]
    if data_dir is not None:
        command += ["--data-dir", str(data_dir)]
    # A session of its own: Ctrl-C is ours to answer, so that calls under way can end before the server does.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        with _terminations_raised():
            yield _announced(process, start_s_max)
    finally:
        _stop(process)


@contextlib.contextmanager
def target_or_local(target: str | None, *, config: Path | None, data_dir: Path | None) -> Iterator[str]:
    """Give the target that was asked for, or that of a server started here."""
    if target is not None:
        with reaching(target):
            yield target
        return
    with local_server(config=config, data_dir=data_dir) as local:
        yield local


@contextlib.contextmanager
def reaching(target: str) -> Iterator[None]:
    """Say in our own words that nobody answers at a target; what a server says of itself stays as it is."""
    import podium_client

    try:
        yield
    except podium_client.Unavailable as error:
        if error.reason:
            raise
        raise Unavailable(
            f"no server answers at {target}; is it running there (podium serve), and is the address right?"
        ) from error


def _announced(process: subprocess.Popen[bytes], start_s_max: float) -> str:
    """Wait for the line that says where the server listens, and return the place."""
    output, errors = process.stdout, process.stderr
    if output is None or errors is None:
        raise ValueError("the server's output is not ours to read")
    os.set_blocking(errors.fileno(), False)
    said = bytearray()
    ends_at = time.monotonic() + start_s_max
    line = b""
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([output, errors], [], [], max(0.0, ends_at - time.monotonic()))
        if not readable:
            raise Unavailable(f"the server was not ready within {start_s_max:.0f} s{_last_words(said)}")
        if errors in readable:
            said += errors.read(1 << 16) or b""
        if output in readable:
            part = os.read(output.fileno(), 1 << 12)
            if not part:
                process.wait()
                said += errors.read() or b""
                raise Unavailable(f"the server did not start{_last_words(said)}")
            line += part
    _drain(process)
    return line.decode().splitlines()[0].removeprefix(LISTENING)


def _last_words(said: bytes | bytearray) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return ": " + "\n".join(lines[-8:]).removeprefix("podium: ") if lines else ""


def _drain(process: subprocess.Popen[bytes]) -> None:
    """Read on what the server logs, so that it never waits for a full pipe. Nobody is shown it."""
    import threading

    for stream in (process.stdout, process.stderr):
        if stream is None:
            continue
        os.set_blocking(stream.fileno(), True)

        def swallow(number: int = stream.fileno()) -> None:
            with contextlib.suppress(OSError):
                while os.read(number, 1 << 16):
                    pass

        threading.Thread(target=swallow, daemon=True).start()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()


@contextlib.contextmanager
def _terminations_raised() -> Iterator[None]:
    """Make SIGTERM an exception, so that what we started is stopped on that way out, too."""

    def raise_it(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
