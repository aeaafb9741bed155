"""What every section of the configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table whose keys are all known, and that does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
