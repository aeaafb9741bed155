"""The configuration file: one TOML, read once, refused at start with the offending key and the known ones.

What a file does not say stands in `builtin.toml`, which is laid under it: its pipelines and models are always there,
unless the file has one of the same name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
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

from podium_server.accounting.prices import Prices
from podium_server.errors import ConfigInvalid, known_names
from podium_server.limits import Limits

RETRIEVERS = ("bm25", "vector")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PricesSection(_Section):
    """`prices` of a model. Every rate is optional, and a cost with an unknown part is unknown."""

    prompt_usd_per_mtok: float | None = Field(None, ge=0, allow_inf_nan=False)
    cached_usd_per_mtok: float | None = Field(None, ge=0, allow_inf_nan=False)
    output_usd_per_mtok: float | None = Field(None, ge=0, allow_inf_nan=False)
    usd_per_call: float | None = Field(None, ge=0, allow_inf_nan=False)
    compute_usd_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    version: str = ""

    def prices(self) -> Prices:
        """Return them as accounting uses them."""
        return Prices(**self.model_dump())


class _Model(_Section):
    prices: PricesSection = PricesSection()


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


def key_variable(configured: str | None, base_urls: Sequence[str]) -> str | None:
    """Return the environment variable that holds an endpoint's key; None where none is sent.

    The usual variable is read for OpenAI's own address alone: its key must not reach an endpoint that merely speaks
    the same protocol.
    """
    if configured is not None:
        return configured or None
    own = all(urlsplit(url).hostname == "api.openai.com" for url in base_urls)
    return "OPENAI_API_KEY" if own else None


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


Model: TypeAlias = Annotated[
    OpenVinoModel | SentenceTransformersModel | OpenAIEmbeddingsModel | CrossEncoderModel | OpenAIModel | VllmModel,
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
    """Of a cross-encoder; unset is what the model gives."""
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
    """Of a cross-encoder; unset is what the model gives."""
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


class PipelineSection(_Section):
    """A named pipeline: recall, then its stages."""

    description: str = ""
    stages: tuple[StageSection, ...] = Field(min_length=1)
    recall_depth: int = Field(100, ge=1)
    retrievers: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(RETRIEVERS, 1.0))
    """Weights of the retrievers that recall for it."""

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


class Config(_Section):
    """The whole file."""

    server: ServerSection = ServerSection()
    limits: Limits = Limits()
    models: dict[str, Model] = Field(default_factory=dict)
    collections: dict[str, CollectionSection] = Field(default_factory=dict)
    pipelines: dict[str, PipelineSection] = Field(default_factory=dict)


def load(path: Path | None) -> Config:
    """Read a configuration file over the built-in one.

    Args:
        path: of the TOML file; None takes the built-in configuration alone.

    Raises:
        ConfigInvalid: with the file, the key, and what could stand there instead.

    """
    builtin = tomllib.loads((files("podium_server") / "builtin.toml").read_text("utf-8"))
    if path is None:
        return parse(builtin, where="builtin.toml")
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigInvalid(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path}: is no valid TOML: {error}") from error
    layered = dict(given)
    for table in ("models", "pipelines"):
        if isinstance(given.get(table, {}), dict):
            layered[table] = {**builtin.get(table, {}), **given.get(table, {})}
    return parse(layered, where=str(path))


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
    return config


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
