"""Which judge a stage of a pipeline gets of a model, and what a stage may not ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from podium_server.compose.backends import ChatSection, EncoderSection
from podium_server.config import (
    Config,
    CrossEncoderModel,
    LongDocumentsSection,
    OpenAIEmbeddingsModel,
    RerankApiModel,
    StageSection,
)
from podium_server.errors import ConfigInvalid, FailedPrecondition, NotFound
from podium_strategies.plan import Grade, Liken, Question
from podium_strategies.prompts.file import InvalidPromptFile

if TYPE_CHECKING:
    from podium_server.backends.chat.backend import ChatBackend
    from podium_server.backends.cross_encoders.seat import CrossEncoderSeat
    from podium_server.backends.rerank_api.api import RerankApi
    from podium_server.judges.chat.judge import ChatJudge
    from podium_server.judges.cross_encoder import CrossEncoderJudge
    from podium_server.judges.encoder import EncoderJudge, EncoderSeat, StoredVectors
    from podium_server.judges.passages import Reading
    from podium_server.judges.rerank_api import RerankApiJudge
    from podium_server.judges.verdict_cache import SqliteVerdictCache
    from podium_strategies.prompts.prompt import Prompt

Kinds = frozenset[type[Question[Any]]]

_OF_CROSS_ENCODERS = ("long_documents", "score")


def encoder_judge(
    section: StageSection,
    configured: EncoderSection,
    seat: EncoderSeat,
    asks: Kinds,
    *,
    late_interacting: bool,
    stored: StoredVectors | None,
) -> EncoderJudge:
    """Return the judge of an encoder.

    Args:
        section: of the stage.
        configured: the model's section.
        seat: the encoder.
        asks: the questions of the stage.
        late_interacting: whether some pipeline wants its token vectors.
        stored: where recalled documents' vectors are.

    Raises:
        FailedPrecondition: the stage says what an encoder has no use for.

    """
    from podium_server.judges.encoder import EncoderJudge

    model = seat.name
    embeds_tokens = not isinstance(configured, OpenAIEmbeddingsModel)
    if section.prompt is not None:
        raise FailedPrecondition(f"prompt is set, and the model {model!r} is an encoder, which takes none")
    _refuse(section, _OF_CROSS_ENCODERS, f"the model {model!r} is no cross-encoder")
    if section.scoring == "late-interaction" and not embeds_tokens:
        raise FailedPrecondition(
            f"scoring is 'late-interaction', and the endpoint of {model!r} gives one vector a text; use 'cosine'"
        )
    # Where nothing is said: the better one of what the questions and the model allow.
    late = section.scoring == "late-interaction" or (
        section.scoring is None and embeds_tokens and Liken not in asks and Grade in asks
    )
    return EncoderJudge(
        seat=seat,
        late_interaction=late,
        with_token_vectors=embeds_tokens and late_interacting,
        prices=configured.prices.prices(),
        stored=stored,
    )


def late_interacting(config: Config) -> frozenset[str]:
    """Return the encoders of which some pipeline wants token vectors: whoever encodes keeps them for the others."""
    found: set[str] = set()

    def look(section: StageSection, model: str | None = None, scoring: str | None = None) -> None:
        # A wrapper and what it wraps say about one judge together; a role's own table counts before both.
        model, scoring = section.model or model, section.scoring or scoring
        if model is not None and scoring == "late-interaction":
            found.add(model)
        for role in section.models.values():
            if (role.scoring or scoring) == "late-interaction":
                found.add(role.model)
        for voice in section.of:
            look(voice)
        if section.base is not None:
            look(section.base, model, scoring)

    for pipeline in config.pipelines.values():
        for stage in pipeline.stages:
            look(stage)
    return frozenset(found)


def cross_encoder_judge(
    section: StageSection, configured: CrossEncoderModel, seat: CrossEncoderSeat, *, passages_max: int
) -> CrossEncoderJudge:
    """Return the judge of a cross-encoder, for passages within the server's limit.

    Raises:
        FailedPrecondition: the stage says what a cross-encoder has no use for, or more passages than are allowed.

    """
    from podium_server.judges.cross_encoder import CrossEncoderJudge

    _refuse(section, ("prompt", "scoring"), f"the model {seat.name!r} is a cross-encoder, which takes none")
    return CrossEncoderJudge(
        seat=seat,
        reading=_reading(section.long_documents, passages_max),
        score=section.score,
        prices=configured.prices.prices(),
    )


def _reading(said: LongDocumentsSection, passages_max: int) -> Reading:
    from podium_server.judges.passages import OVERLAP_TOKENS, Reading

    if said.passages is not None and said.passages > passages_max:
        raise FailedPrecondition(
            f"long_documents.passages is {said.passages}, and limits.passages of this server is {passages_max}",
            metadata={"limit": "passages"},
        )
    overlap = said.overlap_tokens
    if overlap is None:
        overlap = OVERLAP_TOKENS if said.passage_tokens is None else min(OVERLAP_TOKENS, said.passage_tokens // 2)
    return Reading(
        long_documents=said.read,
        passage_tokens=said.passage_tokens,
        overlap_tokens=overlap,
        passages_max=said.passages or passages_max,
    )


def rerank_api_judge(section: StageSection, configured: RerankApiModel, api: RerankApi) -> RerankApiJudge:
    """Return the judge of a rerank endpoint.

    Raises:
        FailedPrecondition: the stage says what a rerank endpoint has no use for, or wants scores that it cannot give.

    """
    from podium_server.judges.rerank_api import RerankApiJudge

    why = f"the model {api.name!r} is behind a rerank endpoint, which takes"
    _refuse(section, ("prompt", "scoring"), f"{why} none")
    _refuse(
        section, ("long_documents",), f"{why} documents as they are; use truncation or models.{api.name}.max_tokens"
    )
    return RerankApiJudge(api, section.score, configured.prices.prices())


def chat_judge(
    section: StageSection,
    configured: ChatSection,
    backend: ChatBackend,
    asks: Kinds,
    *,
    verdicts: SqliteVerdictCache | None,
) -> ChatJudge:
    """Return the judge of a chat model, with the prompts that the stage's questions need.

    Args:
        section: of the stage.
        configured: the model's section.
        backend: the model.
        asks: the questions of the stage.
        verdicts: where its verdicts are kept.

    Raises:
        FailedPrecondition: the stage says what a chat model has no use for, or asks what no prompt asks.
        NotFound, ConfigInvalid: there is no such prompt, or its file cannot be used.

    """
    from podium_server.judges.chat.judge import ChatJudge
    from podium_server.judges.chat.settings import ChatSettings as JudgeSettings

    model = backend.name
    if section.scoring is not None:
        raise FailedPrecondition(f"scoring is {section.scoring!r}, and the model {model!r} is no encoder; use prompt")
    _refuse(section, _OF_CROSS_ENCODERS, f"the model {model!r} is no cross-encoder")
    prompts = _prompts(section, asks)
    if not prompts:
        asked = ", ".join(sorted(kind.__name__.lower() for kind in asks))
        raise FailedPrecondition(f"{section.strategy} asks {asked}, which no prompt asks a chat model like {model!r}")
    return ChatJudge(
        backend,
        prompts,
        configured.prices.prices(),
        JudgeSettings(
            on_unreadable=section.on_unreadable,
            reask_missing=section.reask_missing,
            constrained=section.constrained,
            temperature=configured.temperature,
            max_output_tokens=section.max_output_tokens,
        ),
        verdicts,
    )


def _prompts(section: StageSection, asks: Kinds) -> tuple[Prompt, ...]:
    """Return the prompts of a stage: the one that it names, and the usual one for every other kind of question."""
    from podium_strategies import prompts

    wanted = {}
    for kind in asks:
        usual = "first" if section.strategy == "first" else prompts.USUAL.get(kind)
        if usual is not None:
            wanted[kind] = usual
    try:
        chosen = {kind: prompts.load(name) for kind, name in wanted.items()}
        if section.prompt is not None:
            named = prompts.load(section.prompt)
            if named.kind not in asks:
                asked = ", ".join(sorted(kind.__name__.lower() for kind in asks))
                raise FailedPrecondition(
                    f"the prompt {named.id} answers {named.kind.__name__.lower()}, and {section.strategy} asks {asked}"
                )
            chosen[named.kind] = named
    except prompts.UnknownPrompt as error:
        raise NotFound("prompt", error.name, error.known) from error
    except InvalidPromptFile as error:
        raise ConfigInvalid(str(error)) from error
    return tuple(chosen.values())


def _refuse(section: StageSection, keys: Sequence[str], why: str) -> None:
    """Refuse what would be read and then count for nothing."""
    for key in keys:
        if key in section.model_fields_set and getattr(section, key) is not None:
            raise FailedPrecondition(f"{key} is set, and {why}")
