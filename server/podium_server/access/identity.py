"""Whoever calls: a tenant, and what the credentials allow of what is the tenant's."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from podium_server.access.sections import TenantSection
from podium_server.access.windows import Quota, quotas_of
from podium_server.errors import Unauthenticated
from podium_server.ranking.guard import for_the_house

PRIORITIES = {"high": 0, "normal": 1, "low": 2}


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant.

    Args:
        name: as configured.
        namespace: of its collections in the store; empty for those that were made without keys.
        pipelines: that it may use; None for all.
        inline: whether its requests may bring stages of their own.
        weight: its share beside those of others, when not all can be served.
        priority: 0 is served before 1, and that before 2.
        concurrency: requests at work at the same time; None is unbounded.
        quotas: what it may use in each window.

    """

    name: str
    namespace: str = ""
    pipelines: frozenset[str] | None = None
    inline: bool = True
    weight: float = 1.0
    priority: int = PRIORITIES["normal"]
    concurrency: int | None = None
    quotas: tuple[Quota, ...] = ()

    @classmethod
    def of(cls, name: str, section: TenantSection) -> Tenant:
        """Return the tenant that a section describes."""
        pipelines = None if section.pipelines is None else frozenset(section.pipelines)
        return cls(
            name=name,
            namespace=name if section.namespace is None else section.namespace,
            pipelines=pipelines,
            inline=pipelines is None if section.inline is None else section.inline,
            weight=section.weight,
            priority=PRIORITIES[section.priority],
            concurrency=section.concurrency,
            quotas=quotas_of(name, section.quotas),
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """What one set of credentials is allowed.

    Args:
        tenant: whose it is.
        key_id: the public part of its key; empty for a certificate.
        pipelines: that may be used; None for all of the server's.
        inline: whether requests may bring stages of their own.
        collections: of the tenant's; None for all of them.
        requests: the tenant's quotas of requests, each with the amount of one.

    """

    tenant: Tenant
    key_id: str = ""
    pipelines: frozenset[str] | None = None
    inline: bool = True
    collections: frozenset[str] | None = None
    requests: tuple[tuple[Quota, int], ...] = ()

    @classmethod
    def of(
        cls,
        tenant: Tenant,
        key_id: str = "",
        *,
        pipelines: frozenset[str] | None = None,
        inline: bool | None = None,
        collections: frozenset[str] | None = None,
    ) -> Identity:
        """Return what is allowed to the tenant and to the credentials."""
        allowed = tenant.pipelines if pipelines is None else pipelines
        if pipelines is not None and tenant.pipelines is not None:
            allowed = pipelines & tenant.pipelines
        return cls(
            tenant=tenant,
            key_id=key_id,
            pipelines=allowed,
            # A key for two pipelines is not meant for whatever stages its holder thinks of.
            inline=tenant.inline and (pipelines is None if inline is None else inline),
            collections=collections,
            requests=tuple((quota, 1) for quota in tenant.quotas if quota.unit == "requests"),
        )


@dataclass(slots=True)
class Visit:
    """One call of a known caller. `ranked` counts the requests in it that were ranked."""

    identity: Identity
    ranked: int = 0


current_visit: ContextVar[Visit | None] = ContextVar("current_visit", default=None)
"""The call on whose behalf the running task works, once its caller is known."""


_HOUSE = Visit(Identity(Tenant("")))


def visit() -> Visit:
    """Return the call on whose behalf the running task works.

    Raises:
        Unauthenticated: nobody is known. What asks stands behind the gate, and must not take that for everybody.

    """
    known = current_visit.get()
    if known is not None:
        return known
    if for_the_house.get():
        return _HOUSE
    raise Unauthenticated("nobody is known to be calling")


def caller() -> Identity:
    """Return who calls; as `visit`."""
    return visit().identity


def tenant_name() -> str:
    """Return the tenant of the running call; empty where nobody is known."""
    known = current_visit.get()
    return "" if known is None else known.identity.tenant.name


def tenants_of(sections: Mapping[str, TenantSection]) -> dict[str, Tenant]:
    """Return the configured tenants, by name."""
    return {name: Tenant.of(name, section) for name, section in sections.items()}
