"""The journal of a job: one small file that says how much of the job's outputs is whole.

It is replaced at once, never appended to: whoever reads it finds the last commit or the one before, and no torn end.
What the outputs hold beyond it was written after the last commit, and is cut off when the job goes on.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from podium_server.errors import FailedPrecondition

FORMAT = 1
SUFFIX = ".journal"


@dataclass(frozen=True, slots=True)
class Commit:
    """What was whole at one moment.

    Args:
        identity: what makes the job this one and no other: names and values, compared when it goes on.
        items: of the input that are done.
        marks: of each output, by its name: where it ended.
        state: what the job itself wants to know again (sums, seals).
        whole: the job is done, and its files only have to get their names.

    """

    identity: Mapping[str, Any]
    items: int = 0
    marks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False


def write(path: Path, commit: Commit) -> None:
    """Replace the journal. When this returns it is on the disk; the outputs have to be there before."""
    body = json.dumps(asdict(commit), separators=(",", ":"))
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(f"podium-job {FORMAT} {zlib.crc32(body.encode()):08x}\n{body}\n")
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk, so that they survive a power cut too."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # Some file systems (folders that a virtual machine shares) cannot be asked.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(opened)


def read(path: Path) -> Commit | None:
    """Return the last commit; None where there is no journal.

    Raises:
        FailedPrecondition: it is damaged, or of another version.

    """
    try:
        head, _, body = path.read_text("utf-8").partition("\n")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        head, body = "", ""
    match head.split():
        case ["podium-job", version, _] if version != str(FORMAT):
            raise FailedPrecondition(
                f"{path} has format {version}, and this version of Podium reads {FORMAT}; begin anew with --restart"
            )
        case ["podium-job", _, seal] if seal == f"{zlib.crc32(body.removesuffix(chr(10)).encode()):08x}":
            return Commit(**json.loads(body))
    raise FailedPrecondition(f"{path} is damaged, so that nobody knows what is done; begin anew with --restart")


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs between two identities, as a sentence's part; empty where nothing does.

    What lies deep is told by its path: `its models.judge.content was "1f2e" and is "9a0b"`.
    """
    # As JSON keeps them: a tuple has become a list.
    return "; ".join(_differences("", was, json.loads(json.dumps(now))))


def _differences(path: str, was: Any, now: Any) -> Iterator[str]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*was, *now)):
            yield from _differences(f"{path}.{name}" if path else name, was.get(name), now.get(name))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for place, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _differences(f"{path}[{place}]", one, other)
    elif was != now:
        yield f"{path} was {_shown(was)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    text = "unset" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
