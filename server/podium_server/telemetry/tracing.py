"""Spans by OpenTelemetry (extra `otel`), sent by OTLP over gRPC.

One span a call, a ranked request, a stage and a call to a model. A caller's `traceparent` is gone on with, and handed
on to the backends. Queries, documents and replies are in no span unless the configuration says so. Names follow the
semantic conventions: `rpc.*` for calls, `gen_ai.*` for models; what is ours begins with `podium.`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from podium_server.errors import PodiumError
from podium_server.ranking.guard import Work
from podium_server.telemetry import spans
from podium_server.telemetry.spans import Kind, Value
from podium_server.transport import status
from podium_server.transport.door import Call

_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_PROPAGATOR = TraceContextTextMapPropagator()
_NANO = 1_000_000_000
_SEND_S_MAX = 5.0
"""Of one batch, with all that the exporter tries again; what is not sent by then is dropped."""


@dataclass(frozen=True, slots=True)
class _OtelSpan:
    """A span of theirs behind our protocol (`spans.Span`)."""

    tracer: Tracer
    span: Span
    texts: bool
    began_ns: int = field(default_factory=time.time_ns)

    @property
    def headers(self) -> Mapping[str, str]:
        """`traceparent`, and `tracestate` where the caller had one."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(self.span))
        return carrier

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> _OtelSpan:
        began_ns = time.time_ns()
        inner = self.tracer.start_span(
            name,
            context=set_span_in_context(self.span),
            kind=_KINDS[kind],
            attributes=dict(attributes),
            start_time=began_ns,
            record_exception=False,
        )
        return _OtelSpan(self.tracer, inner, self.texts, began_ns)

    def note(self, attributes: Mapping[str, Value]) -> None:
        self.span.set_attributes(dict(attributes))

    def failed(self, error: BaseException) -> None:
        # The text of a stranger's error may hold anything; ours hold what the caller is told.
        said = error.message if isinstance(error, PodiumError) else type(error).__name__
        name = error.reason if isinstance(error, PodiumError) else type(error).__name__
        self.span.set_attribute("error.type", name)
        self.span.set_status(Status(StatusCode.ERROR, said))

    def end(self, *, after_s: float | None = None) -> None:
        self.span.end(None if after_s is None else self.began_ns + round(after_s * _NANO))


class Tracing:
    """Opens a span for every call that is sampled, and sends them.

    Args:
        endpoint: of the collector, such as `http://127.0.0.1:4317`.
        sample: part of the calls whose caller has not decided.
        texts: whether spans carry queries and what models were asked and said.
        exporter: instead of the one that sends to `endpoint`, for tests.

    """

    def __init__(
        self, endpoint: str = "", *, sample: float = 1.0, texts: bool = False, exporter: SpanExporter | None = None
    ) -> None:
        self.provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)),
            resource=Resource.create({"service.name": "podium", "service.version": version("podium")}),
            shutdown_on_exit=False,
        )
        if exporter is None:
            exporter = OTLPSpanExporter(
                endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_SEND_S_MAX
            )
        # Its queue is bounded; what is too much is dropped, and said in our log.
        self._processor = BatchSpanProcessor(exporter)
        self.provider.add_span_processor(self._processor)
        self.tracer = self.provider.get_tracer("podium")
        self.texts = texts

    def call(self, call: Call) -> _CallSpan:
        """Stand around a call (a `transport.door.Guard`)."""
        return _CallSpan(self, call)

    def work(self, work: Work) -> _WorkSpan:
        """Stand around a request (a `ranking.guard.Guard`)."""
        return _WorkSpan(work)

    def close(self) -> None:
        """Send what is left, for as long as a batch may take."""
        self.provider.shutdown()


class _CallSpan:
    __slots__ = ("call", "span", "tracing")

    def __init__(self, tracing: Tracing, call: Call) -> None:
        self.tracing = tracing
        self.call = call
        self.span: _OtelSpan | None = None

    async def __aenter__(self) -> None:
        call, tracing = self.call, self.tracing
        carrier = {"traceparent": call.traceparent, "tracestate": call.metadata.get("tracestate", "")}
        method = call.method.removeprefix("/")
        span = tracing.tracer.start_span(
            method,
            context=_PROPAGATOR.extract(carrier) if call.traceparent else None,
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system.name": "grpc" if call.via == "grpc" else "http",
                "rpc.method": method,
                "podium.via": call.via,
                "podium.request_id": call.request_id,
            },
            record_exception=False,
        )
        if span.is_recording():
            self.span = _OtelSpan(tracing.tracer, span, tracing.texts)
            spans.current.set(self.span)
        elif call.traceparent:
            # The caller has decided that this is not to be seen; the backends are told so, too.
            spans.current.set(_Unseen(_forwarded(carrier)))

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        spans.current.set(None)
        if self.span is None:
            return
        code = status.code_of(error)
        self.span.note({"rpc.response.status_code": code})
        if error is not None:
            self.span.failed(error)
        self.span.end()


class _WorkSpan:
    __slots__ = ("opened", "span", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        request = work.request
        self.opened = spans.opened(
            "rank", podium__pipeline=work.pipeline or "inline", podium__candidates=len(request.candidates)
        )

    async def __aenter__(self) -> None:
        self.span = self.opened.__enter__()
        if self.span is not None and self.span.texts:
            self.span.note({"podium.query": self.work.request.query})

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        work, span = self.work, self.span
        if span is not None:
            total = work.ledger.total()
            noted: dict[str, Value] = {
                "podium.rounds": work.ledger.rounds,
                "podium.calls": total.calls,
                "podium.tokens": total.tokens,
            }
            if total.cost_nano_usd is not None:
                noted["podium.cost_usd"] = total.cost_nano_usd / _NANO
            if work.outcome is not None:
                noted["podium.completion"] = work.outcome.completion.value
                noted["podium.warnings"] = [warned.code for warned in work.outcome.warnings]
            span.note(noted)
        self.opened.__exit__(kind, error, None)


@dataclass(frozen=True, slots=True)
class _Unseen:
    """Stands where nothing is recorded and the backends are to know that, too."""

    headers: Mapping[str, str]
    texts: bool = False

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> _Unseen:
        return self

    def note(self, attributes: Mapping[str, Value]) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        pass

    def end(self, *, after_s: float | None = None) -> None:
        pass


def _forwarded(carrier: Mapping[str, str]) -> Mapping[str, str]:
    return {key: value for key, value in carrier.items() if value}
