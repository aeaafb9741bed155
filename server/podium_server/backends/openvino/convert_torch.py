"""Converts what only torch can read: it runs the model once and OpenVINO notes what happens (extra `torch`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import openvino
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from podium_server.errors import ConfigInvalid

if TYPE_CHECKING:
    from podium_server.backends.openvino.convert import Kind


def traced(folder: Path, kind: Kind) -> Any:
    """Return the graph of a model of transformers.

    Raises:
        ConfigInvalid: transformers cannot load it, it has no trained head, or OpenVINO cannot follow it.

    """
    loader = AutoModelForSequenceClassification if kind == "cross-encoder" else AutoModel
    try:
        # Attention in its plain form, which OpenVINO knows best.
        model, loaded = loader.from_pretrained(
            folder, torch_dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        example = dict(AutoTokenizer.from_pretrained(folder)("a query", "a passage", return_tensors="pt"))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigInvalid(f"transformers cannot load {folder}: {error}") from error
    # Of an encoder that is a pooler, which nobody reads; of a cross-encoder the head, and transformers makes one up.
    if kind == "cross-encoder" and loaded["missing_keys"]:
        raise ConfigInvalid(
            f"{folder} has no trained head that gives a score: its weights lack "
            f"{', '.join(sorted(loaded['missing_keys']))}"
        )
    model = model.eval()
    model.config.return_dict = True
    try:
        return openvino.convert_model(model, example_input=example)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigInvalid(
            f"OpenVINO cannot follow {folder} ({type(model).__name__}): {error}; the backend 'sentence-transformers' "
            "serves it as it is"
        ) from error
