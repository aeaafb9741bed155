"""`[tls]`, `[access]` and `[tenants.NAME]` of the configuration file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

IN_SO_MANY_WORDS = "I know that anyone can call this server"

# A tenant's name is the beginning of its collections' names in the store, and the value of a metric's label.
_TENANT = re.compile("[a-z0-9][a-z0-9_-]{0,62}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSection(_Section):
    """`[tls]`: certificates of the server, read again when their files change. Unset: nothing is encrypted."""

    certificate: Path | None = None
    """PEM: the server's, then those between it and the root."""
    key: Path | None = None
    """PEM, without a passphrase; readable by the server alone, if you can."""
    client_ca: Path | None = None
    """PEM: callers have to show a certificate of one of these authorities (mutual TLS)."""

    @model_validator(mode="after")
    def _both(self) -> TlsSection:
        if (self.certificate is None) != (self.key is None):
            missing, there = ("key", "certificate") if self.key is None else ("certificate", "key")
            raise ValueError(f"tls.{there} is set and tls.{missing} is not; they belong together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("tls.client_ca is set and tls.certificate is not; mutual TLS needs both sides")
        return self

    @property
    def on(self) -> bool:
        """Whether callers reach the server by TLS."""
        return self.certificate is not None


class AccessSection(_Section):
    """`[access]`: whether callers have to say who they are, and how that is checked."""

    keys: bool = False
    """Every call needs an API key, or a certificate whose subject a tenant has."""
    keys_file: Path | None = None
    """Unset: `keys.sqlite` in the data directory. `podium keys` writes it, servers follow it."""
    pepper_file: Path | None = None
    """The secret that keys are hashed with. Unset: beside the keys, made with the first key."""
    pepper_env: str | None = None
    """The environment variable that has it instead."""
    health: Literal["open", "guarded"] = "open"
    """Whether `grpc.health.v1` answers without credentials. Probes and balancers have none."""
    reflection: Literal["off", "open", "guarded"] | None = None
    """Unset: open without keys, off with them."""
    shared_collections: tuple[str, ...] = ()
    """Collections that every tenant may search and read, and none of them may change."""
    queue: int = Field(256, ge=0)
    """Requests of one tenant that wait for a place. More: RESOURCE_EXHAUSTED."""
    wait_s: float = Field(1.0, ge=0, allow_inf_nan=False)
    """That a request waits for a place. Longer: RESOURCE_EXHAUSTED."""

    @model_validator(mode="after")
    def _one_pepper(self) -> AccessSection:
        if self.pepper_file is not None and self.pepper_env is not None:
            raise ValueError("access.pepper_file and access.pepper_env are both set; the pepper has one place")
        return self


# Of a unit in one window (of money: nano-USD). The store's numbers have 64 bits, and debts need some room.
_MOST = 10**18


class QuotaSection(_Section):
    """One entry of `quotas` of a tenant: amounts, per window."""

    per: Literal["minute", "hour", "day", "month"]
    """Windows begin with the minute, hour, day or month of UTC."""
    requests: int | None = Field(None, ge=0, le=_MOST)
    """Calls, and each further request inside one (items of a batch, contenders of a comparison)."""
    pairs: int | None = Field(None, ge=0, le=_MOST)
    """(query, document) pairs that models score."""
    tokens: int | None = Field(None, ge=0, le=_MOST)
    """Input and output."""
    usd: float | None = Field(None, ge=0, le=_MOST / 1e9, allow_inf_nan=False)
    """Requests whose cost cannot be known beforehand are refused."""

    @model_validator(mode="after")
    def _something(self) -> QuotaSection:
        if self.requests is self.pairs is self.tokens is self.usd is None:
            raise ValueError("bounds nothing; set requests, pairs, tokens or usd")
        return self


class TenantSection(_Section):
    """`[tenants.NAME]`: somebody with keys, collections of their own, and bounds."""

    description: str = ""
    namespace: str | None = None
    """Of its collections in the store. Unset is the tenant's name; "" has those that were made without keys."""
    pipelines: tuple[str, ...] | None = None
    """That it may use; unset is all of them. A key may be held to fewer."""
    inline: bool | None = None
    """Whether requests may bring stages of their own. Unset: where all pipelines are allowed."""
    subjects: tuple[str, ...] = ()
    """Names in certificates (common name, or DNS, URI or e-mail of the alternative names) that are this tenant."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Its share of the server when not all can be served, beside the others' weights."""
    priority: Literal["high", "normal", "low"] = "normal"
    """Who waits with a higher one is served before all with a lower one."""
    concurrency: int | None = Field(None, ge=1)
    """Requests at work at the same time in one server process; more wait as for a place."""
    quotas: tuple[QuotaSection, ...] = ()


def _tenant_names(tenants: dict[str, TenantSection]) -> dict[str, TenantSection]:
    subjects: dict[str, str] = {}
    namespaces: dict[str, str] = {}
    for name, tenant in tenants.items():
        namespace = name if tenant.namespace is None else tenant.namespace
        for kind, given in (("tenant's name", name), ("namespace", namespace or name)):
            if not _TENANT.fullmatch(given):
                raise ValueError(
                    f"{given!r} is no {kind}; a letter or digit, then up to 62 letters, digits, '-' or '_', lower case"
                )
        if (other := namespaces.setdefault(namespace, name)) != name:
            raise ValueError(f"{other!r} and {name!r} have the same namespace, {namespace!r}, and would be one tenant")
        for subject in tenant.subjects:
            if (other := subjects.setdefault(subject, name)) != name:
                raise ValueError(f"the subject {subject!r} is that of {other!r} and of {name!r}; it can mean one only")
    return tenants


Tenants = Annotated[dict[str, TenantSection], AfterValidator(_tenant_names)]
"""By name; no two have a namespace or a subject in common."""
