"""What goes in and what comes out, as small frozen dataclasses.

The contract in `podium/v1/*.proto` says what every field means, with its limits. Names are the same here, but for
durations, which are seconds with `_s` behind the name. Enumerations are their names in lower case, without the prefix:
`"partial_deadline"`. None stands for what is unset. Results keep the message that they were read from as `raw`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict

from google.protobuf.message import Message

from podium_client.errors import PodiumError
from podium_client.filters import Filter

NANO = 1_000_000_000


def usd(dollars: float) -> int:
    """Return US dollars as the billionths that the wire counts in: `Budget(max_cost_nano_usd=usd(0.02))`."""
    return round(dollars * NANO)


# --- what goes in -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """A text to rank or to index: `text`, or `fields` by name, in their order."""

    id: str = ""
    text: str | None = None
    fields: Mapping[str, str] | None = None
    prior_score: float | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What one request may spend. `on_exhausted` is "partial" (the best order so far) or "fail"."""

    soft_deadline_s: float | None = None
    max_cost_nano_usd: int | None = None
    max_calls: int | None = None
    max_tokens: int | None = None
    on_exhausted: str | None = None


@dataclass(frozen=True, slots=True)
class Truncation:
    """How long documents are cut. `side` is the end that is cut off: "end" or "start"."""

    max_tokens_per_document: int | None = None
    side: str | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A strategy with its settings, for a pipeline that comes with the request."""

    strategy: str
    model: str = ""
    prompt: str = ""
    options: Mapping[str, Any] | None = None
    keep: int | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the pipelines to compare: a name, or stages."""

    pipeline: str | None = None
    inline: Sequence[Stage] | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How long documents are cut into passages."""

    max_tokens: int = 0
    overlap_tokens: int = 0


class CallOptions(TypedDict, total=False):
    """What every call takes.

    timeout_s: when to give up; None for never. Without it, the client's own.
    request_id: comes back with results and errors, and stands in the server's log. Without it one is made up.
    metadata: to send along, such as a traceparent.
    """

    timeout_s: float | None
    request_id: str
    metadata: Mapping[str, str]


class SharedOptions(CallOptions, total=False):
    """What a rerank and a search have in common but who ranks."""

    top_n: int | None
    budget: Budget | None
    truncation: Truncation | None
    seed: int | None
    explain: str
    instruction: str


class RerankOptions(SharedOptions, total=False):
    """What a rerank takes: `pipeline` or `inline`, or neither for the server's default."""

    pipeline: str | None
    inline: Sequence[Stage] | None


class SearchOptions(RerankOptions, total=False):
    """What a search takes."""

    filter: Filter | None
    recall_depth: int | None
    retriever_weights: Mapping[str, float]
    include_content: bool
    include_metadata: bool


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a batch. Its options stand over those of the batch; those of the call are not among them."""

    item_id: str
    query: str
    documents: Sequence[str | Mapping[str, Any] | Document]
    options: RerankOptions = field(default_factory=lambda: RerankOptions())


# --- what comes out ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What every answer has: the id of its request, and the message that it was read from."""

    request_id: str = ""
    raw: Message | None = field(default=None, repr=False, compare=False)


# --- the ledger -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplyCounts:
    """What replies of generative models looked like."""

    ok: int
    repetition: int
    missing: int
    wrong_format: int
    unreadable: int


class _Priced:
    """Has a cost in billionths of a US dollar, or none that is known."""

    __slots__ = ()
    cost_nano_usd: int | None

    @property
    def cost_usd(self) -> float | None:
        """The cost in US dollars; None where it is not known."""
        return None if self.cost_nano_usd is None else self.cost_nano_usd / NANO


@dataclass(frozen=True, slots=True)
class Usage(_Priced):
    """An amount of work, time and money."""

    questions: int
    rounds: int
    calls: int
    retries: int
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    reasoning_tokens: int
    pairs: int
    replies: ReplyCounts
    cache_hits: int
    truncated_documents: int
    queue_time_s: float
    tokenize_time_s: float
    backend_time_s: float
    critical_path_s: float
    wall_time_s: float
    cost_nano_usd: int | None
    cost_basis: str
    price_table_version: str


@dataclass(frozen=True, slots=True)
class StageUsage:
    """What one stage spent on one model."""

    stage: str
    strategy: str
    model: str
    revision: str
    prompt_id: str
    candidates_in: int
    candidates_out: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a request cost, and where."""

    total: Usage
    stages: tuple[StageUsage, ...]


# --- rankings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """The place of one document. `rank` counts from 1, `input_index` from 0."""

    document_id: str
    input_index: int
    rank: int
    score: float | None
    score_kind: str
    provenance: str


@dataclass(frozen=True, slots=True)
class RankingWarning:
    """Something to know of an answer that is otherwise fine."""

    code: str
    message: str
    documents: int
    document_ids: tuple[str, ...]
    input_indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RerankResult(Answer):
    """Documents in order. A trace, where one was asked for, is in `raw.trace`."""

    ranking: tuple[RankedDocument, ...]
    completion: str
    ledger: Ledger
    warnings: tuple[RankingWarning, ...]
    pipeline: str
    partial_reason: str | None = None
    """Why the order is partial, such as `backend_down` or `budget_exhausted`; None where it is complete."""

    @property
    def order(self) -> tuple[int, ...]:
        """The places in the request, the best first."""
        return tuple(document.input_index for document in self.ranking)

    @property
    def complete(self) -> bool:
        """Whether the order is what the pipeline gives with no limit."""
        return self.completion == "complete"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An order on the way that could be used at once: all places in the request, the best first."""

    order: tuple[int, ...]
    stage: str
    round: int
    usage: Usage
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The answer to one item of a batch: what `outcome` is, `result` returns or raises."""

    item_id: str
    outcome: RerankResult | PodiumError

    @property
    def result(self) -> RerankResult:
        """The result, or its error raised."""
        return result_of(self.outcome)


@dataclass(frozen=True, slots=True)
class EstimatedUsage(_Priced):
    """What is expected, and the most that it can be."""

    questions: int
    questions_max: int | None
    rounds: int
    rounds_max: int | None
    calls: int
    prompt_tokens: int
    prompt_tokens_max: int | None
    output_tokens: int
    output_tokens_max: int | None
    cost_nano_usd: int | None
    cost_nano_usd_max: int | None
    cost_basis: str
    price_table_version: str
    time_s: float | None


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What one stage would cost."""

    stage: str
    strategy: str
    model: str
    candidates_in: int
    candidates_out: int
    usage: EstimatedUsage


@dataclass(frozen=True, slots=True)
class Estimate(Answer):
    """What a rerank would cost."""

    total: EstimatedUsage
    stages: tuple[StageEstimate, ...]
    pipeline: str
    warnings: tuple[RankingWarning, ...]


@dataclass(frozen=True, slots=True)
class ComparedRanking:
    """What one contender answered: what `outcome` is, `result` returns or raises."""

    label: str
    outcome: RerankResult | PodiumError

    @property
    def result(self) -> RerankResult:
        """The result, or its error raised."""
        return result_of(self.outcome)


@dataclass(frozen=True, slots=True)
class Overlap:
    """The part of the top `k` of one order that is in the top `k` of the other."""

    k: int
    share: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two orders agree."""

    left: str
    right: str
    kendall_tau: float | None
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True, slots=True)
class Comparison(Answer):
    """Pipelines side by side."""

    rankings: tuple[ComparedRanking, ...]
    agreements: tuple[Agreement, ...]


def result_of(outcome: RerankResult | PodiumError) -> RerankResult:
    """Return a result, or raise the error that stands in its place."""
    if isinstance(outcome, PodiumError):
        raise outcome
    return outcome


# --- search -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passage:
    """The part of a document by which it was found: code points `start` to `end` of its text."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RetrieverHit:
    """That a retriever found a document."""

    retriever: str
    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """A document that was found. `document` is set where content or metadata was asked for."""

    ranked: RankedDocument
    document: Document | None
    passage: Passage | None
    hits: tuple[RetrieverHit, ...]


@dataclass(frozen=True, slots=True)
class SearchResult(Answer):
    """Documents that were found, in order. A trace, where one was asked for, is in `raw.trace`."""

    results: tuple[FoundDocument, ...]
    completion: str
    ledger: Ledger
    warnings: tuple[RankingWarning, ...]
    pipeline: str
    recalled: int
    partial_reason: str | None = None
    """Why the order is partial; see `RerankResult`."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, the best first."""
        return tuple(found.ranked.document_id for found in self.results)

    @property
    def complete(self) -> bool:
        """Whether the order is what the pipeline gives with no limit."""
        return self.completion == "complete"


# --- collections ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of documents that are embedded and searched alike."""

    name: str
    encoder: str = ""
    token_vectors: bool = False
    chunking: Chunking | None = None
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class CollectionStats(Answer):
    """What is in a collection."""

    documents: int
    passages: int
    token_vectors: int
    dimensions: int
    store_bytes: int
    memory_bytes: int
    index_kind: str
    token_vector_loss: float | None
    update_time: datetime | None


@dataclass(frozen=True, slots=True)
class DocumentError:
    """Why a document was refused. `index` counts from 0 over all that was given."""

    index: int
    document_id: str
    error: PodiumError


@dataclass(frozen=True, slots=True)
class Upserted:
    """What was put into a collection, and is on the disk. One ledger for each call that it took."""

    inserted: int = 0
    replaced: int = 0
    unchanged: int = 0
    refused: int = 0
    errors: tuple[DocumentError, ...] = ()
    ledgers: tuple[Ledger, ...] = ()

    @property
    def acknowledged(self) -> int:
        """Documents that are in the collection now, new or not."""
        return self.inserted + self.replaced + self.unchanged

    @property
    def documents(self) -> int:
        """Documents that were sent."""
        return self.acknowledged + self.refused


Progress = Callable[[Upserted], object]


@dataclass(frozen=True, slots=True)
class Fetched(Answer):
    """Documents as they are stored, and the ids that are not there."""

    documents: tuple[Document, ...]
    missing_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deleted(Answer):
    """How many documents were removed, and the ids that were not there."""

    deleted: int
    missing_ids: tuple[str, ...]


# --- the catalogue ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PipelineStage:
    """One stage of a pipeline."""

    name: str
    strategy: str
    model: str
    prompt_id: str
    options: Mapping[str, Any]
    keep: int | None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages one after another, under a name."""

    name: str
    description: str
    is_default: bool
    stages: tuple[PipelineStage, ...]
    recall_depth: int
    retriever_weights: Mapping[str, float]
    ready: bool
    price_table_version: str


@dataclass(frozen=True, slots=True)
class StrategyOption:
    """A setting of a strategy. `required` where it has no default."""

    name: str
    type: str
    default_value: Any
    description: str
    raw: Message | None = field(default=None, repr=False, compare=False)

    @property
    def required(self) -> bool:
        """Whether it has to be given."""
        return self.raw is not None and not self.raw.HasField("default_value")


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to put documents in order by asking questions."""

    name: str
    description: str
    options: tuple[StrategyOption, ...]
    question_kinds: tuple[str, ...]
    provided_by: str


@dataclass(frozen=True, slots=True)
class Prices:
    """What a model costs."""

    prompt_nano_usd_per_mtok: int | None
    cached_prompt_nano_usd_per_mtok: int | None
    output_nano_usd_per_mtok: int | None
    compute_nano_usd_per_second: int | None
    price_table_version: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model, with the way to reach it."""

    name: str
    backend: str
    model_id: str
    revision: str
    capabilities: tuple[str, ...]
    max_input_tokens: int | None
    dimensions: int | None
    ready: bool
    prices: Prices | None


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of everything a request may have."""

    max_message_bytes: int
    max_documents: int
    max_document_bytes: int
    max_metadata_bytes: int
    max_id_bytes: int
    max_query_bytes: int
    max_recall_depth: int
    max_contenders: int
    max_batch_in_flight: int
    max_ids: int
    max_concurrent_requests: int
    server_version: str
