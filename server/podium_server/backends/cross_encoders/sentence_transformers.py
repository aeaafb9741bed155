"""Cross-encoders run by sentence-transformers and torch: what OpenVINO cannot run, GPUs too (extra `torch`).

Three kinds of model go through here, each with its own way from a pair to token ids (`_Pairing`) and the same way from
there to a score:

- a classifier with one label, or two (BERT, XLM-R, ModernBERT …): `[CLS] query [SEP] passage [SEP]`;
- a language model whose folder says how sentence-transformers asks it (`modules.json`, a chat template that knows the
  roles query and document): the library's own preprocessing;
- a language model as its authors published it, without such files: their template (`templates.py`).

A score is what the model said, before any activation: the sigmoid that sentence-transformers puts on a model with one
label is not applied, and `scale="probability"` applies it here, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from podium_server.backends.cross_encoders.cross_encoder import Capacity, Pair, ScoreScale
from podium_server.backends.cross_encoders.measuring import measured
from podium_server.backends.cross_encoders.pairing import (
    ClassifierPairs,
    NativePairs,
    Pairing,
    TemplatePairs,
    TokenIds,
    padded,
    spans_of,
)
from podium_server.backends.cross_encoders.templates import TEMPLATES, Template, template_for
from podium_server.backends.encoders.encoder import Floats
from podium_server.backends.processors import usable_processors
from podium_server.errors import BackendDown, ConfigInvalid, known_names

try:
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from sentence_transformers.util import get_device_name, is_sentence_transformer_model
except ImportError as error:
    raise ConfigInvalid(
        f"the backend 'sentence-transformers' needs the extra torch: pip install 'podium[torch]' ({error})"
    ) from error

Precision: TypeAlias = Literal["auto", "f32", "bf16", "f16"]

_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
_TYPE_KEY = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"
_LONGEST_UNSAID = 512
"""Tokens of a pair, for a model that states no limit."""
_TYPICAL_TOKENS = 128
"""Of a query with a passage, for measuring."""


class SentenceTransformersCrossEncoder:
    """A cross-encoder of sentence-transformers (`backends.cross_encoders.cross_encoder.CrossEncoder`).

    Args:
        model: a folder, or a name on the hub (which is then fetched).
        name: the configured name.
        max_tokens: cut pairs to that many tokens; None takes what the model, or its template's authors, say.
        device: as torch calls it; None takes the best that there is.
        precision: of the weights and the arithmetic. `auto` is f32 on a processor; on an accelerator what the weights
            are stored in where that is a half, else bf16 for language models (the inner values of some exceed what f16
            holds) and f16 for classifiers (its scores are eight times as fine).
        scale: what scores are; "probability" is the sigmoid of the logit.
        template: a name of `templates.TEMPLATES`; None takes the one of the model's published name, or what the
            model's own files say.
        batch_tokens: padded tokens of one batch; None measures what is fastest.
        trust_remote_code: run Python that comes with the model.

    Raises:
        ConfigInvalid: the model cannot be loaded, gives more than two numbers a pair or none that was trained, or has
            a limit that its template does not fit in.

    """

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        max_tokens: int | None = None,
        device: str | None = None,
        precision: Precision = "auto",
        scale: ScoreScale = "logit",
        template: str | None = None,
        batch_tokens: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if precision != "auto" and precision not in _TYPES:
            raise ConfigInvalid(f"precision is {precision!r}; it must be auto, {', '.join(_TYPES)}")
        if scale not in ("logit", "probability"):
            raise ConfigInvalid(f"scale is {scale!r}; it must be 'logit' or 'probability'")
        if batch_tokens is not None and batch_tokens < 1:
            raise ConfigInvalid(f"batch_tokens is {batch_tokens}; it must be 1 or more")
        self.name = model if name is None else name
        self.scale: ScoreScale = scale
        try:
            encoder, asked = _load(model, device, precision, template, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ConfigInvalid(f"sentence-transformers cannot load {model!r}: {error}") from error
        encoder.eval()
        self._device = torch.device(encoder.model.device)
        if self._device.type == "cpu":
            # torch counts the machine's cores, not those that a container may use.
            torch.set_num_threads(usable_processors())
        own = encoder.tokenizer
        most = _most_tokens(encoder)
        usual = most if asked is None else asked.max_tokens
        self.max_tokens = min(most, usual if max_tokens is None else max_tokens)
        self._pairing, self._beside = _pairing(encoder, asked, self.max_tokens)
        self._pad_id = int(own.pad_token_id or 0)
        self._left = bool(self._beside.get("logits_to_keep")) or own.padding_side == "left"
        self._encoder: Any = encoder
        self.revision = _revision(encoder, self._pairing.identity, self.max_tokens, scale)
        try:
            self.capacity: Capacity = measured(
                self._run, tokens_per_pair=min(_TYPICAL_TOKENS, self.max_tokens), batch_tokens=batch_tokens
            )
        except MemoryError:
            raise ConfigInvalid(f"{model!r} leaves no memory on {self._device} for a single pair") from None

    def pairs(self, query: str, passages: Sequence[str], *, instruction: str = "") -> list[Pair]:
        """Make a pair of the query with each passage; see `CrossEncoder`."""
        return self._pairing(query, passages, instruction)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return [start, end) of each token in code points of `text`; tokens of a part of one share it."""
        return spans_of(self._pairing.tokenizer, text)

    def score(self, batch: Sequence[Pair]) -> Floats:
        """Return (pairs,) float32; see `CrossEncoder`."""
        encoder = self._encoder
        if encoder is None:
            raise BackendDown(f"the cross-encoder {self.name!r} is closed")
        if not batch:
            return np.empty(0, np.float32)
        try:
            with torch.inference_mode():
                logits = self._logits(encoder, [pair.input for pair in batch])
                given = torch.sigmoid(logits) if self.scale == "probability" else logits
                scores: Floats = given.cpu().numpy()
        except (RuntimeError, IndexError, ValueError) as error:  # out of memory is a RuntimeError
            raise BackendDown(f"{self.name!r} failed on {len(batch)} pairs: {error}") from error
        if not np.isfinite(scores).all():
            raise BackendDown(f"{self.name!r} gave what is no number for {int((~np.isfinite(scores)).sum())} pairs")
        return scores

    def close(self) -> None:
        """Free the model once the calls under way have ended."""
        self._encoder = None

    def _logits(self, encoder: Any, batch: Sequence[TokenIds]) -> Any:
        """Return (pairs,) float32 on the device: one pass, padded to the longest."""
        given = padded(batch, pad_id=self._pad_id, left=self._left)
        features = {key: torch.from_numpy(value).to(self._device) for key, value in given.items()}
        if isinstance(self._pairing, ClassifierPairs):
            logits = encoder.model(**features).logits
        else:
            logits = encoder({**features, **self._beside})["scores"]
        # In float32 before anything else is done: half precision would make ties of scores that differ.
        rows = logits.float().reshape(len(batch), -1)
        # The logit of the softmax of two logits is their difference.
        return rows[:, 0] if rows.shape[1] == 1 else rows[:, 1] - rows[:, 0]

    def _run(self, pairs: int, tokens: int) -> None:
        """Score so many pairs of any tokens to the end; MemoryError where they do not fit."""
        try:
            with torch.inference_mode():
                self._logits(self._encoder, [TokenIds((1,) * tokens)] * pairs).cpu()
        except torch.OutOfMemoryError:
            raise MemoryError from None


def _load(
    model: str, device: str | None, precision: Precision, template: str | None, *, trust_remote_code: bool
) -> tuple[Any, Template | None]:
    """Return the model, and the template where its own files do not say how it is asked."""
    config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    architecture = (config.architectures or ["of no architecture"])[0]
    native = is_sentence_transformer_model(model)
    asked = _template(template)
    if asked is None and not native and architecture.endswith("ForCausalLM"):
        asked = template_for(model)
        if asked is None:
            raise ConfigInvalid(
                f"{model!r} is a language model ({architecture}) without the files that tell sentence-transformers how "
                f"to ask it, and its name is none that we know; say its template ({', '.join(TEMPLATES)})"
            )
    device = device or get_device_name()
    common: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    weights = {_TYPE_KEY: _type(precision, config, device, language_model=asked is not None)}
    if asked is not None:
        return _asked_by(asked, model, weights, common), asked
    encoder = CrossEncoder(model, model_kwargs=weights, **common)
    if not architecture.endswith("ForSequenceClassification") and (not native or len(encoder) == 1):
        # The library would put a fresh, random head on it.
        raise ConfigInvalid(f"{model!r} is a {architecture}: it has no trained head that gives a score")
    if encoder.num_labels not in (1, 2):
        raise ConfigInvalid(
            f"{model!r} gives {encoder.num_labels} numbers a pair; a score is 1, or 2 of which the difference is taken"
        )
    return encoder, None


def _template(name: str | None) -> Template | None:
    if name is not None and name not in TEMPLATES:
        raise ConfigInvalid(f"no template is named {name!r}{known_names(name, tuple(TEMPLATES))}")
    return None if name is None else TEMPLATES[name]


def _asked_by(template: Template, model: str, weights: dict[str, Any], common: dict[str, Any]) -> Any:
    """Load a language model whose score is the logit of a word at its last place, less another's."""
    try:
        from sentence_transformers.cross_encoder.modules import LogitScore, Transformer
    except ImportError:
        raise ConfigInvalid(
            f"{model!r} is a language model; that needs sentence-transformers 5.4 or later: "
            "pip install --upgrade 'podium[torch]'"
        ) from None
    code = {"trust_remote_code": common["trust_remote_code"]}
    body = Transformer(
        model,
        transformer_task="text-generation",
        model_kwargs={**weights, **code},
        processor_kwargs=code,
        config_kwargs=code,
    )
    tokens = [None if word is None else _one_token(body.tokenizer, word, model) for word in template.words]
    return CrossEncoder(modules=[body, LogitScore(*tokens)], **common)


def _one_token(tokenizer: Any, word: str, model: str) -> int:
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ConfigInvalid(
            f"{word!r} is {len(ids)} tokens of {model!r}, or an unknown one; is it a model of that template?"
        )
    return int(ids[0])


def _type(precision: Precision, config: Any, device: str, *, language_model: bool) -> Any:
    if precision != "auto":
        return _TYPES[precision]
    if torch.device(device).type == "cpu":
        return torch.float32
    stored = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if stored in (torch.float16, torch.bfloat16):
        return stored
    return torch.bfloat16 if language_model else torch.float16


def _most_tokens(encoder: Any) -> int:
    """Return the most tokens that the model can see; sentence-transformers believes the tokenizer's number alone."""
    text = encoder.config.get_text_config()
    places = int(getattr(text, "max_position_embeddings", 0) or _LONGEST_UNSAID)
    for module in encoder.model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding) and isinstance(table.padding_idx, int):
            places -= table.padding_idx + 1  # RoBERTa counts from there
            break
    return min(places, int(encoder.tokenizer.model_max_length))


def _pairing(encoder: Any, asked: Template | None, max_tokens: int) -> tuple[Pairing, dict[str, Any]]:
    """Return the way to token ids, and what the model is told beside these."""
    if asked is not None:
        kinds = encoder[0].modality_config
        beside = {"modality": "text" if "text" in kinds else "message", "logits_to_keep": 1}
        return TemplatePairs(encoder.tokenizer, asked, max_tokens), beside
    # Without `preprocess` the library is older than 5.4, and knows classifiers only.
    kinds = getattr(encoder[0], "modality_config", {}) if hasattr(encoder, "preprocess") else {}
    prompted = getattr(encoder, "default_prompt_name", None) is not None
    if not hasattr(encoder, "preprocess") or (len(encoder) == 1 and "message" not in kinds and not prompted):
        return ClassifierPairs(encoder.tokenizer, max_tokens), {}
    native = NativePairs(encoder, max_tokens)
    return native, native.beside


def _revision(encoder: Any, identity: str, max_tokens: int, scale: ScoreScale) -> str:
    said = hashlib.sha256(repr((identity, max_tokens, scale)).encode())
    for key, tensor in sorted(encoder.state_dict().items()):
        said.update(f"{key} {tensor.dtype}".encode())
        # As bytes, since numpy has no bfloat16.
        said.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return said.hexdigest()[:16]
