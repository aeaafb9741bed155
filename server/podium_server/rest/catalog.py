"""What there is, as dialects list it: models, TEI's and vLLM's facts about the server, health."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from podium.v1 import catalog_service_pb2
from podium_server.errors import NotFound
from podium_server.rest import calls, faults
from podium_server.rest.answers import Refuse, Rest, answered, json_response
from podium_server.rest.calls import Faulted
from podium_server.rest.dialects.cohere import CohereV2
from podium_server.rest.dialects.shared import refused
from podium_server.rest.dialects.tei import Tei
from podium_server.rest.dialects.vllm import Vllm
from podium_server.rest.faults import Fault
from podium_server.transport.door import REQUEST_ID_KEY, Call

LIST_PIPELINES = "/podium.v1.CatalogService/ListPipelines"
LIST_MODELS = "/podium.v1.CatalogService/ListModels"

_PAGE = 1_000
# Models do not say when they were made, and clients ask for it.
_CREATED = int(time.time())


class Model(TypedDict):
    """A pipeline, as OpenAI's interfaces and vLLM list models."""

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    max_model_len: NotRequired[int]


class CohereModel(TypedDict):
    """A pipeline, as Cohere lists models."""

    name: str
    endpoints: list[str]
    finetuned: bool
    context_length: int


class Models(TypedDict):
    """The list."""

    object: str
    data: list[Model]
    models: NotRequired[list[CohereModel]]


class CohereModels(TypedDict):
    """Cohere's list."""

    models: list[CohereModel]


class Labels(TypedDict):
    """What a classifier calls its outputs."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class Info(TypedDict):
    """What TEI tells of itself."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, Labels]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


class Version(TypedDict):
    """Of the server."""

    version: str


@dataclass(frozen=True, slots=True)
class Known:
    """The pipelines of a server, and their models."""

    pipelines: Sequence[catalog_service_pb2.Pipeline]
    models: Mapping[str, catalog_service_pb2.Model]

    def tokens_max(self, pipeline: catalog_service_pb2.Pipeline) -> int | None:
        """Return what the shortest-sighted of its models reads; None where none says."""
        named = [self.models[stage.model] for stage in pipeline.stages if stage.model in self.models]
        return min((model.max_input_tokens for model in named if model.max_input_tokens), default=None)


Write = Callable[[Rest, Known, Request], Any]


@dataclass(slots=True)
class Listing:
    """An endpoint over the catalogue.

    Args:
        rest: what endpoints share.
        via: the dialect.
        write: returns the body.
        refuse: writes errors.

    """

    rest: Rest
    via: str
    write: Write
    refuse: Refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        call = calls.call(request, LIST_PIPELINES, self.via)

        async def work() -> Response:
            await request.body()
            known = Known(await self._all(request, call), await self._models(request, call))
            try:
                value = self.write(self.rest, known, request)
            except NotFound as error:
                raise Faulted(faults.of_error(error, call.request_id)) from error
            return json_response(value, headers={REQUEST_ID_KEY: call.request_id})

        await answered(scope, receive, send, call, work, lambda: self.refuse)

    async def _all(self, request: Request, call: Call) -> list[catalog_service_pb2.Pipeline]:
        found: list[catalog_service_pb2.Pipeline] = []
        token = ""
        while True:
            message = catalog_service_pb2.ListPipelinesRequest(page_size=_PAGE, page_token=token)
            answer = await self._ask(request, call, LIST_PIPELINES, message)
            found += answer.pipelines
            if not (token := answer.next_page_token):
                return found

    async def _models(self, request: Request, call: Call) -> dict[str, catalog_service_pb2.Model]:
        message = catalog_service_pb2.ListModelsRequest(page_size=_PAGE)
        answer = await self._ask(request, call._replace(method=LIST_MODELS), LIST_MODELS, message)
        return {model.name: model for model in answer.models}

    async def _ask(self, request: Request, call: Call, method: str, message: Any) -> Any:
        door = self.rest.door
        return await calls.one(door, door.methods[method], lambda: message, call, request.receive)


def names(rest: Rest, known: Known) -> dict[str, catalog_service_pb2.Pipeline]:
    """Return what `model` may be: pipelines, the default one first, and the names that stand for them."""
    pipelines = {one.name: one for one in sorted(known.pipelines, key=lambda one: (not one.is_default, one.name))}
    given = {name: pipelines[pipeline] for name, pipeline in rest.pipelines.items() if pipeline in pipelines}
    return pipelines | given


def models(rest: Rest, known: Known, _request: Request) -> Models:
    """Return them as OpenAI's interfaces do."""
    data = []
    for name, pipeline in names(rest, known).items():
        one = Model(id=name, object="model", created=_CREATED, owned_by="podium", root=pipeline.name)
        if (tokens := known.tokens_max(pipeline)) is not None:
            one["max_model_len"] = tokens
        data.append(one)
    return Models(object="list", data=data)


def cohere_models(rest: Rest, known: Known, _request: Request) -> CohereModels:
    """Return them as Cohere does."""
    return CohereModels(
        models=[
            CohereModel(
                name=name,
                endpoints=["rerank"],
                finetuned=False,
                context_length=known.tokens_max(pipeline) or rest.limits.document_bytes,
            )
            for name, pipeline in names(rest, known).items()
        ]
    )


def all_models(rest: Rest, known: Known, request: Request) -> Models:
    """Return them as both do, which is what is at the root."""
    made = models(rest, known, request)
    made["models"] = cohere_models(rest, known, request)["models"]
    return made


def info(rest: Rest, known: Known, request: Request) -> Info:
    """Return what TEI tells of itself, of the pipeline that the path names, or the default one.

    Raises:
        NotFound: there is none of that name.

    """
    listed = names(rest, known)
    name = request.path_params.get("model") or next(iter(listed))
    if name not in listed:
        raise NotFound("pipeline", name, tuple(listed))
    pipeline = listed[name]
    of = [known.models[stage.model] for stage in pipeline.stages if stage.model in known.models]
    # A token is a byte at least, so that no document of the server has more.
    tokens = known.tokens_max(pipeline) or rest.limits.document_bytes
    return Info(
        model_id=name,
        model_sha=of[-1].revision or None if of else None,
        model_dtype="float32",
        model_type={"reranker": Labels(id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})},
        max_concurrent_requests=rest.limits.concurrent_requests,
        max_input_length=tokens,
        max_batch_tokens=tokens * rest.limits.documents,
        max_batch_requests=None,
        max_client_batch_size=rest.limits.documents,
        auto_truncate=True,
        tokenization_workers=1,
        version=rest.version,
        sha=None,
        docker_label=None,
    )


def shared_refuse(fault: Fault, request_id: str) -> tuple[int, Any]:
    """Return an error that clients of any dialect can read."""
    return fault.http, refused(fault, request_id)


COHERE_REFUSE: Refuse = CohereV2().refuse
TEI_REFUSE: Refuse = Tei().refuse
VLLM_REFUSE: Refuse = Vllm().refuse


def health(rest: Rest) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of health: 200 and nothing while pipelines can answer, as TEI and vLLM have it."""

    async def answer(_request: Request) -> Response:
        return Response(status_code=200 if rest.ready() else 503)

    return answer


def version_of(rest: Rest) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of the version, as vLLM has it."""

    async def answer(_request: Request) -> Response:
        return json_response(Version(version=rest.version))

    return answer
