"""The job behind `podium synthesize`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from podium_server.cli.job_runs import job_collection
from podium_server.cli.job_runs.label import met
from podium_server.cli.job_runs.workshop import Workshop, configured, files_of, run, teacher_identity, tell
from podium_server.compose import Podium
from podium_server.config import OpenAIModel, VllmModel
from podium_server.errors import FailedPrecondition, InvalidRequest
from podium_server.jobs import lists
from podium_server.labels.query_prompt import WRITE_QUERIES, Example
from podium_server.labels.shapes import shaped
from podium_server.labels.synthesis import PairResults, SynthesisSettings, Synthesist, document_of
from podium_server.labels.teacher import podium_version

EXAMPLES_MAX = 10_000


@dataclass(slots=True)
class SynthesisJob:
    """One run of the command.

    Args:
        workshop: what it works with.
        source: of the documents.
        settings: of the writing and the filter.
        given: the command's options.

    """

    workshop: Workshop
    source: lists.Source
    settings: SynthesisSettings
    given: Mapping[str, Any]

    @classmethod
    def prepared(cls, given: Mapping[str, Any]) -> SynthesisJob:
        """Open the input and read the configuration.

        Raises:
            NotFound, FailedPrecondition: there is no such model, or it writes nothing.

        """
        files = files_of(given, given["source"])
        source = lists.opened(given["source"], limit=given["limit"], parse=shaped(document_of, "document"))
        config = configured(given["config_path"], given["concurrency"])
        data_dir = None if given["collection"] is None else (given["data_dir"] or config.server.data_dir)
        if given["within"] > config.limits.recall_depth:
            raise click.UsageError(
                f"--within is {given['within']}, and limits.recall_depth is {config.limits.recall_depth}"
            )
        settings = SynthesisSettings(
            collection=given["collection"] or job_collection.OWN,
            queries=given["queries"],
            recalled_within=given["within"],
            temperature=given["temperature"],
            seed=given["seed"],
            examples=examples_in(given["examples"]) if given["examples"] is not None else (),
            examples_shown=given["examples_shown"],
            min_words=given["min_words"],
            weights=job_collection.weights(given["retrievers"]),
        )
        return cls(Workshop(config, data_dir, files, collections=True), source, settings, given)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the pairs depend on, beside the documents."""
        given = self.given
        asked = ("model", "collection", "queries", "within", "retrievers", "temperature", "seed", "min_words")
        return {
            "command": "synthesize",
            **teacher_identity(self.workshop.config, None, [given["model"]]),
            **{name.replace("_", " "): given[name] for name in asked},
            "examples": [[one.query, one.document] for one in self.settings.examples],
            "examples shown": given["examples_shown"],
            "prompt": WRITE_QUERIES.id,
            "podium": podium_version(),
        }

    async def run(self) -> int:
        """Write for every document, and tell of it; return the exit code."""
        workshop = self.workshop
        async with workshop.opened() as podium:
            synthesist = await self._synthesist(podium)
            code, results = await run(
                self.given,
                workshop.files,
                self.identity,
                self.source,
                synthesist,
                PairResults,
                workshop,
                noun="document",
                did="done",
            )
        tell(told_of(results.counts))
        return code

    async def _synthesist(self, podium: Podium) -> Synthesist:
        given, config = self.given, self.workshop.config
        section = podium.models_by_name.section(given["model"])
        if not isinstance(section, OpenAIModel | VllmModel):
            raise FailedPrecondition(f"the model {given['model']!r} (backend {section.backend!r}) writes no text")
        await met(podium, {given["model"]})
        await job_collection.ready(podium, given["collection"], () if given["collection"] else (Path(given["source"]),))
        return Synthesist(
            podium.models_by_name.chat(given["model"]),
            job_collection.store_of(podium),
            self.settings,
            config.limits,
            provenance={
                "by": "podium synthesize",
                "podium": podium_version(),
                "model": given["model"],
                "model_id": section.model,
                "prompt": WRITE_QUERIES.id,
                "prompt_hash": WRITE_QUERIES.digest,
                "temperature": given["temperature"],
                "seed": given["seed"],
                "examples": min(len(self.settings.examples), given["examples_shown"]),
                "within": given["within"],
            },
            price_table_version=section.prices.version,
            cache=podium.verdicts,
        )


def examples_in(path: Path) -> tuple[Example, ...]:
    """Return the examples of a file.

    Raises:
        InvalidRequest: a line is none, with its number.

    """
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            document = row.get("positive", row.get("text"))
            query = row["query"]
        except (ValueError, KeyError, AttributeError, TypeError):
            query = document = None
        if not (isinstance(query, str) and isinstance(document, str) and query.strip() and document.strip()):
            raise InvalidRequest(f"{path}, line {number}", 'is no example; {"query", "positive"} is needed')
        found.append(Example(document, query))
    if len(found) > EXAMPLES_MAX:
        raise InvalidRequest(str(path), f"has {len(found):,} examples; at most {EXAMPLES_MAX:,}")
    return tuple(found)


def told_of(counts: Mapping[str, float]) -> Sequence[str]:
    """Return what the summary tells of pairs."""
    number = {name: int(value) for name, value in counts.items()}
    written, pairs = number.pop("written", 0), number.pop("pairs", 0)
    astray, twice = number.pop("not recalled", 0), number.pop("written before", 0)
    number.pop("documents", None)
    told = [f"{pairs:,} pairs of {written:,} queries: {astray:,} did not lead back, {twice:,} were written before"]
    return told + [f"{name}: {value:,}" for name, value in number.items() if value]
