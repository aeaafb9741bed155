"""The Python client of Podium: `Client`, and `AsyncClient` for asyncio.

>>> with Client("localhost:50051") as podium:
...     result = podium.rerank("how do plants eat", ["Bread is baked.", "Leaves turn light into sugar."])
...     result.order
(1, 0)
"""

from podium_client.aio import AsyncClient
from podium_client.channel import VERSION, default_service_config, tls_credentials
from podium_client.client import Client
from podium_client.errors import (
    AlreadyExists,
    BudgetExhausted,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    PodiumError,
    QuotaExceeded,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Violation,
)
from podium_client.filters import Filter, between, equal, exists, one_of
from podium_client.types import (
    BatchAnswer,
    BatchItem,
    Budget,
    CallOptions,
    Chunking,
    Collection,
    CollectionStats,
    ComparedRanking,
    Comparison,
    Contender,
    Deleted,
    Document,
    DocumentError,
    Estimate,
    EstimatedUsage,
    Fetched,
    FoundDocument,
    Ledger,
    Limits,
    Model,
    Pipeline,
    RankedDocument,
    RankingWarning,
    RerankOptions,
    RerankResult,
    SearchOptions,
    SearchResult,
    SharedOptions,
    Snapshot,
    Stage,
    StageUsage,
    Strategy,
    Truncation,
    Upserted,
    Usage,
    usd,
)

__version__ = VERSION

__all__ = [
    "__version__", "AsyncClient", "Client", "default_service_config", "tls_credentials",
    "between", "equal", "exists", "one_of", "usd",
    "BatchAnswer", "BatchItem", "Budget", "CallOptions", "Chunking", "Collection", "CollectionStats",
    "ComparedRanking", "Comparison", "Contender", "Deleted", "Document", "DocumentError", "Estimate",
    "EstimatedUsage", "Fetched", "Filter", "FoundDocument", "Ledger", "Limits", "Model", "Pipeline",
    "RankedDocument", "RankingWarning", "RerankOptions", "RerankResult", "SearchOptions", "SearchResult",
    "SharedOptions", "Snapshot", "Stage", "StageUsage", "Strategy", "Truncation", "Upserted", "Usage",
    "AlreadyExists", "BudgetExhausted", "Cancelled", "DeadlineExceeded", "FailedPrecondition", "Internal",
    "InvalidRequest", "NotFound", "Overloaded", "PermissionDenied", "PodiumError", "QuotaExceeded",
    "ResourceExhausted", "Unauthenticated", "Unavailable", "Violation",
]  # fmt: skip
