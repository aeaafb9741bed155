"""`[pipelines.NAME]`: stages, and who challenges them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from podium_server.config.section import Section

RETRIEVERS = ("bm25", "vector")
# What ends in -bin are bytes, in gRPC.
_METADATA_KEY = re.compile(r"[a-z0-9_.-]{1,128}(?<!-bin)")


class LongDocumentsSection(Section):
    """`long_documents` of a stage: how a cross-encoder reads what is longer than its window."""

    read: Literal["cut", "best-passage", "mean-of-top-2"] = "cut"
    """The beginning alone: one pair a document. Or in passages, for the best one's score, or the mean of the best two:
    a pair a passage."""
    passage_tokens: int | None = Field(None, ge=16)
    """Of a passage; unset is what the query leaves of the window."""
    overlap_tokens: int | None = Field(None, ge=0)
    """That a passage repeats of the one before, half of it at most; unset is 64, or the half of a short one."""
    passages: int | None = Field(None, ge=1)
    """Of one document at most; unset takes limits.passages."""

    @model_validator(mode="after")
    def _half_at_most(self) -> LongDocumentsSection:
        size, overlap = self.passage_tokens, self.overlap_tokens
        if size is not None and overlap is not None and overlap > size // 2:
            raise ValueError(f"overlap_tokens is {overlap}, which is more than half of passage_tokens, {size}")
        return self


LongDocuments: TypeAlias = Annotated[
    LongDocumentsSection, BeforeValidator(lambda given: {"read": given} if isinstance(given, str) else given)
]
"""A way to read as a string, or a table."""


class RoleSection(Section):
    """Who answers one role's questions: a model's name, or a table where it is used otherwise than its stage says."""

    model: str
    prompt: str | None = None
    scoring: Literal["cosine", "late-interaction"] | None = None
    on_unreadable: Literal["keep-order", "fail"] = "keep-order"
    reask_missing: int = Field(0, ge=0, le=5)
    constrained: Literal["auto", "never", "always"] = "auto"
    long_documents: LongDocuments = LongDocumentsSection()
    score: Literal["logit", "probability"] | None = None
    """Of a cross-encoder or a rerank endpoint; unset is what it gives."""
    max_output_tokens: int | None = Field(None, ge=1)


class StageSection(BaseModel):
    """One stage of a pipeline. Keys that are not listed here are options of its strategy."""

    model_config = ConfigDict(extra="allow", frozen=True)

    strategy: str
    name: str | None = None
    """In the ledger; unset, the strategy's (and the scoring's) name."""
    model: str | None = None
    models: dict[str, RoleSection] = Field(default_factory=dict)
    """Models by role, for strategies whose questions carry one: names, or tables that also say how a model is used."""
    prompt: str | None = None
    """A prompt of ours by name, or the path of a prompt file."""
    scoring: Literal["cosine", "late-interaction"] | None = None
    """How an encoder grades."""
    keep: int | None = Field(None, ge=1)
    on_failure: Literal["fail", "skip"] = "fail"
    """Where its model fails: the request does, too (or has the order so far), or the next stage goes on from there."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Of a voice in a fusion."""
    of: tuple[StageSection, ...] = ()
    """The voices of a fusion."""
    base: StageSection | None = None
    """The strategy that another one wraps."""
    on_unreadable: Literal["keep-order", "fail"] = "keep-order"
    reask_missing: int = Field(0, ge=0, le=5)
    constrained: Literal["auto", "never", "always"] = "auto"
    long_documents: LongDocuments = LongDocumentsSection()
    score: Literal["logit", "probability"] | None = None
    """Of a cross-encoder or a rerank endpoint; unset is what it gives."""
    max_output_tokens: int | None = Field(None, ge=1)

    @field_validator("models", mode="before")
    @classmethod
    def _names_are_tables(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {role: {"model": given} if isinstance(given, str) else given for role, given in value.items()}

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are the strategy's own."""
        return dict(self.model_extra or {})


class ChallengerSection(Section):
    """`challenger` of a pipeline: another one that ranks a share of its live requests, to find out which is better.

    A challenger in the shadow whose model runs in this process shares its processors with everybody else; one that
    must not be felt is better served by an endpoint of its own.
    """

    pipeline: str
    share: float = Field(0.1, gt=0, le=1)
    """Of the keys."""
    mode: Literal["served", "shadow", "interleaved"] = "shadow"
    """Its order is the answer; or it ranks when the answer is gone; or the answer is drafted from both orders."""
    key: str = "query"
    """What stays on one side: `metadata:NAME` of the call (over HTTP, a header), `query`, or `request` (each alone)."""
    experiment: str = ""
    """A name, from which the assignment follows, too; unset, `INCUMBENT:CHALLENGER`."""
    patience_s: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Interleaved: how long after the incumbent is done a challenger is waited for."""

    @field_validator("key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        name = value.removeprefix("metadata:")
        if value in ("query", "request") or (name != value and _METADATA_KEY.fullmatch(name)):
            return value
        raise ValueError("is no key: query, request, or metadata:NAME (lower-case letters, digits, '.', '_', '-')")


class PipelineSection(Section):
    """A named pipeline: recall, then its stages."""

    description: str = ""
    stages: tuple[StageSection, ...] = Field(min_length=1)
    recall_depth: int = Field(100, ge=1)
    retrievers: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(RETRIEVERS, 1.0))
    """Weights of the retrievers that recall for it."""
    challenger: ChallengerSection | None = None
    """Who may be better. The recall of a search stays this pipeline's."""

    @field_validator("retrievers")
    @classmethod
    def _retrievers_weigh(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(value) - set(RETRIEVERS))
        if unknown:
            raise ValueError(f"no retriever is named {', '.join(unknown)} (known: {', '.join(RETRIEVERS)})")
        if any(not 0 <= weight < float("inf") for weight in value.values()) or not any(value.values()):
            raise ValueError("weights are 0 or more, and at least one is above 0")
        return value
