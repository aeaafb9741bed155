"""Who was refused, and why: counted, for whoever keeps the figures."""

from __future__ import annotations

from collections import Counter
from enum import Enum


class Refusal(Enum):
    """Why a call or a request was refused. Values are labels of metrics, and do not change."""

    MISSING = "missing"
    """No key, and no certificate of a tenant."""
    UNKNOWN = "unknown"
    """A key that is not one of ours, or a wrong secret."""
    REVOKED = "revoked"
    EXPIRED = "expired"
    NO_TENANT = "no-tenant"
    """A good key, whose tenant is not configured any more."""
    PIPELINE = "pipeline"
    INLINE = "inline"
    COLLECTION = "collection"
    QUOTA = "quota"
    QUEUE_FULL = "queue-full"
    WAITED = "waited"
    """Waited for a place as long as it may."""


class Refusals(Counter[tuple[Refusal, str]]):
    """Counts by reason and tenant; "" where no tenant is known. Tenants are configured, so that labels are bounded."""

    def note(self, reason: Refusal, tenant: str = "") -> None:
        """Count one."""
        self[reason, tenant] += 1
