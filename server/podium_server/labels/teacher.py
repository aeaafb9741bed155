"""Who a teacher is: a pipeline's stages with their models and prompts, as a label tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from podium_server.config import Config, OpenAIModel, StageSection, VllmModel
from podium_server.labels.format import Teacher, TeacherStage
from podium_server.ranking.pipeline import Pipeline, Voice
from podium_strategies import prompts

# What stands in a field of its own, or is told by the stages inside.
_ELSEWHERE = frozenset({"strategy", "name", "model", "models", "prompt", "of", "base"})


@dataclass(frozen=True, slots=True)
class TeacherCard:
    """Tells who labels. The revisions are those of the moment: an endpoint says what it serves as it answers.

    Args:
        pipeline: the teacher's.
        config: where its models stand.
        seed: of shuffles and of models that sample.
        shuffles: runs beside the one over the list as given.
        others: voices that answer beside the pipeline (of sampled pairs).

    """

    pipeline: Pipeline
    config: Config
    seed: int = 0
    shuffles: int = 0
    others: tuple[Voice, ...] = ()

    def teacher(self, aggregate: str = "") -> Teacher:
        """Return the teacher of a label whose runs became one by `aggregate`."""
        stages = tuple(self._stage(voice) for voice in (*self.pipeline.voices, *self.others))
        return Teacher(self.pipeline.name, stages, self.seed, self.shuffles, aggregate, podium_version())

    def _stage(self, voice: Voice) -> TeacherStage:
        section, facts = voice.section, voice.judge.facts if voice.judge is not None else None
        model = self.config.models.get(facts.model) if facts is not None else None
        settings = _settings(section)
        if isinstance(model, OpenAIModel | VllmModel):
            settings["temperature"] = model.temperature
        return TeacherStage(
            stage=voice.role,
            strategy=section.strategy,
            options=_options(section),
            model=facts.model if facts is not None else "",
            model_id=model.model if model is not None else "",
            revision=facts.revision if facts is not None else "",
            prompt=facts.prompt_id if facts is not None else "",
            prompt_hash=prompt_hash(section.prompt, facts.prompt_id) if facts is not None else "",
            settings=settings,
        )


@lru_cache(maxsize=64)
def prompt_hash(named: str | None, prompt_id: str) -> str:
    """Return the hashes of the prompts behind an id (`a/1`, or `a/1+b/2`), joined as the ids are; empty for none.

    Args:
        named: what the stage calls its prompt, which may be a file's path.
        prompt_id: as the judge tells it.

    """
    if not prompt_id:
        return ""
    own = None if named is None else prompts.load(named)
    digests = []
    for one in prompt_id.split("+"):
        prompt = own if own is not None and own.id == one else prompts.load(one)
        digests.append(prompt.digest)
    return "+".join(digests)


@lru_cache(maxsize=1)
def podium_version() -> str:
    """Return the version of Podium that runs; empty where it is not installed."""
    try:
        return version("podium")
    except PackageNotFoundError:
        return ""


def _options(section: StageSection) -> Mapping[str, Any]:
    """Return the strategy's options as the configuration gives them, those of a wrapped strategy inside."""
    options = _plain(section.options)
    if section.base is not None:
        options["base"] = {"strategy": section.base.strategy, **_options(section.base)}
    return options


def _settings(section: StageSection) -> dict[str, Any]:
    """Return what the configuration says of the asking, beside model and prompt."""
    said = section.model_dump(mode="json", exclude_unset=True)
    inner = _settings(section.base) if section.base is not None else {}
    own = {key: value for key, value in said.items() if key not in _ELSEWHERE and key not in section.options}
    return {**own, **inner}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON can hold them: a value that a plug-in made itself is told by its repr."""
    return {key: value if _is_plain(value) else repr(value) for key, value in sorted(options.items())}


def _is_plain(value: Any) -> bool:
    match value:
        case None | bool() | int() | float() | str():
            return True
        case list() | tuple():
            return all(map(_is_plain, value))
        case dict():
            return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return False
