"""What the lines of a job depend on of its configuration: a run goes on with what another began if these are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from podium_server.backends.model_files import content_of
from podium_server.config import Config, CrossEncoderModel, Model, OpenVinoModel, SentenceTransformersModel, VllmModel
from podium_strategies import prompts

# Of a model's section: how it is reached, not what it answers. A job may go on with others.
HOW_REACHED = {
    "prices", "concurrency", "requests_per_minute", "tokens_per_minute", "queue", "attempts", "reply_wait_s",
    "base_url", "api_key_env", "cache_mib", "threads", "device", "batch",
}  # fmt: skip


def stages_of(config: Config, pipeline: str | None) -> dict[str, Any]:
    """Return a pipeline's section, without what is said of it."""
    section = config.pipelines.get(pipeline) if pipeline is not None else None
    return section.model_dump(mode="json", exclude={"description"}) if section is not None else {}


def prompts_of(stages: Any, *others: str | None) -> dict[str, str]:
    """Return the hashes of the prompts that stages name, and of others, as a file's path stays when its text changes.

    Raises:
        podium_strategies.prompts.UnknownPrompt: there is none of that name.
        podium_strategies.prompts.file.InvalidPromptFile: the file cannot be used.

    """
    named = [*_prompts_in(stages), *(other for other in others if other)]
    return {name: prompts.load(name).digest for name in sorted(set(named))}


def models_of(config: Config, pipeline: str | None, *others: str) -> dict[str, Any]:
    """Return the sections of the models that a pipeline names, and of others by name, without how they are reached.

    Of a model whose files are on this machine also what they hold: it may have been trained further under its name.
    """
    section = config.pipelines.get(pipeline) if pipeline is not None else None
    told = section.model_dump_json() if section is not None else ""
    return {name: _told(model) for name, model in config.models.items() if f'"{name}"' in told or name in others}


def _told(model: Model) -> dict[str, Any]:
    told = model.model_dump(mode="json", exclude=HOW_REACHED)
    local = isinstance(model, OpenVinoModel | SentenceTransformersModel | CrossEncoderModel | VllmModel)
    content = content_of(model.model) if local else ""
    return {**told, "content": content} if content else told


def _prompts_in(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for name, inner in value.items():
                if name == "prompt" and isinstance(inner, str):
                    yield inner
                else:
                    yield from _prompts_in(inner)
        case list():
            for inner in value:
                yield from _prompts_in(inner)
