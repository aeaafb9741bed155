"""The students as torch modules: a list of texts in, the voices' scores out, as logits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F  # noqa: N812  # as everyone calls it
from safetensors.torch import load_file
from torch import Tensor, nn

from podium_server.errors import ConfigInvalid
from podium_server.training.recipe import Student, Voice
from podium_server.training.torch_bodies import (
    STUDENT_FILE,
    Tokens,
    freeze,
    layers_of,
    load_body,
    load_tokenizer,
    located,
    padded,
    trim,
)

_HIDDEN = -1e4
"""What is masked scores so: far below any cosine or logit, and no infinity whose gradient is not a number."""

_MAX_TOKENS = 256
"""Of an encoder that is no student, and nobody says how long its texts may be."""

_NUMBERS_REMEMBERED = 1 << 27
"""Of a measurement, 512 MB in float32: 4,096 texts at 256 tokens of 128 numbers, and fewer where they are longer."""

Scores: TypeAlias = dict[Voice, Tensor]
HEAD_FILE = "head.safetensors"
DENSE_FOLDER = "1_Dense"


@dataclass(frozen=True, slots=True)
class Asked:
    """A list to be scored.

    Args:
        query: its text.
        texts: of documents.
        max_tokens: of a text (a pair, for a cross-encoder), special tokens included.
        max_query_tokens: without special tokens.

    """

    query: str
    texts: tuple[str, ...]
    max_tokens: int
    max_query_tokens: int


class TorchStudent(nn.Module):
    """What all students have in common."""

    def __init__(self, student: Student, body: Any, tokenizer: Any) -> None:
        super().__init__()
        self.student = student
        self.inherited: frozenset[str] = frozenset()
        """Names of the head's tensors that the start already had."""
        self.body = body
        self.tokens = Tokens(tokenizer, student.max_tokens)
        places = int(getattr(body.config, "max_position_embeddings", student.max_tokens))
        if student.max_tokens > places:
            raise ConfigInvalid(f"student.max_tokens is {student.max_tokens}; the model has places for {places}")

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def head_parameters(self) -> list[nn.Parameter]:
        """Return what is not the start's own, and learns faster."""
        raise NotImplementedError

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """A block without gradients and with the same weights, in which a text need not be encoded again."""
        yield

    def forward(
        self, lists: Sequence[Asked], batches: Sequence[Sequence[int]], microbatch: int
    ) -> tuple[list[Scores], list[Scores]]:
        """Score lists.

        Args:
            lists: with their texts.
            batches: of places in `lists`, whose texts are compared with all queries of the same batch.
            microbatch: texts of one pass.

        Returns:
            of each list the voices' scores (documents,); of each batch (queries, texts), where text i is the first of
            query i, and all others follow in order.

        """
        raise NotImplementedError

    def _query(self, text: str, most: int) -> list[int]:
        return self.tokens.of([self.student.query_prefix + text], min(most, self.student.max_tokens - 2))[0]

    def _documents(self, texts: Sequence[str], most: int) -> list[list[int]]:
        prefix = self.student.document_prefix
        return self.tokens.of([prefix + text for text in texts] if prefix else texts, most)


class Encoding(TorchStudent):
    """A late-interaction student or a bi-encoder: texts apart from each other, token vectors and a pooled one.

    MaxSim is the mean over the query's tokens of the best cosine among the document's (ColBERT, arXiv 2004.12832),
    without special tokens; the pooled vector is the mean over all tokens, before the projection. `fused` is MaxSim plus
    half the cosine.
    """

    def __init__(self, student: Student, body: Any, tokenizer: Any) -> None:
        super().__init__(student, body, tokenizer)
        width = int(body.config.hidden_size)
        late = student.kind == "late-interaction" and student.token_dim > 0
        self.projection = nn.Linear(width, student.token_dim, bias=False) if late else None
        self._remembered: dict[tuple[int, ...], tuple[Tensor, Tensor]] | None = None

    def head_parameters(self) -> list[nn.Parameter]:
        """The projection."""
        return [] if self.projection is None else list(self.projection.parameters())

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """See `TorchStudent`: lists of one corpus share most of their texts."""
        self._remembered = {}
        try:
            yield
        finally:
            self._remembered = None

    def fit_projection(self, texts: Sequence[str], microbatch: int) -> float:
        """Make the projection the principal directions of token vectors; return the share of energy that it keeps."""
        if self.projection is None:
            return 1.0
        projection, self.projection = self.projection, None
        with torch.no_grad():
            encoded = self._encode(self._documents(texts, self.student.max_tokens - 2), microbatch)
            self.projection = projection
            x = torch.cat([vectors for vectors, _ in encoded]).double()
            values, directions = torch.linalg.eigh(x.T @ x)
            size = projection.weight.shape[0]
            if size > len(values):
                raise ConfigInvalid(f"student.token_dim is {size}; the model is {len(values)} wide")
            projection.weight.copy_(directions[:, -size:].T.flip(0).float())
        return float(values[-size:].sum() / values.sum())

    def _encode(self, rows: Sequence[Sequence[int]], microbatch: int) -> list[tuple[Tensor, Tensor]]:
        """Return of each row of ids its token vectors (tokens, dim) and its pooled vector (width,), unit length.

        Rows that are equal are one text, and go through the model once.
        """
        keys = [tuple(row) for row in rows]
        known = self._remembered if self._remembered is not None else {}
        new = [key for key in dict.fromkeys(keys) if key not in known]
        fresh = dict(zip(new, self._passed(new, microbatch), strict=True))
        result = [fresh[key] if key in fresh else known[key] for key in keys]
        if self._remembered is not None:
            self._remembered |= fresh
            held = sum(vectors.numel() + pooled.numel() for vectors, pooled in self._remembered.values())
            for key in list(self._remembered):
                if held <= _NUMBERS_REMEMBERED:
                    break
                held -= sum(part.numel() for part in self._remembered.pop(key))
        return result

    def _passed(self, rows: Sequence[Sequence[int]], microbatch: int) -> list[tuple[Tensor, Tensor]]:
        tokens = self.tokens
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        out: list[tuple[Tensor, Tensor]] = [None] * len(rows)  # type: ignore[list-item]
        for start in range(0, len(order), microbatch):
            part = order[start : start + microbatch]
            ids, lengths = padded([[tokens.first, *rows[i], tokens.last] for i in part], tokens.pad, self.device)
            seen = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
            hidden = self.body(input_ids=ids, attention_mask=seen.long()).last_hidden_state
            vectors = hidden if self.projection is None else self.projection(hidden)
            vectors = F.normalize(vectors.float(), dim=-1)
            pooled = F.normalize((hidden.float() * seen[..., None]).sum(1) / lengths[:, None], dim=-1)
            for at, i in enumerate(part):
                out[i] = (vectors[at, 1 : 1 + len(rows[i])], pooled[at])
        return out

    def forward(
        self, lists: Sequence[Asked], batches: Sequence[Sequence[int]], microbatch: int
    ) -> tuple[list[Scores], list[Scores]]:
        """See `TorchStudent`."""
        documents = [self._documents(asked.texts, asked.max_tokens - 2) for asked in lists]
        queries = [self._query(asked.query, asked.max_query_tokens) for asked in lists]
        encoded = self._encode([row for rows in documents for row in rows] + queries, microbatch)
        of_queries = encoded[len(encoded) - len(queries) :]
        of_texts: list[list[tuple[Tensor, Tensor]]] = []
        at = 0
        for rows in documents:
            of_texts.append(encoded[at : at + len(rows)])
            at += len(rows)
        with torch.autocast(self.device.type, enabled=False):
            in_batches = {place for batch in batches for place in batch}
            # What is compared in a batch is not needed as a list.
            scores = [
                {} if place in in_batches else self._voices([query], texts, row=0)
                for place, (query, texts) in enumerate(zip(of_queries, of_texts, strict=True))
            ]
            matrices = []
            for batch in batches:
                first = [of_texts[place][0] for place in batch]
                rest = [text for place in batch for text in of_texts[place][1:]]
                matrices.append(self._voices([of_queries[place] for place in batch], first + rest))
        return scores, matrices

    def _voices(
        self, queries: Sequence[tuple[Tensor, Tensor]], texts: Sequence[tuple[Tensor, Tensor]], row: int | None = None
    ) -> Scores:
        """Return (queries, texts) of each voice, or one row of it."""
        pooled = torch.stack([vector for _, vector in texts])
        cosine = torch.stack([vector for _, vector in queries]) @ pooled.T
        voices: Scores = {"cosine": cosine}
        if self.student.kind == "late-interaction":
            vectors = nn.utils.rnn.pad_sequence([of_text for of_text, _ in texts], batch_first=True)
            lengths = torch.tensor([len(of_text) for of_text, _ in texts], device=vectors.device)
            hidden = torch.arange(vectors.shape[1], device=vectors.device)[None] >= lengths[:, None]
            maxsim = torch.stack([_maxsim(query, vectors, hidden) for query, _ in queries])
            voices |= {"maxsim": maxsim, "fused": maxsim + cosine / 2}
        scaled = {voice: self.student.temperature * values for voice, values in voices.items()}
        return {voice: values if row is None else values[row] for voice, values in scaled.items()}


def _maxsim(query: Tensor, vectors: Tensor, hidden: Tensor) -> Tensor:
    """Return (texts,); -1 where a side has no tokens."""
    if not len(query) or not vectors.shape[1]:
        return vectors.new_full((len(vectors),), -1.0)
    similar = torch.einsum("qd,nld->nql", query, vectors)
    return similar.masked_fill(hidden[:, None, :], _HIDDEN).amax(-1).mean(-1).clamp(min=-1.0)


class Reading(TorchStudent):
    """A cross-encoder: query and passage in one pass."""

    def head_parameters(self) -> list[nn.Parameter]:
        """What is fresh."""
        raise NotImplementedError

    def forward(
        self, lists: Sequence[Asked], batches: Sequence[Sequence[int]], microbatch: int
    ) -> tuple[list[Scores], list[Scores]]:
        """See `TorchStudent`; there are no batches, since a pair is one pass."""
        pairs: list[tuple[list[int], list[int]]] = []
        for asked in lists:
            query = self._query(asked.query, asked.max_query_tokens)
            pairs += [(query, row) for row in self._documents(asked.texts, max(1, asked.max_tokens - 4 - len(query)))]
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        starts = range(0, len(order), microbatch)
        parts = [self._pass([pairs[i] for i in order[start : start + microbatch]]) for start in starts]
        back = torch.empty(len(order), dtype=torch.long, device=self.device)
        back[torch.tensor(order, device=self.device)] = torch.arange(len(order), device=self.device)
        scores = torch.cat(parts)[back]
        return [{"logit": own} for own in scores.split([len(asked.texts) for asked in lists])], []

    def _pass(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        raise NotImplementedError


class Classifying(Reading):
    """A cross-encoder as transformers and sentence-transformers have it: a classifier with one logit."""

    def __init__(self, student: Student, model: Any, tokenizer: Any) -> None:
        super().__init__(student, model, tokenizer)
        self._segments = int(getattr(model.config, "type_vocab_size", 1)) > 1

    def head_parameters(self) -> list[nn.Parameter]:
        """Pooler and classifier."""
        return [p for n, p in self.body.named_parameters() if n.startswith("classifier") or ".pooler" in n]

    def _pass(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        tokens = self.tokens
        rows = [[tokens.first, *query, tokens.last, *text, tokens.last] for query, text in pairs]
        ids, lengths = padded(rows, tokens.pad, self.device)
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        seen = places < lengths[:, None]
        more: dict[str, Tensor] = {}
        if self._segments:
            of_query = torch.tensor([len(query) + 2 for query, _ in pairs], device=ids.device)
            more = {"token_type_ids": ((places >= of_query[:, None]) & seen).long()}
        return cast(Tensor, self.body(input_ids=ids, attention_mask=seen.long(), **more).logits[:, 0].float())


class JointMaxSim(Reading):
    """Late interaction inside the joint pass: temperature × MaxSim(query's tokens, passage's) + a reading of [CLS].

    With `joint_from` at the number of layers it is exactly the late interaction of the start; every layer below lets
    query and passage see each other once more. The reading of [CLS] starts at 0.
    """

    def __init__(self, student: Student, body: Any, tokenizer: Any) -> None:
        super().__init__(student, body, tokenizer)
        if body.config.model_type != "bert":
            raise ConfigInvalid(
                f"head = 'joint-maxsim' knows the inside of a bert; the start is a {body.config.model_type}"
            )
        width = int(body.config.hidden_size)
        if student.joint_from > len(layers_of(body)):
            raise ConfigInvalid(
                f"student.joint_from is {student.joint_from}; the model has {len(layers_of(body))} layers"
            )
        self.projection = nn.Linear(width, student.token_dim, bias=False) if student.token_dim else None
        self.reading = nn.Linear(width, 1)
        nn.init.zeros_(self.reading.weight)
        nn.init.zeros_(self.reading.bias)
        self.temperature = nn.Parameter(torch.tensor(float(student.temperature)))

    def head_parameters(self) -> list[nn.Parameter]:
        """Projection and reading; the temperature has a rate of its own."""
        return [*self.reading.parameters(), *([] if self.projection is None else self.projection.parameters())]

    def _pass(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        tokens, student = self.tokens, self.student
        own = [tokens.first] if student.restart_positions else []
        rows = [[tokens.first, *query, tokens.last, *own, *text, tokens.last] for query, text in pairs]
        ids, lengths = padded(rows, tokens.pad, self.device)
        of_query = torch.tensor([len(query) + 2 for query, _ in pairs], device=ids.device)
        hidden = self._hidden(ids, lengths, of_query)
        vectors = hidden if self.projection is None else self.projection(hidden)
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        with torch.autocast(self.device.type, enabled=False):
            vectors = F.normalize(vectors.float(), dim=-1)
            longest = max(int(of_query.max()) - 1, 2)
            similar = vectors[:, 1:longest] @ vectors.transpose(1, 2)
            of_text = (places >= of_query[:, None] + len(own)) & (places < lengths[:, None] - 1)
            asked = (places[:, 1:longest] < of_query[:, None] - 1).float()
            best = similar.masked_fill(~of_text[:, None], _HIDDEN).amax(-1).clamp(min=-1.0)
            maxsim = (best * asked).sum(1) / asked.sum(1).clamp(min=1)
            return self.temperature * maxsim + self.reading(hidden[:, 0].float())[:, 0]

    def _hidden(self, ids: Tensor, lengths: Tensor, of_query: Tensor) -> Tensor:
        """Return (pairs, tokens, width): blocks apart up to `joint_from`, together from there on."""
        student = self.student
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        second = (places >= of_query[:, None]).long()
        position = torch.where(second == 1, places - of_query[:, None], places) if student.restart_positions else None
        hidden = self.body.embeddings(
            input_ids=ids, position_ids=position, token_type_ids=second if student.segments else torch.zeros_like(ids)
        )
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        together = (places < lengths[:, None])[:, None, None, :]
        apart = (second[:, :, None] == second[:, None, :])[:, None] & together
        for at, layer in enumerate(layers_of(self.body)):
            out = layer(hidden, together if at >= student.joint_from else apart)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden


def build(student: Student) -> TorchStudent:
    """Load the start and put the student's head on it.

    Raises:
        ConfigInvalid: the start cannot be loaded, or does not fit.

    """
    place = located(student.start)
    tokenizer = load_tokenizer(place)
    if student.kind == "cross-encoder" and student.head == "cls":
        return Classifying(student, _classifier(student, place), tokenizer)
    body = load_body(place, dropout=student.dropout)
    trim(body, student.layers)
    freeze(body, student)
    if student.kind == "cross-encoder":
        return _started(JointMaxSim(student, body, tokenizer), place)
    return _started(Encoding(student, body, tokenizer), place)


def _started(made: TorchStudent, place: str) -> TorchStudent:
    """Take over the head of a start that is a student itself."""
    known = head_of(Path(place))
    own = dict(made.named_parameters())
    with torch.no_grad():
        for name, tensor in known.items():
            if name in own and own[name].shape == tensor.shape:
                own[name].copy_(tensor)
    made.inherited = frozenset(known)
    return made


def head_of(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a student's head, by the names that they have here; none where it is no student."""
    tensors: dict[str, Tensor] = {}
    if (folder / HEAD_FILE).is_file():
        tensors |= load_file(folder / HEAD_FILE)
    if (folder / DENSE_FOLDER / "model.safetensors").is_file():
        tensors["projection.weight"] = load_file(folder / DENSE_FOLDER / "model.safetensors")["linear.weight"]
    return tensors


def _classifier(student: Student, place: str) -> Any:
    """Load a classifier with one logit; fresh, unless the start is one."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(place, num_labels=1)
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        if hasattr(config, key):
            setattr(config, key, student.dropout)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(place, config=config, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"no cross-encoder can be made of {student.start!r}: {error}") from error
    body = getattr(model, model.base_model_prefix)
    trim(body, student.layers)
    model.config.num_hidden_layers = body.config.num_hidden_layers
    pooler = getattr(body, "pooler", None)
    freeze(body, student)
    for parameter in pooler.parameters() if pooler is not None else ():
        parameter.requires_grad_(True)
    return model


def load_student(folder: Path) -> TorchStudent:
    """Load a trained student, or any encoder's folder as a bi-encoder with token vectors, for scoring.

    Raises:
        ConfigInvalid: it cannot be loaded.

    """
    said = folder / STUDENT_FILE
    if said.is_file():
        settings = json.loads(said.read_text("utf-8"))["student"]
        student = Student.model_validate({**settings, "start": str(folder), "layers": None})
    else:
        config = json.loads((folder / "config.json").read_text("utf-8")) if (folder / "config.json").is_file() else {}
        places = int(config.get("max_position_embeddings") or _MAX_TOKENS)
        student = Student(start=str(folder), token_dim=0, max_tokens=min(places, _MAX_TOKENS))
    return build(student)
