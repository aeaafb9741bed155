"""The job behind `podium label`: who the teacher is, and what is told of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podium_server.cli.job_runs.workshop import Workshop, configured, files_of, run, teacher_identity, tell
from podium_server.compose import Podium
from podium_server.config import Config, CrossEncoderModel, OpenAIModel, RerankApiModel, VllmModel
from podium_server.errors import FailedPrecondition
from podium_server.jobs import lists
from podium_server.jobs.ranking import Answer, Failed
from podium_server.labels.format import Unlabelled, error_record
from podium_server.labels.labeller import Labeller, Sampling
from podium_server.labels.made import MadeResults
from podium_server.labels.teacher import TeacherCard, podium_version
from podium_server.ranking.pipeline import Pipeline
from podium_server.ranking.request import RankRequest
from podium_strategies.plan import Grade, Liken


@dataclass(slots=True)
class LabelResults(MadeResults):
    """Writes labels; a list without one has an error in its place, so that the lines stay in step with the lists."""

    def lines(self, answer: Answer) -> tuple[Mapping[str, Any], ...]:
        """Return the line of an answer. A line that is no list, and has no name, is in no file."""
        if isinstance(answer, Failed):
            told = Unlabelled(answer.qid, answer.reason, answer.message)
            return () if answer.qid is None else (error_record(told),)
        return MadeResults.lines(self, answer)


@dataclass(slots=True)
class LabelJob:
    """One run of the command.

    Args:
        workshop: what it works with.
        source: of the lists.
        pipeline: the teacher's.
        given: the command's options.

    """

    workshop: Workshop
    source: lists.Source
    pipeline: str
    given: Mapping[str, Any]

    @classmethod
    def prepared(cls, given: Mapping[str, Any]) -> LabelJob:
        """Open the input and read the configuration.

        Raises:
            ConfigInvalid, OSError: either cannot be used.

        """
        files = files_of(given, given["source"])
        source = lists.opened(given["source"], limit=given["limit"])
        # Every list runs its shuffles side by side, each an own request to the encoders.
        config = configured(given["config_path"], given["concurrency"] * (1 + given["shuffles"]))
        pipeline = given["pipeline"] or config.server.default_pipeline
        return cls(Workshop(config, given["data_dir"], files), source, pipeline, given)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the labels depend on, beside the lists."""
        given = self.given
        asked = ("shuffles", "agreement_top", "pairs", "pairs_depth", "pairs_model", "pairs_prompt", "seed", "texts")
        others = [given["pairs_model"]] if given["pairs_model"] else []
        return {
            "command": "label",
            **teacher_identity(self.workshop.config, self.pipeline, others, given["pairs_prompt"]),
            **{name.replace("_", " "): given[name] for name in asked},
            "podium": podium_version(),
        }

    async def run(self) -> int:
        """Label everything, and tell of it; return the exit code."""
        workshop = self.workshop
        async with workshop.opened() as podium:
            labeller = await self._labeller(podium)
            code, results = await run(
                self.given,
                workshop.files,
                self.identity,
                self.source,
                labeller,
                LabelResults,
                workshop,
                noun="list",
                did="labelled",
            )
        tell(told_of(results.counts))
        return code

    async def _labeller(self, podium: Podium) -> Labeller:
        given, config = self.given, self.workshop.config
        pipeline = podium.reranker.pipeline(RankRequest("", (), pipeline=self.pipeline))
        check_shuffles(pipeline, config, given["shuffles"])
        sampling = self._sampling(pipeline, config)
        others = podium.reranker.pipeline(RankRequest("", (), inline=(sampling.inline,))).voices if sampling else ()
        await met(podium, {voice.judge.facts.model for voice in (*pipeline.voices, *others) if voice.judge})
        return Labeller(
            podium.reranker,
            TeacherCard(pipeline, config, given["seed"], given["shuffles"], others),
            config.limits,
            shuffles=given["shuffles"],
            top=given["agreement_top"],
            sampling=sampling,
            seed=given["seed"],
            texts=given["texts"],
        )

    def _sampling(self, pipeline: Pipeline, config: Config) -> Sampling | None:
        given = self.given
        if not given["pairs"]:
            return None
        return Sampling(
            given["pairs_model"] or last_chat_model(pipeline, config),
            given["pairs_prompt"],
            given["pairs"],
            given["pairs_depth"],
        )


def check_shuffles(pipeline: Pipeline, config: Config, shuffles: int) -> None:
    """Refuse to pay for shuffles that can show nothing.

    Raises:
        FailedPrecondition: every question is about one candidate, and nobody samples.

    """
    models = [config.models.get(voice.judge.facts.model) for voice in pipeline.voices if voice.judge is not None]
    sampled = any(isinstance(model, OpenAIModel | VllmModel) and model.temperature > 0 for model in models)
    if shuffles and pipeline.strategy.asks <= {Grade, Liken} and not sampled:
        raise FailedPrecondition(
            f"--shuffles {shuffles}: the pipeline {pipeline.name!r} grades one candidate at a time, and no order of "
            "the list changes that; leave --shuffles out"
        )


def last_chat_model(pipeline: Pipeline, config: Config) -> str:
    """Return the model that answers for the pipeline's last stage which asks a chat model.

    Raises:
        FailedPrecondition: there is none.

    """
    models = [voice.judge.facts.model for voice in pipeline.voices if voice.judge is not None]
    chats = [model for model in models if isinstance(config.models.get(model), OpenAIModel | VllmModel)]
    if not chats:
        raise FailedPrecondition(
            f"--pairs: the pipeline {pipeline.name!r} asks no chat model; name one with --pairs-model"
        )
    return chats[-1]


async def met(podium: Podium, models: set[str]) -> None:
    """Have every model say who it is before the first line is made: its revision is in every line.

    Raises:
        PodiumError: a model cannot be loaded, or does not answer.

    """
    known = podium.models_by_name
    for name in sorted(models):
        match known.section(name):
            case OpenAIModel() | VllmModel():
                await known.chat(name).capabilities()
            case CrossEncoderModel():
                await known.cross_encoder(name).batcher()
            case RerankApiModel():
                pass  # it says who it is with each reply, and until then is what the configuration calls it
            case _:
                await known.encoder(name).encoder()


def told_of(counts: Mapping[str, float]) -> Sequence[str]:
    """Return what the summary tells of labels."""
    told = []
    if number := counts.get("agreements"):
        told.append(
            f"agreement over shuffles: Kendall's tau {counts['kendall_tau'] / number:.3f}, "
            f"overlap of the first ranks {counts['top_overlap'] / number:.3f} (means)"
        )
    if pairs := counts.get("pairs"):
        told.append(f"verdicts on pairs: {pairs:,.0f}")
    if repaired := counts.get("repaired"):
        told.append(f"replies that had to be mended: {repaired:,.0f} of {counts['questions']:,.0f} questions")
    return told
