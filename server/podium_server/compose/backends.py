"""Builds backends from their sections of a configuration. The module of each is imported there and then."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from podium_server.config import (
    CrossEncoderModel,
    OpenAIEmbeddingsModel,
    OpenAIModel,
    OpenVinoModel,
    RerankApiModel,
    SentenceTransformersModel,
    VllmModel,
    key_variable,
)
from podium_server.errors import ConfigInvalid, FailedPrecondition, known_names

if TYPE_CHECKING:
    from podium_server.backends.chat.backend import Capability, ChatBackend
    from podium_server.backends.cross_encoders.cross_encoder import CrossEncoder
    from podium_server.backends.encoders.encoder import Encoder
    from podium_server.backends.rerank_api.api import RerankApi

EncoderSection = OpenVinoModel | SentenceTransformersModel | OpenAIEmbeddingsModel
ChatSection = OpenAIModel | VllmModel
Section = EncoderSection | CrossEncoderModel | ChatSection | RerankApiModel

logger = logging.getLogger(__name__)


def encoder_loader(model: str, section: EncoderSection) -> Callable[[], Encoder]:
    """Return what builds an encoder. The module of its backend is imported there and then."""

    def load() -> Encoder:
        encoder: Encoder
        match section:
            case OpenVinoModel():
                from podium_server.backends.encoders.openvino import OpenVinoEncoder

                encoder = OpenVinoEncoder(
                    section.model,
                    name=model,
                    query_prefix=section.query_prefix,
                    document_prefix=section.document_prefix,
                    max_tokens=section.max_tokens,
                    threads=section.threads,
                )
            case SentenceTransformersModel():
                from podium_server.backends.encoders.sentence_transformers import SentenceTransformersEncoder

                encoder = SentenceTransformersEncoder(
                    section.model,
                    name=model,
                    query_prefix=section.query_prefix,
                    document_prefix=section.document_prefix,
                    max_tokens=section.max_tokens,
                    device=section.device,
                )
            case OpenAIEmbeddingsModel():
                from podium_server.backends.encoders.openai import OpenAIEncoder

                encoder = OpenAIEncoder(
                    section.model,
                    name=model,
                    base_url=section.base_url,
                    api_key=_key(model, key_variable(section.api_key_env, (section.base_url,))),
                    query_prefix=section.query_prefix,
                    document_prefix=section.document_prefix,
                    dimensions=section.dimensions,
                    batch=section.batch,
                )
        if section.cache_mib == 0:
            return encoder
        from podium_server.backends.encoders.embedding_cache import CachedEncoder, EmbeddingCache

        return CachedEncoder(encoder, EmbeddingCache(section.cache_mib << 20))

    return load


def cross_encoder_loader(model: str, section: CrossEncoderModel) -> Callable[[], CrossEncoder]:
    """Return what builds a cross-encoder, by the engine that its section names or the first that can run it."""

    def by_openvino() -> CrossEncoder:
        from podium_server.backends.cross_encoders.openvino import OpenVinoCrossEncoder

        assert section.precision != "f16"  # a section that exists is valid
        return OpenVinoCrossEncoder(
            section.model,
            name=model,
            max_tokens=section.max_tokens,
            threads=section.threads,
            precision=section.precision,
        )

    def by_torch() -> CrossEncoder:
        if find_spec("sentence_transformers") is None:
            raise ConfigInvalid(f"models.{model}: the engine 'torch' is not installed; pip install 'podium[torch]'")
        from podium_server.backends.cross_encoders.sentence_transformers import SentenceTransformersCrossEncoder

        return SentenceTransformersCrossEncoder(
            section.model,
            name=model,
            max_tokens=section.max_tokens,
            device=section.device,
            precision=section.precision,
        )

    def by_either() -> CrossEncoder:
        try:
            return by_openvino()
        except ConfigInvalid as error:
            if find_spec("sentence_transformers") is None:
                raise ConfigInvalid(
                    f"models.{model}: {error.message}. The engine 'torch' might run it, and is not installed: "
                    "pip install 'podium[torch]'"
                ) from error
            logger.warning("models.%s: OpenVINO cannot run it, and torch is tried: %s", model, error.message)
            try:
                return by_torch()
            except ConfigInvalid as other:
                raise ConfigInvalid(
                    f"models.{model}: no engine can run it. OpenVINO: {error.message}. torch: {other.message}"
                ) from other

    if section.engine == "openvino":
        return by_openvino
    if section.engine == "torch" or section.device is not None or section.precision == "f16":
        return by_torch
    return by_either


def chat_backend(model: str, section: Section) -> ChatBackend:
    """Build a chat backend. The module of its kind is imported here and now; no connection is opened."""
    match section:
        case OpenAIModel():
            from podium_server.backends.chat.openai.chat import ChatSettings, OpenAIChat

            urls = (section.base_url,) if isinstance(section.base_url, str) else section.base_url
            return OpenAIChat(
                model,
                model=section.model,
                base_urls=urls,
                api_key_env=key_variable(section.api_key_env, urls),
                settings=ChatSettings(
                    attempts_max=section.attempts,
                    reply_wait_s_max=section.reply_wait_s,
                    concurrency=section.concurrency,
                    requests_per_minute=section.requests_per_minute,
                    tokens_per_minute=section.tokens_per_minute,
                    queue_max=section.queue,
                ),
                capabilities=_capabilities(model, section.capabilities),
                tokenizer=section.tokenizer,
                context_tokens=section.context_tokens,
                extra_body=section.extra_body,
                dialect=section.dialect,
                drop_prefill=section.drop_prefill,
                prices=section.prices.prices(),
            )
        case VllmModel():
            from podium_server.backends.chat.vllm import VllmChat

            return VllmChat(model, model=section.model, engine_args=section.engine, prices=section.prices.prices())
    raise FailedPrecondition(f"the model {model!r} (backend {section.backend!r}) does not answer in text")


def rerank_api(model: str, section: RerankApiModel) -> RerankApi:
    """Build a model behind rerank endpoints. No connection is opened.

    Raises:
        ConfigInvalid: the variable of its key is not set, or its tokenizer cannot be loaded.

    """
    from podium_server.backends.rerank_api.api import LIMITS, RerankApi
    from podium_server.backends.rerank_api.dialects import DIALECTS

    spoken = DIALECTS[section.dialect]
    urls = (section.base_url,) if isinstance(section.base_url, str) else section.base_url or (spoken.home,)
    home = urlsplit(spoken.home).hostname or ""
    return RerankApi(
        model,
        spoken=spoken,
        model=section.model,
        base_urls=urls,
        key_env=key_variable(section.api_key_env, urls, home=home, usual=spoken.key_variable),
        settings=replace(
            LIMITS,
            attempts_max=section.attempts,
            reply_wait_s_max=section.reply_wait_s,
            concurrency=section.concurrency,
            requests_per_minute=section.requests_per_minute,
            tokens_per_minute=section.tokens_per_minute,
            queue_max=section.queue,
        ),
        documents_max=section.documents,
        tokens_max=section.tokens_per_request,
        max_tokens=section.max_tokens,
        scale=section.scores,
        tokenizer=section.tokenizer,
    )


def _key(model: str, variable: str | None) -> str | None:
    """Return an endpoint's key from the environment; it is never printed and never logged."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigInvalid(
            f"models.{model}: the environment variable {variable} is not set; put the endpoint's key there"
        )
    return key


def _capabilities(model: str, names: tuple[str, ...] | None) -> list[Capability] | None:
    """Return what the configuration vouches for; None where it leaves that to be tried."""
    from podium_server.backends.chat.backend import Capability

    known = {capability.value: capability for capability in Capability}
    for name in names or ():
        if name not in known:
            raise ConfigInvalid(f"models.{model}.capabilities: none is named {name!r}{known_names(name, tuple(known))}")
    return None if names is None else [known[name] for name in names]
