"""`[models.NAME]`: one class for each backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from podium_server.accounting.prices import Prices
from podium_server.config.section import Section


class PricesSection(Section):
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


class BreakerSection(Section):
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


class _Model(Section):
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

BACKENDS: dict[str, type[_Model]] = {
    "openvino": OpenVinoModel,
    "sentence-transformers": SentenceTransformersModel,
    "openai-embeddings": OpenAIEmbeddingsModel,
    "cross-encoder": CrossEncoderModel,
    "openai": OpenAIModel,
    "vllm": VllmModel,
    "rerank-api": RerankApiModel,
}
"""By what `backend` says."""
