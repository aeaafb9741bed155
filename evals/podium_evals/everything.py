"""All that can be measured on the data folder, by one command: what `make evals` runs.

Every part that was asked for is in the results, or is named among what is missing, with the reason.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podium_evals.catalogue import DL19, SUITES, Known
from podium_evals.first_stage import DEPTH
from podium_evals.indexed import Indexed
from podium_evals.recorded import RECORDINGS, replayed
from podium_evals.results import FIRST_STAGE, Missing, Timing
from podium_evals.runner import Here, Place
from podium_evals.session import Session, Watcher
from podium_evals.suite import Suite, SuiteError
from podium_server import config as config_file
from podium_server.config import Config, OpenAIEmbeddingsModel, OpenAIModel, RerankApiModel, VllmModel

PARTS = ("suites", "recordings", "simulated", "peers")
SHIPPED = Path(__file__).with_name("shipped.toml")
"""The built-in configuration with a price for the processors."""
UNTRAINED = Path(__file__).with_name("untrained.toml")
UNTRAINED_PIPELINES = ("untrained-cosine", "untrained-maxsim")
"""What the shipped models have to be better than."""
BM25_ON_DL19 = 0.5058
"""nDCG@10, published."""


@dataclass(frozen=True, slots=True)
class Everything:
    """What is to be done.

    Args:
        data: the folder with `eval/` and `recordings/`.
        config: whose pipelines are run.
        out: folder of what is written.
        parts: of `PARTS`.
        queries: of each suite at most, for a look; None takes what there is time for.
        whole: all queries of all suites.
        peers: a JSON file that `bench/peers.py` wrote.
        seed: of resampling and of the simulated judge.

    """

    data: Path
    config: Config
    out: Path
    parts: Sequence[str] = PARTS
    queries: int | None = None
    whole: bool = False
    peers: Path | None = None
    seed: int = 0

    async def run(self, watcher: Watcher) -> Session:
        """Do it; what ends it early is told in the session.

        Raises:
            SuiteError: there is not one suite.

        """
        began = time.monotonic()
        missing: list[Missing] = []
        known = SUITES if "suites" in self.parts else (DL19,)
        suites = [(each, suite) for each in known if (suite := self._read(each, missing)) is not None]
        if not suites:
            raise SuiteError(f"{self.data}: has none of the suites: " + "; ".join(one.why for one in missing))
        session = Session(
            [suite for _, suite in suites],
            watcher,
            self.out,
            FIRST_STAGE,
            seed=self.seed,
            references={suite.name: each.references for each, suite in suites},
            missing=missing,
            timings=[Timing("reading the suites", time.monotonic() - began)],
        )
        dl19 = next((suite for each, suite in suites if each is DL19), None)
        doers: dict[str, Callable[[], Awaitable[None]]] = {
            "suites": lambda: self._suites(session),
            "recordings": lambda: self._recordings(session, dl19),
            "simulated": lambda: self._simulated(session, dl19),
            "peers": lambda: self._peers(session),
        }
        for part, do in doers.items():
            if part not in self.parts:
                session.missing.append(Missing(part, f"not asked for (--part {part})"))
            elif session.interrupted and part != "recordings":
                session.missing.append(Missing(part, "interrupted before it began"))
            else:
                await do()
        session.sections["published"] = published(session, dl19)
        return session

    def _read(self, known: Known, missing: list[Missing]) -> Suite | None:
        try:
            return known.read(self.data, self.queries, whole=self.whole)
        except SuiteError as error:
            missing.append(Missing(known.name, str(error)))
            return None

    async def _suites(self, session: Session) -> None:
        names = []
        for name in self.config.pipelines:
            if endpoints := _endpoints(self.config, name):
                session.missing.append(
                    Missing(f"pipeline {name}", f"asks {', '.join(endpoints)}, and no network is used")
                )
            else:
                names.append(name)
        with tempfile.TemporaryDirectory(prefix="podium-evals-") as folder:
            for config, pipelines in ((self.config, names), (config_file.load(UNTRAINED), UNTRAINED_PIPELINES)):
                encoder = config.server.default_encoder
                place: Place = Indexed(Here(config), Path(folder) / encoder, DEPTH, session.watcher.say)
                if isinstance(config.models.get(encoder), OpenAIEmbeddingsModel):
                    session.missing.append(Missing("the index", f"{encoder} is an endpoint, and no network is used"))
                    place = Here(config)
                await session.run(place, pipelines)

    async def _recordings(self, session: Session, dl19: Suite | None) -> None:
        lists = self.data / "eval" / DL19.source
        for recorded in RECORDINGS:
            path = self.data / "recordings" / f"{recorded.file}.jsonl.gz"
            if dl19 is None or not path.exists():
                session.missing.append(Missing(recorded.name, f"needs {path} and the suite {DL19.name}"))
                continue
            work = replayed(dl19, recorded, self.data, lists, session.watcher.advance)
            await session.run_one(dl19, recorded.name, work)

    async def _simulated(self, session: Session, dl19: Suite | None) -> None:
        """Have the table made by its own command, which spreads over the processors and can be ended."""
        if dl19 is None:
            session.missing.append(Missing("simulated", f"needs the suite {DL19.name}"))
            return
        table = self.out / "simulated.json"
        table.unlink(missing_ok=True)
        arguments = ["--suite", f"{DL19.name}={self.data / 'eval' / DL19.source}", "--out", str(table)]
        arguments += ["--qrels", str(self.data / "eval" / str(DL19.qrels))]
        arguments += [] if self.queries is None else ["--queries", str(self.queries), "--seeds", "1", "--light"]
        began = time.monotonic()
        session.watcher.say("the simulated judge: every strategy at three levels of noise")
        maker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "podium_server", "eval", "simulate-table", *arguments
        )
        try:
            code = await maker.wait()
        except asyncio.CancelledError:
            session.interrupted = True
            session.missing.append(Missing("simulated", "interrupted"))
            return
        finally:
            if maker.returncode is None:
                maker.terminate()
                await maker.wait()
        if code != 0:
            session.missing.append(Missing("simulated", f"podium eval simulate-table ended with exit code {code}"))
            return
        session.timings.append(Timing("simulated", time.monotonic() - began))
        session.sections["simulated"] = json.loads(table.read_text("utf-8"))

    async def _peers(self, session: Session) -> None:
        if self.peers is None or not self.peers.exists():
            where = f"{self.peers} is not there" if self.peers else "no file is named"
            session.missing.append(Missing("peers", f"{where}: bench/peers.py makes it (--peers FILE)"))
            return
        try:
            session.sections["peers"] = json.loads(self.peers.read_text("utf-8"))
        except ValueError as error:
            session.missing.append(Missing("peers", f"{self.peers} is not JSON: {error}"))


def published(session: Session, dl19: Suite | None) -> list[dict[str, Any]]:
    """Return the published figures beside those that were found, to four digits; what was not run is not found."""
    figures = {"BM25 (first stage)": (FIRST_STAGE, BM25_ON_DL19)}
    figures |= {recorded.name: (recorded.name, recorded.ndcg) for recorded in RECORDINGS}
    summaries = {} if dl19 is None else session.evaluation(dl19).summaries
    cut = dl19 is None or any("the first" in warning for warning in dl19.warnings)
    rows = []
    for what, (name, figure) in figures.items():
        found = None if cut or name not in summaries else round(summaries[name].means["nDCG@10"].value, 4)
        rows.append(
            {
                "what": f"{what}, DL19, nDCG@10",
                "published": figure,
                "found": found,
                "same": None if found is None else found == figure,
            }
        )
    return rows


def _endpoints(config: Config, pipeline: str) -> list[str]:
    """Return the models that a pipeline names and that are not those of this process, or not for two processors."""
    said = config.pipelines[pipeline].model_dump_json()
    return [
        name
        for name, model in config.models.items()
        if isinstance(model, OpenAIModel | OpenAIEmbeddingsModel | RerankApiModel | VllmModel) and f'"{name}"' in said
    ]
