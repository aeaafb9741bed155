"""The demo's corpus, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from podium_server.cli.commands.demo import _tail
from podium_server.cli.documents import stdlib_docs


def test_the_library_is_a_corpus_of_thousands() -> None:
    found = {documented.name: documented for documented in stdlib_docs.library()}
    assert len(found) >= 5000
    assert found["subprocess.run"].signature.startswith("run(*popenargs, input=None")
    assert found["subprocess.Popen.communicate"].kind == "method"
    assert found["textwrap"].kind == "module"
    assert "ascending order" in found["builtins.sorted"].text
    assert "os.getpid" in found
    assert not [name for name in found if any(part.startswith("_") and part != "__init__" for part in name.split("."))]
    assert all(documented.text.strip() for documented in found.values())


def test_parsing_imports_nothing() -> None:
    code = (
        "import sys; from podium_server.cli.documents import stdlib_docs;"
        "found = [d for p in stdlib_docs.sources() if p.name in ('this.py', 'turtle.py', 'antigravity.py')"
        " for d in stdlib_docs.docstrings(p)];"
        "sys.exit(not found or any(name in sys.modules for name in ('this', 'turtle', 'antigravity')))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""


def test_long_names_are_cut_where_they_say_least() -> None:
    assert _tail("gzip.open", 25) == "gzip.open"
    assert _tail("datetime.datetime.strptime", 25) == "…datetime.strptime"
    assert _tail("asyncio.transports.SubprocessTransport.terminate", 25) == "…ocessTransport.terminate"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "podium_server", "demo"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert demo.stdout is not None
    said = ""
    while "a server on" not in said:
        line = demo.stdout.readline()
        assert line, demo.communicate()[1]
        said += line
    assert list(tmp_path.glob("podium-demo-*"))
    servers = _children(demo.pid)
    assert servers
    time.sleep(0.5)

    demo.send_signal(number)
    _, told = demo.communicate(timeout=40)

    assert demo.returncode == 130, told
    assert "Traceback" not in told
    assert not list(tmp_path.glob("podium-demo-*"))
    assert not [pid for pid in servers if Path(f"/proc/{pid}").exists()]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
