"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table whose keys are all known, and that does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def section_in(annotation: Any) -> type[BaseModel]:
    """Return the section class inside `dict[str, Section]`, `tuple[Section, ...]` or a plain annotation."""
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return BaseModel
