"""The configuration file: one TOML, read once, refused at start with the offending key and the known ones.

What a file does not say stands in `builtin.toml`, which is laid under it: its pipelines and models are always there,
unless the file has one of the same name.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from podium_server.access.sections import AccessSection, Tenants, TlsSection
from podium_server.accounting.prices import Prices
from podium_server.errors import ConfigInvalid, known_names
from podium_server.limits import MIB, Limits

RETRIEVERS = ("bm25", "vector")
# What ends in -bin are bytes, in gRPC.
_METADATA_KEY = re.compile(r"[a-z0-9_.-]{1,128}(?<!-bin)")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PricesSection(_Section):
    """`prices` of a model. Every rate is optional, and a cost with an unknown part is unknown."""

    prompt_usd_per_mtok: float | None = Field(None, ge=0, allow_inf_nan=False)
    cached_usd_per_mtok: float | None = Field(None, ge=0, allow_inf_nan=False)
    output_usd_per_mtok: float | None = Field(None, ge=0, allow_inf_nan=False)
    usd_per_call: float | None = Field(None, ge=0, allow_inf_nan=False)
    usd_per_search_unit: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Of rerank endpoints that bill by searches (Cohere)."""
    compute_usd_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    version: str = ""

    def prices(self) -> Prices:
        """Return them as accounting uses them."""
        return Prices(**self.model_dump())


class BreakerSection(_Section):
    """`breaker` of a model: when a backend that fails is asked no more, and how it is tried again."""

    failures: int = Field(5, ge=1)
    """In a row, of rounds: then it is asked no more."""
    rate: float = Field(0.5, gt=0, le=1)
    """Or this part of the rounds within `window_s`, of which there are `rounds` at least."""
    rounds: int = Field(20, ge=1)
    window_s: float = Field(30.0, gt=0)
    open_s: float = Field(5.0, gt=0)
    """Until it is tried again, with one round; doubled while that fails."""
    open_s_max: float = Field(60.0, gt=0)
    hung_s: float = Field(10.0, gt=0)
    """A round that a deadline ended after so long without any answer is a failure, too."""

    @model_validator(mode="after")
    def _grows(self) -> BreakerSection:
        if self.open_s_max < self.open_s:
            raise ValueError(f"open_s_max is {self.open_s_max:g}, which is less than open_s, {self.open_s:g}")
        return self


class _Model(_Section):
    prices: PricesSection = PricesSection()
    breaker: BreakerSection = BreakerSection()


class _EncoderModel(_Model):
    query_prefix: str | None = None
    """Put before queries (BGE and E5 need one); unset takes what the model's own folder says."""
    document_prefix: str | None = None
    cache_mib: int = Field(64, ge=0)
    """Memory for vectors of texts seen before."""


class OpenVinoModel(_EncoderModel):
    """A model run by OpenVINO in this process: shipped, or from a folder."""

    backend: Literal["openvino"]
    model: str = "all-minilm-l6-v2"
    """A shipped name, or a folder with an OpenVINO model."""
    max_tokens: int | None = Field(None, ge=8)
    threads: int | None = Field(None, ge=1)


class SentenceTransformersModel(_EncoderModel):
    """Any sentence-transformers encoder, by folder or hub name (extra `torch`)."""

    backend: Literal["sentence-transformers"]
    model: str
    max_tokens: int | None = Field(None, ge=8)
    device: str | None = None


class CrossEncoderModel(_Model):
    """A model that reads a query and a document together and says how well they match, in this process."""

    backend: Literal["cross-encoder"]
    model: str
    """A shipped name, a folder (OpenVINO, ONNX, safetensors), or a hub name."""
    engine: Literal["auto", "openvino", "torch"] = "auto"
    """OpenVINO, sentence-transformers (extra `torch`), or (auto) OpenVINO and the other where that cannot run it."""
    precision: Literal["auto", "f32", "bf16", "f16"] = "auto"
    """Of the arithmetic; auto is what the processor or the accelerator is good at."""
    max_tokens: int | None = Field(None, ge=8)
    """Of the query and the document together; unset takes what the model sees."""
    threads: int | None = Field(None, ge=1)
    """That compute (OpenVINO); unset takes every processor that this process may use."""
    device: str | None = None
    """As torch calls it; unset takes the best that there is."""
    cache_mib: int = Field(32, ge=0)
    """Memory for scores of pairs seen before."""

    @model_validator(mode="after")
    def _engine_has_it(self) -> CrossEncoderModel:
        only_torch = {"engine": self.engine == "torch", "device": self.device, "precision": self.precision == "f16"}
        by_torch = next((f"{key} is {getattr(self, key)!r}" for key, said in only_torch.items() if said), "")
        if by_torch and self.engine == "openvino":
            raise ValueError(f"{by_torch}, which the engine 'torch' has, and engine is 'openvino'")
        if by_torch and self.threads is not None:
            raise ValueError(f"threads is {self.threads}, which the engine 'openvino' has, and {by_torch}")
        return self


def key_variable(
    configured: str | None, base_urls: Sequence[str], *, home: str = "api.openai.com", usual: str = "OPENAI_API_KEY"
) -> str | None:
    """Return the environment variable that holds an endpoint's key; None where none is sent.

    The usual variable is read for the provider's own address alone: its key must not reach an endpoint that merely
    speaks the same protocol.
    """
    if configured is not None:
        return configured or None
    own = all(urlsplit(url).hostname == home for url in base_urls)
    return usual if own else None


class OpenAIEmbeddingsModel(_EncoderModel):
    """An OpenAI-compatible `/v1/embeddings` endpoint."""

    backend: Literal["openai-embeddings"]
    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = None
    """As for chat models."""
    dimensions: int | None = Field(None, ge=1)
    batch: int = Field(64, ge=1)


class OpenAIModel(_Model):
    """A chat model behind one or more OpenAI-compatible endpoints."""

    backend: Literal["openai"]
    model: str
    base_url: str | tuple[str, ...] = "https://api.openai.com/v1"
    """One endpoint, or several that serve the same model: the least busy takes a call, and another where it fails."""
    api_key_env: str | None = None
    """The environment variable with the key. Unset: OPENAI_API_KEY at OpenAI's own address, and none anywhere else."""
    dialect: str = "auto"
    """What the endpoint understands beyond the protocol: openai, vllm, sglang, llama.cpp, ollama, tgi; auto tries."""
    drop_prefill: bool = False
    """Where the endpoint cannot continue a begun reply: ask without the beginning, and count it, or (false) refuse."""
    context_tokens: int | None = Field(None, ge=256)
    tokenizer: str | None = None
    """Folder, file or hub name of the model's tokenizer. Unset: tokens are estimated, from above."""
    capabilities: tuple[str, ...] | None = None
    """What the endpoint can do. Unset: tried once."""
    concurrency: int = Field(64, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    attempts: int = Field(4, ge=1, le=20)
    reply_wait_s: float = Field(60.0, gt=0)
    queue: int = Field(10_000, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    extra_body: dict[str, Any] = Field(default_factory=dict)


class VllmModel(_Model):
    """A chat model in this process, by vLLM's engine (extra `vllm`). For jobs."""

    backend: Literal["vllm"]
    model: str
    temperature: float = Field(0.0, ge=0, le=2)
    engine: dict[str, Any] = Field(default_factory=dict)
    """Arguments of vLLM's `AsyncEngineArgs`."""


class RerankApiModel(_Model):
    """A model behind somebody else's rerank endpoint: Cohere, Jina, Voyage, TEI, infinity, vLLM, or another Podium."""

    backend: Literal["rerank-api"]
    dialect: Literal["cohere-v2", "cohere-v1", "jina", "voyage", "tei", "infinity", "vllm"]
    model: str = ""
    """As the endpoint calls it. TEI serves one, and is told none."""
    base_url: str | tuple[str, ...] | None = None
    """One endpoint, or several that serve the same model; the dialect's path is added. Unset: the provider's own."""
    api_key_env: str | None = None
    """The environment variable with the key. Unset: CO_API_KEY, JINA_API_KEY or VOYAGE_API_KEY at the provider's own
    address, and none anywhere else."""
    documents: int | None = Field(None, ge=1)
    """Of one request; more are split. Unset: what the provider documents (Cohere and Voyage 1,000, infinity 2,048,
    TEI 32 as it is delivered), and 1,000 for Jina and vLLM, which say nothing."""
    tokens_per_request: int | None = Field(None, ge=1)
    """Likewise, the query counted once a document. Unset: 600,000 for Voyage, and no bound for the others."""
    max_tokens: int | None = Field(None, ge=8)
    """Of a document that the model reads. Longer ones are cut and counted. Unset: the endpoint cuts, and does not say
    so."""
    tokenizer: str | None = None
    """Folder, file or hub name of the model's tokenizer. Unset: tokens are estimated, from above."""
    scores: Literal["probability", "logit", "cosine"] | None = None
    """What the endpoint's scores are, where they are not the dialect's usual ones, which are probabilities."""
    concurrency: int = Field(8, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    attempts: int = Field(4, ge=1, le=20)
    reply_wait_s: float = Field(60.0, gt=0)
    queue: int = Field(1_000, ge=1)

    @model_validator(mode="after")
    def _named(self) -> RerankApiModel:
        if not self.model and self.dialect != "tei":
            raise ValueError(f"model is not set, and an endpoint that speaks {self.dialect!r} is told one")
        if self.base_url in (None, ()) and self.dialect in ("tei", "infinity", "vllm"):
            raise ValueError(f"base_url is not set, and {self.dialect!r} is served by whoever runs it")
        return self


Model: TypeAlias = Annotated[
    OpenVinoModel
    | SentenceTransformersModel
    | OpenAIEmbeddingsModel
    | CrossEncoderModel
    | OpenAIModel
    | VllmModel
    | RerankApiModel,
    Field(discriminator="backend"),
]


class LongDocumentsSection(_Section):
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


class RoleSection(_Section):
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


class ChallengerSection(_Section):
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


class RankingLogSection(_Section):
    """`[ranking_log]`: who got which order, a JSON line a request; read by `podium eval ab` and `podium eval drift`."""

    path: Path | None = None
    """The newest file. Unset: nothing is written, and no pipeline can have a challenger."""
    share: float = Field(0.0, ge=0, le=1)
    """Of the requests outside experiments that are written."""
    places: int = Field(100, ge=1, le=10_000)
    """Of the best that a line has."""
    file_mib: int = Field(64, ge=1)
    """At which a file is put aside."""
    files: int = Field(8, ge=1, le=1000)
    """Kept, the newest included. Older ones are deleted."""
    queue: int = Field(2_000, ge=1)
    """Lines that wait for the disk; more are dropped, and counted."""
    texts: bool = False
    """Write queries as they are, not only their fingerprints. Documents are known by their ids alone."""
    secret_env: str | None = None
    """The environment variable with the secret of the fingerprints. Unset: who guesses a query can confirm it."""

    def secret(self) -> bytes:
        """Return the secret; empty where none is configured.

        Raises:
            ConfigInvalid: the variable is not set, or too long.

        """
        if self.secret_env is None:
            return b""
        given = os.environ.get(self.secret_env, "").encode()
        if not 1 <= len(given) <= 64:
            raise ConfigInvalid(f"ranking_log.secret_env: {self.secret_env} has {len(given)} bytes; 1 to 64 are needed")
        return given


class PipelineSection(_Section):
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


class CollectionSection(_Section):
    """A collection that the server makes at start if it is not there."""

    encoder: str | None = None
    """A model's name; unset, the default encoder."""
    token_vectors: bool = False
    chunk_tokens: int | None = Field(None, ge=16)
    chunk_overlap_tokens: int = Field(32, ge=0)


class ServerSection(_Section):
    """Where the server listens and keeps its store."""

    host: str = "127.0.0.1"
    port: int = Field(50051, ge=0, le=65535)
    data_dir: Path = Path(".podium")
    default_pipeline: str = "fast"
    default_encoder: str = "minilm"
    """Of collections that name none."""
    verdict_cache: bool = True
    """Keep chat models' verdicts in the store, so that the same question is paid once."""
    verdict_cache_mib: int = Field(256, ge=1)
    workers: int = Field(1, ge=1, le=1024)
    """Processes that serve the port together. More than one have no collections."""
    worker_restarts: int = Field(10, ge=0)
    """Of workers that died, all together in ten minutes. One more ends the server."""
    insecure: str = ""
    """Beyond loopback Podium listens only with TLS and known callers, or with "I know that anyone can call this server"
    here."""


class TelemetrySection(_Section):
    """What is seen from outside. All of it is off until it is asked for."""

    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Where Prometheus finds `/metrics`; of several workers, the first one's, and the others' are the next ports."""
    metrics_host: str = "127.0.0.1"
    tenants: int = Field(50, ge=0, le=1_000)
    """That have figures of their own; later ones share `other`."""
    logs: Literal["lines", "json"] = "lines"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """INFO has a line for every call."""
    traces_endpoint: str | None = None
    """Where spans are sent by OTLP over gRPC, such as `http://127.0.0.1:4317` (extra `otel`)."""
    traces_sample: float = Field(1.0, ge=0, le=1)
    """Of the calls whose caller has not decided."""
    traces_texts: bool = False
    """Whether spans carry queries, and what models were asked and said. Documents are among that."""


class AdminSection(_Section):
    """The service that loads and unloads models, on a port of its own, without keys: for loopback."""

    port: int | None = Field(None, ge=0, le=65535)
    """Of several workers, the first one's, and the others' are the next ports."""
    host: Literal["127.0.0.1", "::1", "localhost"] = "127.0.0.1"
    unloaded: Literal["load", "refuse"] = "load"
    """What the next use of an unloaded model does: load it again, or fail with UNAVAILABLE until LoadModel."""


class RestSection(_Section):
    """`[rest]`: JSON over HTTP beside gRPC (extra `rest`)."""

    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=0, le=65535)
    """Unset: there is no REST. 0 takes any free one."""
    models: dict[str, str] = Field(default_factory=dict)
    """Names that clients send as `model`, and the pipeline that each stands for. Pipelines' own names need none."""
    connections: int = Field(1024, ge=1)
    """At the same time. More are closed at once."""
    header_bytes: int = Field(32 * 1024, ge=1024)
    """Of the head of a request. More: 400."""
    header_timeout_s: float = Field(10.0, gt=0)
    """For the head of a request to come. Later: the connection is closed."""
    body_timeout_s: float = Field(60.0, gt=0)
    """For a body to come. Later: 408."""
    bodies_bytes: int = Field(256 * MIB, ge=64 * 1024)
    """Of all bodies that are being read or answered. More: 503. limits.message_bytes bounds each of them (413)."""
    keep_alive_s: int = Field(75, ge=1)
    """Until an idle connection is closed."""


class Config(_Section):
    """The whole file."""

    server: ServerSection = ServerSection()
    limits: Limits = Limits()
    telemetry: TelemetrySection = TelemetrySection()
    admin: AdminSection = AdminSection()
    rest: RestSection = RestSection()
    models: dict[str, Model] = Field(default_factory=dict)
    collections: dict[str, CollectionSection] = Field(default_factory=dict)
    tls: TlsSection = TlsSection()
    access: AccessSection = AccessSection()
    tenants: Tenants = Field(default_factory=dict)
    pipelines: dict[str, PipelineSection] = Field(default_factory=dict)
    ranking_log: RankingLogSection = RankingLogSection()


def load(path: Path | None) -> Config:
    """Read a configuration file over the built-in one.

    Args:
        path: of the TOML file; None takes the built-in configuration alone.

    Raises:
        ConfigInvalid: with the file, the key, and what could stand there instead.

    """
    builtin = tomllib.loads((files("podium_server") / "builtin.toml").read_text("utf-8"))
    if path is None:
        return parse(_layered(builtin, {}), where="builtin.toml")
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigInvalid(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path}: is no valid TOML: {error}") from error
    return parse(_layered(builtin, given), where=str(path))


def _layered(builtin: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` over `builtin`, of which pipelines whose models nobody has configured are left out."""
    if not all(isinstance(given.get(table, {}), dict) for table in ("models", "pipelines")):
        return dict(given)  # and validation says what is wrong with it
    models = {**builtin["models"], **given.get("models", {})}
    usable = {
        name: section for name, section in builtin["pipelines"].items() if _models_of(section["stages"]) <= set(models)
    }
    return {**given, "models": models, "pipelines": {**usable, **given.get("pipelines", {})}}


def _models_of(stages: Iterable[Mapping[str, Any]]) -> set[str]:
    named: set[str] = set()
    for stage in stages:
        named |= {stage["model"]} if "model" in stage else set()
        named |= _models_of(stage.get("of", ()))
    return named


def parse(given: Mapping[str, Any], *, where: str) -> Config:
    """Validate a configuration that was read from `where`.

    Raises:
        ConfigInvalid: one line a mistake.

    """
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        raise ConfigInvalid("\n".join(f"{where}: {line}" for line in _mistakes(error))) from error
    if config.server.default_pipeline not in config.pipelines:
        name = config.server.default_pipeline
        listed = known_names(name, tuple(config.pipelines))
        raise ConfigInvalid(f"{where}: server.default_pipeline: no pipeline is named {name!r}{listed}")
    for name, section in config.pipelines.items():
        _check_challenger(config, name, section.challenger, where)
    _check_rest_models(config, where)
    return config


def _check_rest_models(config: Config, where: str) -> None:
    """Refuse names for clients that stand for nothing, or hide a pipeline."""
    for name, pipeline in config.rest.models.items():
        if pipeline not in config.pipelines:
            listed = known_names(pipeline, tuple(config.pipelines))
            raise ConfigInvalid(f"{where}: rest.models.{name}: no pipeline is named {pipeline!r}{listed}")
        if name in config.pipelines and name != pipeline:
            raise ConfigInvalid(f"{where}: rest.models.{name}: is a pipeline too, which nobody could ask for then")


def _check_challenger(config: Config, name: str, given: ChallengerSection | None, where: str) -> None:
    if given is None:
        return
    key = f"{where}: pipelines.{name}.challenger"
    if given.pipeline not in config.pipelines:
        listed = known_names(given.pipeline, tuple(config.pipelines))
        raise ConfigInvalid(f"{key}.pipeline: no pipeline is named {given.pipeline!r}{listed}")
    if config.ranking_log.path is None:
        raise ConfigInvalid(f"{key}: ranking_log.path is not set, and without a log nobody can tell who was better")


def parse_stage(given: Mapping[str, Any], *, where: str) -> StageSection:
    """Validate a stage that came with a request.

    Raises:
        ConfigInvalid: one line a mistake, each with `where`.

    """
    try:
        return TypeAdapter(StageSection).validate_python(dict(given))
    except ValidationError as error:
        raise ConfigInvalid("\n".join(f"{where}: {line}" for line in _mistakes(error))) from error


_BACKENDS: dict[str, type[_Model]] = {
    "openvino": OpenVinoModel,
    "sentence-transformers": SentenceTransformersModel,
    "openai-embeddings": OpenAIEmbeddingsModel,
    "cross-encoder": CrossEncoderModel,
    "openai": OpenAIModel,
    "vllm": VllmModel,
    "rerank-api": RerankApiModel,
}


def _mistakes(error: ValidationError) -> list[str]:
    """Return a sentence for each mistake: the key, what is wrong, and what could stand there."""
    lines = []
    for mistake in error.errors(include_url=False):
        # The tag of a discriminated union is no key of the file.
        path = [str(part) for i, part in enumerate(mistake["loc"]) if not (i == 2 and part in _BACKENDS)]
        key = ".".join(path)
        match mistake["type"]:
            case "extra_forbidden":
                known = _known_keys(mistake["loc"][:-1])
                near = get_close_matches(path[-1], known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                lines.append(f"{key}: no such key{hint} (known: {', '.join(known)})")
            case "missing":
                lines.append(f"{key}: is needed and missing")
            case "union_tag_invalid" | "union_tag_not_found":
                given = mistake["input"].get("backend") if isinstance(mistake["input"], dict) else None
                lines.append(f"{key}.backend: is {given!r}, and must be one of {', '.join(_BACKENDS)}")
            case _:
                shown = repr(mistake["input"])
                shown = shown if len(shown) <= 80 else shown[:77] + "…"
                lines.append(f"{key}: {mistake['msg'].removeprefix('Value error, ')}; it is {shown}")
    return lines


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a table at `location` may have."""
    section: type[BaseModel] = Config
    for i, part in enumerate(location):
        if location[0] == "models" and i == 2:
            section = _BACKENDS[str(part)]
        elif isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation)
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel]:
    """Return the section class inside `dict[str, Section]`, `tuple[Section, ...]` or a plain annotation."""
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return BaseModel
