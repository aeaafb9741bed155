"""Outputs that grow and resume together: wherever a job is cut off, it ends with the same bytes."""

from __future__ import annotations

import errno
import gzip
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.errors import FailedPrecondition
from podium_server.jobs import journal
from podium_server.jobs.outputs import Outputs
from podium_server.jobs.sinks import MEMBER_BYTES


class Killed(BaseException):
    """The process is gone: nothing is flushed, committed or closed."""


def item_lines(item: int) -> list[tuple[str, str]]:
    """What a job writes of an item: some have no line, some have many, some are long."""
    return [("out", f"{item} " + "x" * (item * 7919 % 30_000)), *(("run", f"{item} {i}") for i in range(item % 4))][
        : 0 if item % 5 == 3 else None
    ]


class Job:
    """Writes its items, and can be killed between any two writes; what was committed is all that it leaves."""

    def __init__(self, folder: Path, paths: Mapping[str, str], items: int) -> None:
        self.folder, self.items = folder, items
        self.paths = {name: str(folder / path) for name, path in paths.items()}
        self.sum = 0

    def outputs(self, **more: Any) -> Outputs:
        return Outputs(self.paths, {"job": "test"}, lambda: {"sum": self.sum}, **more)

    def run(self, *, kill_after: int | None = None, commit_every: int = 7) -> None:
        outputs = self.outputs(every_s=1e9)
        self.sum = outputs.state.get("sum", 0)
        writes = 0
        if outputs.whole:
            return
        for item in range(outputs.items, self.items):
            for name, line in item_lines(item):
                writes += 1
                if writes == kill_after:
                    self._kill(outputs)
                outputs.write(name, line)
            self.sum += item
            outputs.done()
            if item % commit_every == 0:
                outputs.commit()
        if kill_after is not None and kill_after > writes:
            self._kill(outputs)
        outputs.finish()

    def _kill(self, outputs: Outputs) -> None:
        # What the system has of the files stays; half of what is in our buffers has got out, too.
        for sink in outputs._sinks.values():
            sink._stream.flush()  # type: ignore[attr-defined]
        if outputs._lock is not None:
            outputs._lock.close()
        raise Killed

    def result(self) -> dict[str, bytes]:
        return {name: Path(path).read_bytes() for name, path in self.paths.items()}


PLAIN = {"out": "out.jsonl", "run": "out.trec"}
PACKED = {"out": "out.jsonl.gz", "run": "out.trec.gz"}


@settings(max_examples=40, deadline=None)
@given(
    kills=st.lists(st.integers(1, 200), max_size=6),
    commit_every=st.integers(1, 20),
    paths=st.sampled_from([PLAIN, PACKED]),
)
def test_however_often_it_is_killed_it_ends_with_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], commit_every: int, paths: Mapping[str, str]
) -> None:
    undisturbed = Job(tmp_path_factory.mktemp("undisturbed"), paths, 60)
    undisturbed.run()
    killed = Job(tmp_path_factory.mktemp("killed"), paths, 60)
    for kill_after in kills:
        try:
            killed.run(kill_after=kill_after, commit_every=commit_every)
        except Killed:
            continue
        break
    killed.run()

    assert killed.result() == undisturbed.result()
    assert killed.sum == undisturbed.sum == sum(range(60))
    assert {path.name for path in killed.folder.iterdir()} == set(paths.values())


def test_members_of_a_gzip_file_do_not_depend_on_commits(tmp_path: Path) -> None:
    (tmp_path / "often").mkdir()
    (tmp_path / "never").mkdir()
    often, never = Job(tmp_path / "often", PACKED, 60), Job(tmp_path / "never", PACKED, 60)
    often.run(commit_every=1)
    never.run(commit_every=1_000)

    assert often.result() == never.result()
    text = gzip.decompress(often.result()["out"])
    assert len(text) > 3 * MEMBER_BYTES
    assert text.splitlines() == [
        line.encode() for item in range(60) for name, line in item_lines(item) if name == "out"
    ]


def test_nothing_makes_whole_files_too(tmp_path: Path) -> None:
    Job(tmp_path, PLAIN | {"packed": "p.gz"}, 0).run()

    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert gzip.decompress((tmp_path / "p.gz").read_bytes()) == b""


def test_a_job_that_is_killed_between_its_end_and_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, PLAIN, 20)

    def dies(outputs: Outputs) -> None:
        Path(job.paths["out"] + ".part").replace(job.paths["out"])
        outputs._release()
        raise Killed

    monkeypatch.setattr(Outputs, "_take_names", dies)
    with pytest.raises(Killed):
        job.run()
    monkeypatch.undo()
    outputs = job.outputs()

    assert outputs.whole
    assert outputs.state == {"sum": sum(range(20))}
    assert {path.name for path in tmp_path.iterdir()} == set(PLAIN.values())
    assert (tmp_path / "out.trec").read_bytes().startswith(b"1 0\n")


def test_an_item_that_is_half_written_when_the_disk_is_full_is_written_once(tmp_path: Path) -> None:
    job = Job(tmp_path, PLAIN, 10)

    def write_until_it_is_full() -> None:
        with job.outputs() as outputs:
            outputs.write("out", "first")
            outputs.done()
            outputs.commit()
            outputs.write("out", "half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_until_it_is_full()
    with job.outputs() as outputs:
        assert outputs.items == 1
        outputs.write("out", "whole")
        outputs.done()

    assert (tmp_path / "out.jsonl").read_text() == "first\nwhole\n"


def begun(tmp_path: Path) -> Job:
    job = Job(tmp_path, PLAIN, 20)
    with pytest.raises(Killed):
        job.run(kill_after=25)
    return job


def test_another_jobs_part_is_refused_with_what_differs(tmp_path: Path) -> None:
    job = begun(tmp_path)
    before = Path(job.paths["out"] + ".part").read_bytes()

    with pytest.raises(FailedPrecondition, match=r'job was "test" and is "other".*--restart'):
        Outputs(job.paths, {"job": "other"}, dict)
    with pytest.raises(FailedPrecondition, match=r"outputs\.run was"):
        Outputs({"out": job.paths["out"]}, {"job": "test"}, dict)

    assert Path(job.paths["out"] + ".part").read_bytes() == before


def test_restart_begins_anew(tmp_path: Path) -> None:
    job = begun(tmp_path)
    with Outputs(job.paths, {"job": "other"}, dict, restart=True) as outputs:
        assert outputs.items == 0
        outputs.write("out", "new")
        outputs.done()
    assert (tmp_path / "out.jsonl").read_text() == "new\n"
    assert (tmp_path / "out.trec").read_text() == ""


def test_two_processes_do_not_write_the_same_files(tmp_path: Path) -> None:
    job = Job(tmp_path, PLAIN, 5)
    outputs = job.outputs()
    with pytest.raises(FailedPrecondition, match="another process is at work"):
        job.outputs()
    outputs.leave()
    job.outputs().leave()


@pytest.mark.parametrize("keep", [0, 10, 40, 200])
def test_a_journal_that_is_torn_is_refused(tmp_path: Path, keep: int) -> None:
    job = begun(tmp_path)
    place = Path(job.paths["out"] + journal.SUFFIX)
    place.write_bytes(place.read_bytes()[:keep])

    with pytest.raises(FailedPrecondition, match=r"is damaged.*--restart"):
        job.outputs()


def test_a_new_journal_that_was_not_finished_counts_for_nothing(tmp_path: Path) -> None:
    """The process was killed while it wrote the next commit: the one before stands."""
    job = begun(tmp_path)
    place = Path(job.paths["out"] + journal.SUFFIX)
    place.with_name(place.name + ".new").write_bytes(place.read_bytes()[:17])
    undisturbed = Job(tmp_path, {"out": "u.jsonl", "run": "u.trec"}, 20)
    undisturbed.run()
    job.run()

    assert job.result() == undisturbed.result()


def test_names_survive_a_power_cut_in_every_folder_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal lies beside the first file, and says what the others hold."""
    (other := tmp_path / "other").mkdir()
    sync = os.fsync
    listed: list[list[str]] = []

    def noted(fd: int) -> None:
        sync(fd)
        if os.path.samestat(os.fstat(fd), other.stat()):
            listed.append(sorted(path.name for path in other.iterdir()))

    monkeypatch.setattr(os, "fsync", noted)
    with Outputs({"out": str(tmp_path / "o"), "run": str(other / "r")}, {}, dict) as outputs:
        assert listed == [["r.part"]]
        outputs.done()
    assert listed[-1] == ["r"]


def test_a_file_system_that_cannot_sync_a_folder_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refusing(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(fd)

    monkeypatch.setattr(os, "fsync", refusing)
    with Outputs({"out": str(tmp_path / "o")}, {}, dict) as outputs:
        outputs.write("out", "a line")
        outputs.done()
    assert (tmp_path / "o").read_text() == "a line\n"


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    job = begun(tmp_path)
    place = Path(job.paths["out"] + journal.SUFFIX)
    place.write_text(place.read_text().replace("podium-job 1", "podium-job 2"))

    with pytest.raises(FailedPrecondition, match="has format 2"):
        job.outputs()


def test_a_part_that_was_cut_is_refused(tmp_path: Path) -> None:
    job = begun(tmp_path)
    part = Path(job.paths["out"] + ".part")
    part.write_bytes(part.read_bytes()[:10])

    with pytest.raises(FailedPrecondition, match="has 10 bytes"):
        job.outputs()


def test_a_part_without_a_journal_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.part").write_text("precious\n")

    with pytest.raises(FailedPrecondition, match=r"no .*journal"):
        Job(tmp_path, PLAIN, 5).outputs()
    assert (tmp_path / "out.jsonl.part").read_text() == "precious\n"


def test_the_state_survives_as_it_was(tmp_path: Path) -> None:
    state = {"seal": 17, "text": "ü\n", "sums": [1.5, 2**60]}
    outputs = Outputs({"out": str(tmp_path / "o")}, {}, lambda: state)
    outputs.done()
    outputs.leave()

    again = Outputs({"out": str(tmp_path / "o")}, {}, lambda: state)
    assert again.state == json.loads(json.dumps(state))
    assert (again.items, again.resumed) == (1, True)
    again.leave()
