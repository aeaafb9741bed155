"""A set of files that grow together and resume together.

A job reads items one after another and writes what it makes of each to one or more files. `Outputs` keeps them in
step: whatever happens, at any moment, the same job that is started again goes on behind the last item that was whole
in all of them, and what it writes in the end is byte for byte what an undisturbed run writes::

    outputs = Outputs(
        {"out": "labels.jsonl", "run": "labels.trec.gz"},   # name → path
        identity={"command": "label", "pipeline": "best", "shuffles": 3},
        keep=tally.as_data,                                 # → JSON-able; called at each commit
        restart=False,                                      # --restart
    )
    tally = Tally.from_data(outputs.state)                  # {} where the job begins
    with outputs:                                           # left in peace: finished; by an error: what is done is kept
        for item in islice(items, outputs.items, None):     # `items` counts what is done already
            outputs.write("out", line)                      # any number of lines to any of the files
            outputs.write("run", line)
            outputs.done()                                  # the item is whole; commits when it is time

Rules for who uses it:

- Items are written in the order of the input; `done` once for each, those without any line too.
- Lines must hold nothing that differs between runs (times, cache hits, money); such things go into `state`, which a
  summary can be made of at the end, or into a file that is no part of the promise.
- `identity` holds all that the lines depend on, except the input: names are shown to the user where a value differs.
  Of the input keep a seal in the state (`jobs.lists` makes one) and compare it after skipping.
- `keep` must describe exactly the items that are `done`.
- Where `outputs.whole` is true after opening, the job had ended, and only its files' names were missing; they have
  them now, there is nothing to do, and `state` is that of the end.

The files are `PATH.part` until they are whole, and the journal (the first file's path and `.journal`) lies beside
them. Names in `.gz` are compressed, in members whose ends depend on the lines alone. Names in `.parquet` are JSON lines
until the end, and are turned into Parquet when they are whole. A commit is made every second or so: an fsync of each
file, and then the journal. What is no plain file (`-`, a pipe, a device) is written directly; a job with such an output
cannot be resumed, and has no journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from podium_server.errors import FailedPrecondition
from podium_server.jobs import journal, sinks
from podium_server.jobs.journal import Commit
from podium_server.jobs.sinks import Sink

COMMIT_EVERY_S = 1.0
# On a slow disk the commits are farther apart, so that the job spends a twentieth of its time on them at most.
COMMIT_SHARE_MAX = 0.05


@dataclass(slots=True)
class Outputs:
    """The files of a job; see the module. As a context: left in peace they get their names, else they stay parts.

    Args:
        paths: of the files, by names of the caller's; `-` is standard output. The first one names the journal.
        identity: what the lines depend on, by names that a user understands.
        keep: returns what the job wants to know again; called at each commit.
        restart: throw away what an earlier run has left.
        every_s: between two commits.

    Raises:
        FailedPrecondition: what is there was made by another job, or is being written by another process.
        OSError: a file cannot be opened.

    """

    paths: Mapping[str, str]
    identity: Mapping[str, Any]
    keep: Callable[[], Mapping[str, Any]]
    restart: bool = False
    every_s: float = COMMIT_EVERY_S

    items: int = field(init=False, default=0)
    """Of the input that are done, those of earlier runs included."""
    state: Mapping[str, Any] = field(init=False, default_factory=dict)
    """What was kept with the last commit of an earlier run."""
    whole: bool = field(init=False, default=False)
    """The job had ended already."""
    resumed: bool = field(init=False, default=False)
    _journal: Path | None = field(init=False, default=None)
    _sinks: dict[str, Sink] = field(init=False, default_factory=dict)
    _commit_at: float = field(init=False, default=0.0)
    _half_written: bool = field(init=False, default=False)
    _lock: BinaryIO | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if len(set(self.paths.values())) < len(self.paths):
            raise ValueError(f"two outputs have the same path: {', '.join(self.paths.values())}")
        if all(map(sinks.is_plain, self.paths.values())):
            self._journal = Path(next(iter(self.paths.values())) + journal.SUFFIX)
            self._lock = _locked(self._journal)
        try:
            commit = self._found()
            if commit is not None and commit.whole:
                self._take_names()
                self.items, self.state, self.whole = commit.items, commit.state, True
                return
            self._open(commit)
        except BaseException:
            self._release()
            raise

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, name: str, line: str) -> None:
        """Write one line of the item that is at work, without its end."""
        self._half_written = True
        self._sinks[name].write(line.encode("utf-8", "backslashreplace") + b"\n")

    def done(self) -> None:
        """End an item: all its lines are written. Commits when it is time."""
        self.items += 1
        self._half_written = False
        for sink in self._sinks.values():
            sink.item_done()
        if self._journal is not None and time.monotonic() >= self._commit_at:
            self.commit()

    def commit(self) -> None:
        """Bring everything that is done to the disk. What a crash leaves is never behind this."""
        if self._journal is None:
            return
        began = time.monotonic()
        self._put_down(whole=False)
        now = time.monotonic()
        self._commit_at = now + max(self.every_s, (now - began) / COMMIT_SHARE_MAX)

    def finish(self) -> None:
        """Give all files their names: what they should hold is in them, and on the disk."""
        if self.whole:
            return
        for sink in self._sinks.values():
            sink.finish()
        if self._journal is not None:
            self._put_down(whole=True)
        self._take_names()
        self.whole = True

    def leave(self) -> None:
        """Commit, and close the files as they are, under the names of parts. An item that is half written is lost."""
        if self.whole:
            return
        try:
            if not self._half_written:
                self.commit()
        finally:
            for sink in self._sinks.values():
                sink.close()
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        else:
            # What went wrong before may be the disk itself: then the commit before this one stands.
            with contextlib.suppress(OSError):
                self.leave()

    # --- where things are ---------------------------------------------------------------------------------------

    def is_plain(self, name: str) -> bool:
        """Tell whether an output is a file that gets its name in the end."""
        return sinks.is_plain(self.paths[name])

    def written_to(self, name: str) -> str:
        """Return where an output's lines are until it is whole."""
        path = self.paths[name]
        return path + sinks.PART if sinks.is_plain(path) else path

    # --- going on -----------------------------------------------------------------------------------------------

    def _found(self) -> Commit | None:
        """Return what an earlier run has left, if that is ours."""
        if self._journal is None or self.restart:
            return None
        commit = journal.read(self._journal)
        if commit is None:
            for name in self.paths:
                if Path(self.written_to(name)).exists():
                    raise FailedPrecondition(
                        f"{self.written_to(name)} is there, and no {self._journal} that says what of it is whole; "
                        "remove it, or begin anew with --restart"
                    )
            return None
        if not commit.items and not commit.state:
            return None  # it was killed, or refused, before anything was done
        identity = {**self.identity, "outputs": dict(self.paths)}
        if different := journal.differences(commit.identity, identity):
            raise FailedPrecondition(
                f"{self.written_to(next(iter(self.paths)))} was made by another job: {different}. Run that job again "
                "to end it, write elsewhere, or begin anew with --restart"
            )
        return commit

    def _open(self, commit: Commit | None) -> None:
        if commit is None:
            if self._journal is not None:
                # Before the first part: a part without a journal is not ours.
                journal.write(self._journal, Commit({**self.identity, "outputs": dict(self.paths)}))
            marks: Mapping[str, Any] = {}
        else:
            self.items, self.state, marks = commit.items, commit.state, commit.marks
            self.resumed = commit.items > 0
        for name, path in self.paths.items():
            self._sinks[name] = sinks.opened(path, marks.get(name))
        self._sync_folders()
        self._commit_at = time.monotonic() + self.every_s

    def _put_down(self, *, whole: bool) -> None:
        assert self._journal is not None
        marks = {} if whole else {name: sink.commit() for name, sink in self._sinks.items()}
        identity = {**self.identity, "outputs": dict(self.paths)}
        journal.write(self._journal, Commit(identity, self.items, marks, self.keep(), whole))

    def _take_names(self) -> None:
        """Rename what is whole; an earlier run may have begun with it."""
        for path in self.paths.values():
            if not sinks.is_plain(path):
                continue
            part, final = sinks.renames(path)
            if part.exists():
                part.replace(final)
            Path(path + sinks.PART).unlink(missing_ok=True)
        if self._journal is not None:
            # A part that has no name yet after a power cut needs the journal.
            self._sync_folders()
            self._journal.unlink(missing_ok=True)
        self._release()

    def _sync_folders(self) -> None:
        """Bring the names of our files to the disk; they may lie in other folders than the journal."""
        if self._journal is not None:
            for folder in {Path(path).parent for path in self.paths.values()}:
                journal.sync_folder(folder)

    def _release(self) -> None:
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


def _locked(path: Path) -> BinaryIO:
    """Take the lock of a journal: two processes must not write the same files.

    Raises:
        FailedPrecondition: another process has it.

    """
    place = path.with_name(path.name + ".lock")
    while True:
        stream = place.open("ab")  # held until the end
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            name = str(path).removesuffix(journal.SUFFIX)
            raise FailedPrecondition(f"another process is at work on {name}") from None
        # Whoever had it may have removed the file between our two steps; then we hold the lock of nothing.
        if place.exists() and os.path.samestat(os.fstat(stream.fileno()), place.stat()):
            return stream
        stream.close()
