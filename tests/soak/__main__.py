"""`python -m tests.soak [--minutes 10] [--seed 1] [--out FILE.md]`: exit code 1 where a law is broken."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
from pathlib import Path

from tests.soak.place import place
from tests.soak.report import report
from tests.soak.run import Run

BEYOND_S = 240.0
"""Behind the time that was asked for, restarts and readings included, the run is stopped."""


def main() -> int:
    """Run, print the tables, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="under load, about  [default: 10]")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="where the tables are written, too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the server's logs there")
    given = parser.parse_args()
    with place() as where:
        run = Run(where, given.minutes * 60, given.seed, lambda text: print(text, file=sys.stderr, flush=True))
        try:
            asyncio.run(_bounded(run))
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
        finally:
            if given.keep is not None:
                given.keep.mkdir(parents=True, exist_ok=True)
                for log in where.folder.glob("*.log"):
                    shutil.copy(log, given.keep)
        command = f"python -m tests.soak --minutes {given.minutes:g} --seed {given.seed}"
        text = report(run, command)
    print(text)
    if given.out is not None:
        given.out.write_text(text)
    return 1 if any(law.kept is False for law in run.laws) else 0


async def _bounded(run: Run) -> None:
    """Run, for no longer than that. SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.timeout(run.seconds + BEYOND_S):
            await run.go()
        return
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
