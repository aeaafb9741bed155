"""What is at which path: the one list that the routes and the OpenAPI page are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from podium_server.rest import catalog, native
from podium_server.rest.answers import Rest
from podium_server.rest.catalog import Listing, health, version_of
from podium_server.rest.dialects import shared
from podium_server.rest.dialects.cohere import CohereV1, CohereV2
from podium_server.rest.dialects.dialect import Dialect
from podium_server.rest.dialects.jina import Jina
from podium_server.rest.dialects.shared import SHARED, SHARED_V2
from podium_server.rest.dialects.tei import Tei
from podium_server.rest.dialects.vllm import Refused as VllmRefused
from podium_server.rest.dialects.vllm import Vllm
from podium_server.rest.dialects.voyage import Voyage
from podium_server.rest.native import Native
from podium_server.rest.reranking import Reranking
from podium_server.rest.scoring import ScoreBody, Scored, Scoring
from podium_server.transport.door import Method


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path.

    Args:
        verb: GET or POST.
        path: with `{model}` where a part of it varies.
        app: answers.
        tag: under which the page lists it.
        summary: in a sentence.
        bodies: types of what it takes; several where dialects share it.
        answers: types of what it answers with.
        errors: types of its errors.
        method: of the contract, where it is that method as JSON.

    """

    verb: str
    path: str
    app: Any
    tag: str
    summary: str
    bodies: tuple[Any, ...] = ()
    answers: tuple[Any, ...] = ()
    errors: tuple[Any, ...] = ()
    method: Method | None = None


def endpoints(rest: Rest) -> list[Endpoint]:
    """Return all of them."""
    return [*_roots(rest), *_prefixed(rest), *_facts(rest), *_native(rest)]


def _roots(rest: Rest) -> Iterator[Endpoint]:
    """Paths without a prefix, which dialects share."""
    common = (SHARED, shared.COHERE_V1, shared.VOYAGE, shared.VLLM)
    shares = {
        "/rerank": (Reranking(rest, SHARED, shared.of_rerank), (*common, shared.TEI)),
        "/v1/rerank": (Reranking(rest, SHARED, shared.of_v1), common),
        "/v2/rerank": (Reranking(rest, SHARED_V2, shared.of_v2), (SHARED_V2, shared.VLLM)),
    }
    for path, (app, dialects) in shares.items():
        names = ", ".join(dialect.name for dialect in dialects)
        yield _ranking(path, app, "Any client", f"Rank, in the dialect that the body is of: {names}", dialects)
    for path in ("/score", "/v1/score"):
        yield _scoring(path, rest, "Any client")


def _prefixed(rest: Rest) -> Iterator[Endpoint]:
    """Paths whose prefix says the dialect."""
    placed: list[tuple[str, Dialect[Any]]] = [
        ("/cohere/v2/rerank", CohereV2()),
        ("/cohere/v1/rerank", CohereV1()),
        ("/jina/v1/rerank", Jina()),
        ("/voyage/v1/rerank", Voyage()),
        ("/vllm/rerank", Vllm()),
        ("/vllm/v1/rerank", Vllm()),
        ("/vllm/v2/rerank", Vllm()),
        ("/tei/rerank", Tei()),
        ("/tei/{model}/rerank", Tei()),
    ]
    for path, dialect in placed:
        yield _ranking(path, Reranking(rest, dialect), dialect.summary, f"Rank ({dialect.summary})", (dialect,))
    for path in ("/vllm/score", "/vllm/v1/score"):
        yield _scoring(path, rest, Vllm.summary)


def _ranking(path: str, app: Reranking, tag: str, summary: str, dialects: tuple[Dialect[Any], ...]) -> Endpoint:
    return Endpoint(
        verb="POST",
        path=path,
        app=app,
        tag=tag,
        summary=summary,
        bodies=tuple(dialect.body for dialect in dialects),
        answers=tuple(dialect.answer for dialect in dialects),
        errors=tuple(dict.fromkeys(dialect.error for dialect in dialects)),
    )


def _scoring(path: str, rest: Rest, tag: str) -> Endpoint:
    return Endpoint(
        verb="POST",
        path=path,
        app=Scoring(rest),
        tag=tag,
        summary="Score one text against many, or many against as many",
        bodies=(ScoreBody,),
        answers=(Scored,),
        errors=(VllmRefused,),
    )


def _facts(rest: Rest) -> Iterator[Endpoint]:
    """What there is, and how it is."""
    lists = [
        ("/v1/models", "any", catalog.all_models, catalog.shared_refuse, catalog.Models, shared.Refused),
        ("/jina/v1/models", "jina", catalog.models, Jina().refuse, catalog.Models, Jina.error),
        (
            "/cohere/v1/models",
            "cohere-v1",
            catalog.cohere_models,
            CohereV2().refuse,
            catalog.CohereModels,
            CohereV2.error,
        ),
        ("/vllm/v1/models", "vllm", catalog.models, Vllm().refuse, catalog.Models, Vllm.error),
        ("/info", "tei", catalog.info, Tei().refuse, catalog.Info, Tei.error),
        ("/tei/info", "tei", catalog.info, Tei().refuse, catalog.Info, Tei.error),
        ("/tei/{model}/info", "tei", catalog.info, Tei().refuse, catalog.Info, Tei.error),
    ]
    for path, via, write, refuse, answer, error in lists:
        app = Listing(rest, via, write, refuse)
        yield Endpoint("GET", path, app, "Facts", "What there is", answers=(answer,), errors=(error,))
    for path in ("/health", "/tei/health", "/tei/{model}/health", "/vllm/health"):
        yield Endpoint("GET", path, health(rest), "Facts", "200 while pipelines can answer, 503 otherwise")
    for path in ("/version", "/vllm/version"):
        yield Endpoint("GET", path, version_of(rest), "Facts", "The version", answers=(catalog.Version,))


def _native(rest: Rest) -> Iterator[Endpoint]:
    """The contract as JSON."""
    for method in rest.door.methods.values():
        service = method.descriptor.containing_service.name
        yield Endpoint(
            "POST",
            native.path(method),
            Native(rest, method),
            service,
            f"{service}.{method.descriptor.name}",
            method=method,
        )
