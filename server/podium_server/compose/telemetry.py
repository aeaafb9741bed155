"""What a server shows of itself, put together: guards that keep figures and open spans, and the metrics' port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from podium_server.access.listening import check_figures
from podium_server.access.sections import IN_SO_MANY_WORDS
from podium_server.errors import ConfigInvalid
from podium_server.limits import Limits

if TYPE_CHECKING:
    from podium_server.compose.podium import Podium
    from podium_server.ranking.guard import Guard as WorkGuard
    from podium_server.telemetry.exposition import Exposition
    from podium_server.telemetry.recorder import Recorder
    from podium_server.telemetry.registry import Registry
    from podium_server.telemetry.tracing import Tracing
    from podium_server.transport.door import Guard as CallGuard


class Telemetry:
    """What a server shows of itself. `start` opens the port, `close` closes it and sends the last spans.

    Args:
        podium: the server.
        tenant_of: the tenant of the running call; empty for none.

    Raises:
        ConfigInvalid: spans are wanted, and what sends them is not installed.

    """

    def __init__(self, podium: Podium, *, tenant_of: Callable[[], str] = lambda: "") -> None:
        self._podium = podium
        section = podium.config.telemetry
        self.registry: Registry | None = None
        self.recorder: Recorder | None = None
        self.exposition: Exposition | None = None
        self.call_guards: list[CallGuard] = []
        """The outermost first."""
        self.work_guards: list[WorkGuard] = []
        self.tracing: Tracing | None = None
        if section.traces_endpoint is not None:
            self._open_spans(section.traces_endpoint)
        if section.metrics_port is not None:
            self._keep_figures(tenant_of)

    def _open_spans(self, endpoint: str) -> None:
        try:
            from podium_server.telemetry.tracing import Tracing
        except ModuleNotFoundError as error:
            raise ConfigInvalid(
                f"telemetry.traces_endpoint is set, and what sends spans is not installed ({error.name}): "
                "pip install 'podium[otel]'"
            ) from error

        section = self._podium.config.telemetry
        self.tracing = Tracing(endpoint, sample=section.traces_sample, texts=section.traces_texts)
        self.call_guards.append(self.tracing.call)
        self.work_guards.append(self.tracing.work)

    def _keep_figures(self, tenant_of: Callable[[], str]) -> None:
        from podium_server.recall.limits import RecallLimits
        from podium_server.telemetry.recorder import Recorder
        from podium_server.telemetry.registry import Registry

        config = self._podium.config
        self.registry = Registry()
        self.recorder = Recorder(
            self.registry,
            pipelines=config.pipelines,
            limits={*Limits.model_fields, *(field.name for field in fields(RecallLimits))},
            tenants_max=config.telemetry.tenants,
            tenant_of=tenant_of,
        )
        self.call_guards.append(self.recorder.call)
        self.work_guards.append(self.recorder.work)

    def start(self) -> None:
        """Open the port, where there is to be one.

        Raises:
            ConfigInvalid: nobody can listen there, or ought to (`access.listening`).

        """
        section = self._podium.config.telemetry
        if self.registry is None or section.metrics_port is None:
            return
        check_figures(
            section.metrics_host,
            section.metrics_port,
            section.metrics_insecure,
            accepted=self._podium.config.server.insecure == IN_SO_MANY_WORDS,
        )
        from podium_server.compose import readings
        from podium_server.telemetry.exposition import Exposition

        self.registry.read(readings.of_process)
        self.registry.read(partial(readings.of_reranker, self._podium.reranker))
        self.registry.read(partial(readings.of_models, self._podium.models_by_name))
        if self._podium.access is not None:
            self.registry.read(partial(readings.of_access, self._podium.access.refusals))
        if self._podium.verdicts is not None:
            self.registry.read(partial(readings.of_verdicts, self._podium.verdicts))
        self.exposition = Exposition(self.registry, section.metrics_host, section.metrics_port)

    def close(self) -> None:
        """Send the last spans, and close the port. Blocks."""
        if self.tracing is not None:
            self.tracing.close()
        if self.exposition is not None:
            self.exposition.close()
