"""Encoders run by sentence-transformers and torch: any model of theirs, by folder or hub name (extra `torch`)."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from podium_server.backends.encoders.encoder import (
    CHARACTERS_PER_TOKEN_AT_MOST,
    Encoded,
    Floats,
    beginning,
    unit,
    well_formed,
)
from podium_server.errors import BackendDown, ConfigInvalid, FailedPrecondition

try:
    import torch
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    raise ConfigInvalid(
        f"the backend 'sentence-transformers' needs the extra torch: pip install 'podium[torch]' ({error})"
    ) from error

_TEXTS_AT_A_TIME = 256
"""Sorted by length among themselves, and then out of memory."""
_TEXTS_PER_BATCH = 16
"""On a processor larger batches pad more and are no faster; an accelerator takes more, in `_ON_ACCELERATOR`."""
_ON_ACCELERATOR = 128


class SentenceTransformersEncoder:
    """An encoder of sentence-transformers (`backends.encoders.encoder.Encoder`).

    Args:
        model: a folder, or a name on the hub (which is then fetched).
        name: the configured name.
        query_prefix: put before queries; None takes the model's own prompt.
        document_prefix: put before documents; None takes the model's own prompt.
        max_tokens: cut texts to that many tokens, where the model would see more.
        device: as torch calls it; None takes the best that there is.

    Raises:
        ConfigInvalid: the model cannot be loaded.

    """

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        max_tokens: int | None = None,
        device: str | None = None,
    ) -> None:
        try:
            loaded = SentenceTransformer(model, device=device)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigInvalid(f"sentence-transformers cannot load {model!r}: {error}") from error
        self.name = model if name is None else name
        own = int(getattr(loaded, "max_seq_length", None) or 512)
        self.max_tokens = own if max_tokens is None else min(max_tokens, own)
        loaded.max_seq_length = self.max_tokens
        prompts = dict(loaded.prompts or {})
        self._query_prefix = prompts.get("query", "") if query_prefix is None else query_prefix
        own_document = prompts.get("document") or prompts.get("passage") or ""
        self._document_prefix = own_document if document_prefix is None else document_prefix
        self._model: Any = loaded
        self._one_at_a_time = threading.Lock()
        # The module that makes token vectors is a transformer; static embeddings and images have none.
        self.has_token_vectors = hasattr(loaded[0], "auto_model") or hasattr(loaded[0], "model")
        self._on_accelerator = str(loaded.device) not in ("cpu", "mps")
        probe = loaded.encode(["probe"], convert_to_numpy=True, show_progress_bar=False, prompt="")
        self.dim = int(np.asarray(probe).shape[1])
        self.revision = self._hash()

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is looked for; see `Encoder`."""
        return self._encode(texts, self._query_prefix, token_vectors=token_vectors)

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is searched; see `Encoder`."""
        return self._encode(texts, self._document_prefix, token_vectors=token_vectors)

    def close(self) -> None:
        """Free the model once the calls under way have ended."""
        self._model = None

    def _encode(self, texts: Sequence[str], prefix: str, *, token_vectors: bool) -> Encoded:
        model = self._model
        if model is None:
            raise BackendDown(f"the encoder {self.name!r} is closed")
        if token_vectors and not self.has_token_vectors:
            raise FailedPrecondition(f"the model {self.name!r} has no token vectors")
        vectors = np.empty((len(texts), self.dim), np.float32)
        of_tokens: list[Floats] = []
        tokens: list[int] = []
        truncated: list[bool] = []
        tokenize_s = infer_s = 0.0
        of_prefix = 0
        if prefix and token_vectors:
            with self._one_at_a_time:
                of_prefix = len(model.tokenizer(prefix.rstrip(), add_special_tokens=False)["input_ids"])
        at_most = self.max_tokens * CHARACTERS_PER_TOKEN_AT_MOST
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            begun = time.perf_counter()
            part = texts[start : start + _TEXTS_AT_A_TIME]
            heads = [well_formed(prefix + beginning(text, at_most)) for text in part]
            whole = self._lengths(model, heads)
            tokens += [min(length, self.max_tokens) for length in whole]
            truncated += [
                length > self.max_tokens or len(text) > at_most for length, text in zip(whole, part, strict=True)
            ]
            tokenized = time.perf_counter()
            into = vectors[start : start + len(part)]
            of_tokens += self._forward(model, heads, of_prefix, into, token_vectors=token_vectors)
            tokenize_s += tokenized - begun
            infer_s += time.perf_counter() - tokenized
        return Encoded(
            vectors=unit(vectors),
            token_vectors=tuple(of_tokens) if token_vectors else None,
            tokens=tuple(tokens),
            truncated=tuple(truncated),
            prompt_tokens=sum(tokens),
            tokenize_s=tokenize_s,
            infer_s=infer_s,
        )

    def _forward(
        self, model: Any, texts: Sequence[str], of_prefix: int, vectors: Floats, *, token_vectors: bool
    ) -> list[Floats]:
        """Fill `vectors` (texts, dim) and return the texts' token vectors, if wanted, from one pass.

        The library's own `encode` gives one or the other; `output_value=None` would give both, and fails in 5.7.
        """
        of_tokens: list[Floats] = [np.empty((0, self.dim), np.float32)] * (len(texts) if token_vectors else 0)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        size = _ON_ACCELERATOR if self._on_accelerator else _TEXTS_PER_BATCH
        # The name of this step from version 5.3 on.
        prepare = getattr(model, "preprocess", None) or model.tokenize
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            with self._one_at_a_time:
                features = prepare([texts[i] for i in chunk])
            given = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
            with torch.inference_mode():
                out = model(given)
            vectors[chunk] = _numpy(out["sentence_embedding"])[:, : self.dim]
            if token_vectors:
                seen, ids = _numpy(out["attention_mask"]).astype(bool), _numpy(features["input_ids"])
                special = np.isin(ids, model.tokenizer.all_special_ids)
                hidden = _numpy(out["token_embeddings"])
                for row, i in enumerate(chunk):
                    of_tokens[i] = unit(hidden[row][np.flatnonzero(seen[row] & ~special[row])[of_prefix:]])
        return of_tokens

    def _lengths(self, model: Any, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special ones included; 0 for models whose tokenizer does not say."""
        if not texts or not callable(getattr(model, "tokenizer", None)):
            return [0] * len(texts)
        # The wrapper keeps whether to cut and to pad in the tokenizer, which queries and documents share.
        with self._one_at_a_time:
            ids = model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(each) for each in ids]

    def _hash(self) -> str:
        said = hashlib.sha256(repr((self.max_tokens, self._query_prefix, self._document_prefix)).encode())
        for key, tensor in sorted(self._model.state_dict().items()):
            said.update(key.encode())
            # As bytes, since numpy has no bfloat16.
            said.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return said.hexdigest()[:16]


def _numpy(tensor: Any) -> Any:
    return tensor.detach().float().cpu().numpy() if torch.is_floating_point(tensor) else tensor.cpu().numpy()
