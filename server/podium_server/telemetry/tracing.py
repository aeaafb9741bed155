"""Spans by OpenTelemetry (extra `otel`), sent by OTLP over gRPC.

One span a call, a ranked request, a stage and a call to a model. A caller's `traceparent` is gone on with, and handed
on to the backends. Queries, documents and replies are in no span unless the configuration says so. Names follow the
semantic conventions: `rpc.*` for calls, `gen_ai.*` for models; what is ours begins with `podium.`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from podium_server.errors import PodiumError
from podium_server.ranking.guard import Work
from podium_server.telemetry import spans
from podium_server.telemetry.spans import Kind, Value
from podium_server.transport import status
from podium_server.transport.door import Call

_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_PROPAGATOR = TraceContextTextMapPropagator()
_IDS = RandomIdGenerator()
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
_NANO = 1_000_000_000
_SEND_S_MAX = 5.0
"""Of one batch, with all that the exporter tries again; what is not sent by then is dropped."""


class _Recorded:
    """A span of ours (`spans.Span`), which becomes one of theirs when it ends.

    The SDK's own span locks itself and checks every attribute as it is set, which is most of what a call that asks no
    model would take; ours are checked by mypy.
    """

    __slots__ = ("attributes", "began_ns", "context", "kind", "name", "parent", "status", "tracing")

    def __init__(
        self,
        tracing: Tracing,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, Value],
    ) -> None:
        self.tracing = tracing
        self.name = name
        self.kind = kind
        self.context = context
        self.parent = parent
        self.attributes = attributes
        self.status = _UNSET
        self.began_ns = time.time_ns()

    @property
    def texts(self) -> bool:
        return self.tracing.texts

    @property
    def headers(self) -> Mapping[str, str]:
        """`traceparent`, and `tracestate` where the caller had one."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(NonRecordingSpan(self.context)))
        return carrier

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> _Recorded:
        mine = self.context
        context = SpanContext(mine.trace_id, _IDS.generate_span_id(), False, mine.trace_flags, mine.trace_state)
        return _Recorded(self.tracing, name, _KINDS[kind], context, mine, dict(attributes))

    def note(self, attributes: Mapping[str, Value]) -> None:
        self.attributes.update(attributes)

    def failed(self, error: BaseException) -> None:
        # The text of a stranger's error may hold anything; ours hold what the caller is told.
        said = error.message if isinstance(error, PodiumError) else type(error).__name__
        self.attributes["error.type"] = error.reason if isinstance(error, PodiumError) else type(error).__name__
        self.status = Status(StatusCode.ERROR, said)

    def end(self, *, after_s: float | None = None) -> None:
        self.tracing.take(self, time.time_ns() if after_s is None else self.began_ns + round(after_s * _NANO))


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
        if exporter is None:
            exporter = OTLPSpanExporter(
                endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_SEND_S_MAX
            )
        self.texts = texts
        self._sampler = ParentBased(TraceIdRatioBased(sample))
        self._resource = Resource.create({"service.name": "podium", "service.version": version("podium")})
        self._scope = InstrumentationScope("podium")
        # Its queue is bounded; what is too much is dropped, and said in our log.
        self._processor = BatchSpanProcessor(exporter)

    def call(self, call: Call) -> _CallSpan:
        """Stand around a call (a `transport.door.Guard`)."""
        return _CallSpan(self, call)

    def work(self, work: Work) -> _WorkSpan:
        """Stand around a request (a `ranking.guard.Guard`)."""
        return _WorkSpan(work)

    def begin(self, name: str, carrier: Mapping[str, str], attributes: dict[str, Value]) -> _Recorded | None:
        """Begin the span of a call; None where it is not sampled.

        Args:
            name: of the call.
            carrier: the caller's `traceparent` and `tracestate`.
            attributes: known beforehand.

        """
        outside = _PROPAGATOR.extract(carrier) if carrier else None
        parent = get_current_span(outside).get_span_context() if outside is not None else None
        if parent is not None and not parent.is_valid:
            parent = None
        trace_id = _IDS.generate_trace_id() if parent is None else parent.trace_id
        sampled = self._sampler.should_sample(outside, trace_id, name, SpanKind.SERVER, attributes)
        if sampled.decision is not Decision.RECORD_AND_SAMPLE:
            return None
        context = SpanContext(trace_id, _IDS.generate_span_id(), False, _SAMPLED, sampled.trace_state)
        return _Recorded(self, name, SpanKind.SERVER, context, parent, attributes)

    def take(self, span: _Recorded, ended_ns: int) -> None:
        """Have a span sent that has ended."""
        self._processor.on_end(
            ReadableSpan(
                span.name,
                span.context,
                span.parent,
                self._resource,
                span.attributes,
                kind=span.kind,
                status=span.status,
                start_time=span.began_ns,
                end_time=ended_ns,
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """Send what is left, for as long as a batch may take."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class _CallSpan:
    __slots__ = ("call", "span", "tracing")

    def __init__(self, tracing: Tracing, call: Call) -> None:
        self.tracing = tracing
        self.call = call
        self.span: _Recorded | None = None

    async def __aenter__(self) -> None:
        call = self.call
        carrier = {}
        if call.traceparent:
            carrier = {"traceparent": call.traceparent, "tracestate": call.metadata.get("tracestate", "")}
        method = call.method.removeprefix("/")
        self.span = self.tracing.begin(
            method,
            carrier,
            {
                "rpc.system.name": "grpc" if call.via == "grpc" else "http",
                "rpc.method": method,
                "podium.via": call.via,
                "podium.request_id": call.request_id,
            },
        )
        if self.span is not None:
            spans.current.set(self.span)
        elif carrier:
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
