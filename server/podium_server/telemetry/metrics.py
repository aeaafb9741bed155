"""Every metric of the server, as data: what `/metrics` has, and all that a dashboard may name.

Labels are bounded. Pipelines and models are those of the configuration (a pipeline that came with a request is
`inline`, and its stages go by their strategies, which are those installed); methods, codes, reasons and limits are
those of the contract; tenants are the first few, and `other`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Tenths for cosines and probabilities, powers of two around them for logits and points.
_SCORES = (-16, -8, -4, -2, -1, -0.5, 0, *(n / 10 for n in range(1, 11)), 2, 4, 8, 16, 64)
_PLACES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_ROUNDS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 233)
_CANDIDATES = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)

BEST = 10
"""Ranks whose scores and moves are entered for each request: what callers look at, at a bounded price."""
OTHER = "other"
INLINE = "inline"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Args:
        name: with its prefix and its unit; a counter's ends in `_total`.
        kind: as Prometheus knows it.
        help: a sentence.
        labels: their names.
        buckets: upper ends, of a histogram.

    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.startswith("podium_"):
            raise ValueError(f"{self.name} has to begin with podium_")
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"{self.name} is a {self.kind}: counters end in _total, and nothing else does")
        if (self.kind == "histogram") != bool(self.buckets):
            raise ValueError(f"{self.name} is a {self.kind} with {len(self.buckets)} buckets: histograms have them")

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may use."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


_STAGE = ("pipeline", "stage", "model")

# --- calls ----------------------------------------------------------------------------------------------------------

CALLS = Metric("podium_calls_total", "counter", "Calls that ended, by their code.", ("method", "code", "via"))
CALL_SECONDS = Metric("podium_call_seconds", "histogram", "From a call's arrival to its end.", ("method",), _SECONDS)
CALLS_RUNNING = Metric("podium_calls_running", "gauge", "Calls at work.")
REFUSALS = Metric(
    "podium_refusals_total",
    "counter",
    "Errors told to callers, items of batches included, by reason, and by the limit where one was passed.",
    ("reason", "limit"),
)
ACCESS_REFUSED = Metric(
    "podium_access_refused_total",
    "counter",
    "Who was refused by keys, permissions, quotas and the queue of tenants; empty tenants are those that nobody knows.",
    ("reason", "tenant"),
)
TENANT_CALLS = Metric("podium_tenant_calls_total", "counter", "Calls of a tenant that ended.", ("tenant", "code"))
TENANT_TOKENS = Metric("podium_tenant_tokens_total", "counter", "Tokens used for a tenant.", ("tenant",))
TENANT_COST = Metric("podium_tenant_cost_usd_total", "counter", "Known cost of a tenant, in USD.", ("tenant",))

# --- requests -------------------------------------------------------------------------------------------------------

REQUESTS = Metric(
    "podium_requests_total",
    "counter",
    "Ranked requests, by outcome: complete, partial_deadline, partial_budget, partial_backend, failed, cancelled.",
    ("pipeline", "outcome"),
)
REQUEST_SECONDS = Metric(
    "podium_request_seconds", "histogram", "A ranked request, its recall included.", ("pipeline",), _SECONDS
)
REQUESTS_RUNNING = Metric("podium_requests_running", "gauge", "Rerank and Search requests at work.")
REQUESTS_MAX = Metric("podium_requests_max", "gauge", "limits.concurrent_requests.")
CANDIDATES = Metric("podium_candidates", "histogram", "Candidates of a request.", ("pipeline",), _CANDIDATES)
ROUNDS = Metric("podium_rounds", "histogram", "The longest chain of rounds of a request.", ("pipeline",), _ROUNDS)
WARNINGS = Metric("podium_warnings_total", "counter", "Warnings in answers.", ("pipeline", "code"))
SCORE = Metric(
    "podium_score",
    "histogram",
    f"Scores of the {BEST} best of each request. Drift: a model, or what it is asked, has changed.",
    ("pipeline",),
    _SCORES,
)
RANK_CHANGE = Metric(
    "podium_rank_change_places",
    "histogram",
    f"How far each of the {BEST} best of a request has come from its first-stage place. Drift likewise.",
    ("pipeline",),
    _PLACES,
)

# --- stages ---------------------------------------------------------------------------------------------------------

STAGE_SECONDS = Metric(
    "podium_stage_seconds",
    "histogram",
    "A stage of a request, from its first question to its last answer.",
    ("pipeline", "stage"),
    _SECONDS,
)
QUESTIONS = Metric("podium_questions_total", "counter", "Questions asked.", _STAGE)
MODEL_CALLS = Metric("podium_model_calls_total", "counter", "Calls to models, retries included.", _STAGE)
RETRIES = Metric("podium_retries_total", "counter", "Calls that repeated a failed one.", _STAGE)
TOKENS = Metric(
    "podium_tokens_total",
    "counter",
    "Tokens by kind. prompt includes cached, and output includes reasoning.",
    (*_STAGE, "kind"),
)
COST = Metric("podium_cost_usd_total", "counter", "Known cost, in USD.", _STAGE)
COST_UNKNOWN = Metric(
    "podium_cost_unknown_total", "counter", "Stages of requests whose cost nobody configured a price for.", _STAGE
)
REPAIRS = Metric("podium_repairs_total", "counter", "Replies of models by what they were.", ("model", "repair"))
CACHE_ANSWERS = Metric("podium_cache_answers_total", "counter", "Questions answered from caches of ours.", _STAGE)
TRUNCATED = Metric(
    "podium_truncated_documents_total", "counter", "Documents of which a model did not see the end.", _STAGE
)
MODEL_SECONDS = Metric(
    "podium_model_seconds_total",
    "counter",
    "Time for a model by phase: queue, tokenize, backend.",
    ("model", "phase"),
)

# --- what nobody is left to be told of ------------------------------------------------------------------------------

CANCELLED_TOKENS = Metric(
    "podium_cancelled_tokens_total", "counter", "Tokens of requests whose callers went away; in the others, too."
)
CANCELLED_CALLS = Metric("podium_cancelled_model_calls_total", "counter", "Calls to models of such requests.")
CANCELLED_COST = Metric("podium_cancelled_cost_usd_total", "counter", "Known cost of such requests, in USD.")

# --- models ---------------------------------------------------------------------------------------------------------

MODEL_LOADED = Metric("podium_model_loaded", "gauge", "1 where the model can answer at once.", ("model",))
QUEUE = Metric("podium_queue_entries", "gauge", "What waits for a model: pairs, texts or calls.", ("model",))
QUEUE_REQUESTS = Metric("podium_queue_requests", "gauge", "Requests that wait for a cross-encoder.", ("model",))
QUEUE_TOKENS = Metric("podium_queue_tokens", "gauge", "Tokens that wait for a cross-encoder.", ("model",))
QUEUE_AGE = Metric(
    "podium_queue_oldest_seconds", "gauge", "Since the longest waiting request of a cross-encoder came.", ("model",)
)
UNDER_WAY = Metric("podium_under_way", "gauge", "What is at work at a model: pairs or calls.", ("model",))
BATCHES = Metric("podium_batches_total", "counter", "Batches that a cross-encoder scored.", ("model",))
BATCH_PAIRS = Metric("podium_batch_pairs_total", "counter", "Pairs in these batches.", ("model",))
BATCH_TOKENS = Metric("podium_batch_tokens_total", "counter", "Tokens in these batches.", ("model",))
BATCH_PADDED = Metric(
    "podium_batch_padded_tokens_total", "counter", "Tokens in these batches with their padding.", ("model",)
)
BATCH_TOKENS_MAX = Metric(
    "podium_batch_tokens_max", "gauge", "Padded tokens that one batch may hold, as measured.", ("model",)
)
BUSY_SECONDS = Metric("podium_busy_seconds_total", "counter", "All lanes of a cross-encoder, added up.", ("model",))
QUEUE_REFUSED = Metric("podium_queue_refused_total", "counter", "Requests that found a queue full.", ("model",))
QUEUE_DROPPED = Metric(
    "podium_queue_dropped_total", "counter", "Pairs that nobody wanted any more before they were scored.", ("model",)
)
FAILED_PAIRS = Metric("podium_failed_pairs_total", "counter", "Pairs whose batch failed.", ("model",))
CACHE_HITS = Metric("podium_cache_hits_total", "counter", "Found in a cache.", ("cache", "model"))
CACHE_MISSES = Metric("podium_cache_misses_total", "counter", "Not found in a cache.", ("cache", "model"))
CACHE_BYTES = Metric("podium_cache_bytes", "gauge", "What a cache holds.", ("cache", "model"))
VERDICTS_DROPPED = Metric("podium_verdicts_dropped_total", "counter", "Verdicts that were not kept: disk too slow.")

BREAKER_STATE = Metric("podium_breaker_state", "gauge", "0 closed, 1 half-open, 2 open.", ("model",))
BREAKER_OPENED = Metric("podium_breaker_opened_total", "counter", "Times that a breaker opened.", ("model",))
BREAKER_REFUSED = Metric("podium_breaker_refused_total", "counter", "Rounds that an open breaker refused.", ("model",))
STAGES_SKIPPED = Metric(
    "podium_stages_failed_over_total", "counter", "Stages given up for the next one (on_failure).", ("pipeline",)
)

BUILD = Metric("podium_build_info", "gauge", "1; the labels say which version this is.", ("version",))

ALL: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""In the order in which they stand above."""

CACHES = ("verdict", "score", "embedding")
TOKEN_KINDS = ("prompt", "cached", "output", "reasoning")
PHASES = ("queue", "tokenize", "backend")
