"""The configuration: its sections, and the file that they stand in."""

from podium_server.config.file import Config, load, parse, parse_stage
from podium_server.config.models import (
    BreakerSection,
    CrossEncoderModel,
    Model,
    OpenAIEmbeddingsModel,
    OpenAIModel,
    OpenVinoModel,
    PricesSection,
    RerankApiModel,
    SentenceTransformersModel,
    VllmModel,
    key_variable,
)
from podium_server.config.pipelines import (
    RETRIEVERS,
    ChallengerSection,
    LongDocuments,
    LongDocumentsSection,
    PipelineSection,
    RoleSection,
    StageSection,
)
from podium_server.config.server import (
    AdminSection,
    CollectionSection,
    RankingLogSection,
    RestSection,
    ServerSection,
    TelemetrySection,
)

__all__ = [
    "AdminSection",
    "BreakerSection",
    "ChallengerSection",
    "CollectionSection",
    "Config",
    "CrossEncoderModel",
    "LongDocuments",
    "LongDocumentsSection",
    "Model",
    "OpenAIEmbeddingsModel",
    "OpenAIModel",
    "OpenVinoModel",
    "PipelineSection",
    "PricesSection",
    "RETRIEVERS",
    "RankingLogSection",
    "RerankApiModel",
    "RestSection",
    "RoleSection",
    "SentenceTransformersModel",
    "ServerSection",
    "StageSection",
    "TelemetrySection",
    "VllmModel",
    "key_variable",
    "load",
    "parse",
    "parse_stage",
]
