"""Graphs of BERT-like models, written down from their tensors: neither torch nor an exporter is needed.

BERT (MiniLM, BGE, E5, ELECTRA's names aside), RoBERTa and XLM-RoBERTa, DistilBERT; as an encoder of token vectors, with
a projection for late interaction where there is one, or with a head for sequence classification as a cross-encoder.

What a cross-encoder's head does not read is not computed: after the last layer's keys and values only the first token
goes on, which saves ten twelfths of that layer and changes no score.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset15 as ops

Tensors: TypeAlias = Mapping[str, NDArray[Any]]

ENCODER_OUTPUT = "last_hidden_state"
PROJECTED_OUTPUT = "token_vectors"
SCORE_OUTPUT = "logits"

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": lambda x: ops.gelu(x, "erf"),
    "gelu_new": lambda x: ops.gelu(x, "tanh"),
    "gelu_fast": lambda x: ops.gelu(x, "tanh"),
    "gelu_pytorch_tanh": lambda x: ops.gelu(x, "tanh"),
    "relu": ops.relu,
}

_MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")

# DistilBERT's names, and those of the first BERTs' layer norms, as BERT's.
_RENAMED = (
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"^transformer\.layer\.", "encoder.layer."),
    (r"\.attention\.q_lin\.", ".attention.self.query."),
    (r"\.attention\.k_lin\.", ".attention.self.key."),
    (r"\.attention\.v_lin\.", ".attention.self.value."),
    (r"\.attention\.out_lin\.", ".attention.output.dense."),
    (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.ffn\.lin1\.", ".intermediate.dense."),
    (r"\.ffn\.lin2\.", ".output.dense."),
    (r"\.output_layer_norm\.", ".output.LayerNorm."),
)


class NotOfThisKind(Exception):
    """The model is none whose graph is written here, or lacks a part of it; the message says what."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a `config.json` says of a body.

    Args:
        layers: how many there are.
        width: of a token's vector.
        heads: of attention in each layer.
        eps: of layer norms.
        activation: of the feed-forward blocks, by the library's name.
        first_position: row of the position table for the first token.
        positions: tokens for which there are positions.

    """

    layers: int
    width: int
    heads: int
    eps: float
    activation: str
    first_position: int
    positions: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Body:
        """Read a `config.json`.

        Raises:
            NotOfThisKind: it is of a model whose graph is not written here.

        """
        kind = config.get("model_type")
        if kind not in _MODEL_TYPES:
            raise NotOfThisKind(f"model_type is {kind!r}; known here are {', '.join(_MODEL_TYPES)}")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise NotOfThisKind(f"position_embedding_type is {config['position_embedding_type']!r}, not 'absolute'")
        if config.get("is_decoder"):
            raise NotOfThisKind("it is a decoder")
        distil = kind == "distilbert"
        activation = config.get("activation" if distil else "hidden_act", "gelu")
        if activation not in _ACTIVATIONS:
            raise NotOfThisKind(f"its activation is {activation!r}; known here are {', '.join(_ACTIVATIONS)}")
        # RoBERTa counts positions from the row after its padding's.
        first = int(config.get("pad_token_id", 1)) + 1 if kind in ("roberta", "xlm-roberta", "camembert") else 0
        try:
            return cls(
                layers=int(config["n_layers" if distil else "num_hidden_layers"]),
                width=int(config["dim" if distil else "hidden_size"]),
                heads=int(config["n_heads" if distil else "num_attention_heads"]),
                eps=float(config.get("layer_norm_eps", 1e-12)),
                activation=activation,
                first_position=first,
                positions=int(config["max_position_embeddings"]) - first,
            )
        except KeyError as missing:
            raise NotOfThisKind(f"its config.json lacks {missing}") from None


def bert_names(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Return the tensors under BERT's own names, without the prefix of the model that wraps the body."""
    renamed = {}
    for name, tensor in tensors.items():
        plain = re.sub(r"^(bert|roberta|distilbert)\.", "", name)
        for pattern, by in _RENAMED:
            plain = re.sub(pattern, by, plain)
        renamed[plain] = tensor
    return renamed


def encoder(tensors: Tensors, config: Mapping[str, Any], projection: Tensors | None = None) -> openvino.Model:
    """Return the graph (input_ids, attention_mask: (batch, tokens) int64) → last_hidden_state (batch, tokens, width).

    Args:
        tensors: of the body, by any of the names that are known here.
        config: the body's `config.json`.
        projection: `weight` (dim, width) and perhaps `bias` (dim,) of a layer that makes vectors for late interaction:
            a second output `token_vectors` (batch, tokens, dim).

    Raises:
        NotOfThisKind: of another kind of model, or with a part missing.

    """
    graph = Graph(tensors, Body.of(config))
    x = graph.hidden(with_types=False)
    results = [graph.result(x, ENCODER_OUTPUT)]
    if projection is not None:
        vectors = ops.matmul(x, graph.const(projection["weight"]), False, True)
        vectors.set_friendly_name("projection")
        if "bias" in projection:
            vectors = ops.add(vectors, graph.const(projection["bias"].reshape(1, 1, -1)))
        results.append(graph.result(vectors, PROJECTED_OUTPUT))
    return openvino.Model(results, graph.parameters, "bert")


def cross_encoder(tensors: Tensors, config: Mapping[str, Any]) -> openvino.Model:
    """Return the graph (input_ids, attention_mask[, token_type_ids]: (batch, tokens) int64) → logits (batch, 1).

    A head with two labels becomes one number, the second's logit minus the first's: the logit of their softmax.

    Raises:
        NotOfThisKind: of another kind of model, with a part missing, or with more than two labels.

    """
    graph = Graph(tensors, Body.of(config))
    first = ops.squeeze(graph.hidden(with_types=graph.types > 1, first_only=True), graph.axes(1))
    if "classifier.out_proj.weight" in graph.tensors:  # RoBERTa
        x, out = ops.tanh(graph.dense(first, "classifier.dense")), "classifier.out_proj"
    elif "pre_classifier.weight" in graph.tensors:  # DistilBERT
        x, out = ops.relu(graph.dense(first, "pre_classifier")), "classifier"
    else:
        x, out = ops.tanh(graph.dense(first, "pooler.dense")), "classifier"
    weight, bias = graph.tensor(f"{out}.weight"), graph.tensor(f"{out}.bias")
    labels = len(weight)
    if labels > 2:
        raise NotOfThisKind(f"its head has {labels} labels; a score is 1, or 2 of which the difference is taken")
    if labels == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    # Spelled out, not a product of matrices: what follows the last of these OpenVINO leaves in float32, so that
    # scores are not rounded to the three digits of a bfloat16.
    score = ops.reduce_sum(ops.multiply(x, graph.const(weight)), graph.axes(1), True)
    score = ops.add(score, graph.const(bias.reshape(1, 1)))
    return openvino.Model([graph.result(score, SCORE_OUTPUT)], graph.parameters, "cross-encoder")


class Graph:
    """A body under construction: tensors become constants, and parts of it nodes."""

    def __init__(self, tensors: Tensors, body: Body) -> None:
        self.tensors = bert_names(tensors)
        self.body = body
        self.parameters: list[Any] = []
        types = self.tensors.get("embeddings.token_type_embeddings.weight")
        self.types = 0 if types is None else len(types)

    def tensor(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(self.tensors[name], np.float32)
        except KeyError:
            raise NotOfThisKind(f"its weights lack {name}") from None

    def const(self, value: Any, dtype: type = np.float32) -> Any:
        return ops.constant(np.array(value, dtype, order="C"))

    def axes(self, *values: int) -> Any:
        return self.const(values, np.int64)

    def input(self, name: str) -> Any:
        parameter = ops.parameter([-1, -1], np.int64, name=name)
        parameter.output(0).set_names({name})
        self.parameters.append(parameter)
        return parameter

    def result(self, x: Any, name: str) -> Any:
        x.output(0).set_names({name})
        return ops.result(x)

    def norm(self, x: Any, name: str) -> Any:
        x = ops.mvn(x, self.axes(-1), True, self.body.eps, "inside_sqrt")
        x = ops.multiply(x, self.const(self.tensor(f"{name}.weight").reshape(1, 1, -1)))
        return ops.add(x, self.const(self.tensor(f"{name}.bias").reshape(1, 1, -1)))

    def dense(self, x: Any, name: str) -> Any:
        product = ops.matmul(x, self.const(self.tensor(f"{name}.weight")), False, True)
        product.set_friendly_name(name)  # what is kept from int8 is named by it
        shape = (1,) * (len(x.get_output_partial_shape(0)) - 1) + (-1,)
        return ops.add(product, self.const(self.tensor(f"{name}.bias").reshape(shape)))

    def split(self, x: Any) -> Any:
        """Return (batch, heads, tokens, width of a head) from (batch, tokens, width)."""
        heads, each = self.body.heads, self.body.width // self.body.heads
        return ops.transpose(ops.reshape(x, self.axes(0, 0, heads, each), True), self.axes(0, 2, 1, 3))

    def hidden(self, *, with_types: bool, first_only: bool = False) -> Any:
        """Return the last hidden state (batch, tokens, width), of the first token alone where that is enough."""
        ids = self.input("input_ids")
        mask = self.input("attention_mask")
        segments = self.input("token_type_ids") if with_types else None
        x = self.embedded(ids, segments)
        hidden = ops.unsqueeze(self.hiding(ops.convert(mask, "f32")), self.axes(1, 2))
        for i in range(self.body.layers):
            x = self.layer(x, hidden, f"encoder.layer.{i}", first_only=first_only and i == self.body.layers - 1)
        return x

    def hiding(self, seen: Any) -> Any:
        """Return what is added to attention's scores: 0 where `seen` is 1, and where it is 0 what hides a token."""
        # Minus ten thousand, not infinity: exp of it is 0 in every precision, and no row becomes NaN.
        return ops.multiply(ops.subtract(seen, self.const(1.0)), self.const(10_000.0))

    def embedded(self, ids: Any, segments: Any | None, positions: Any | None = None) -> Any:
        """Return the embeddings (batch, tokens, width).

        Args:
            ids: (batch, tokens).
            segments: likewise; None is one segment.
            positions: likewise; None counts from the first token on.

        """
        words = ops.gather(
            self.const(self.tensor("embeddings.word_embeddings.weight")), ops.convert(ids, "i32"), self.axes(0)
        )
        places = self.tensor("embeddings.position_embeddings.weight")[self.body.first_position :]
        if self.types and segments is None:
            # One segment only, so that its vector belongs to every position.
            places = places + self.tensor("embeddings.token_type_embeddings.weight")[0]
        if positions is None:
            length = ops.gather(ops.shape_of(ids), self.axes(1), self.axes(0))
            x = ops.add(words, ops.slice(self.const(places[None]), self.axes(0), length, self.axes(1), self.axes(1)))
        else:
            x = ops.add(words, ops.gather(self.const(places), ops.convert(positions, "i32"), self.axes(0)))
        if segments is not None:
            table = self.const(self.tensor("embeddings.token_type_embeddings.weight"))
            x = ops.add(x, ops.gather(table, ops.convert(segments, "i32"), self.axes(0)))
        return self.norm(x, "embeddings.LayerNorm")

    def layer(self, x: Any, hidden: Any, name: str, *, first_only: bool) -> Any:
        """Return what one layer makes of `x`; `hidden` is added to attention's scores.

        Attention is spelled out as products and a softmax: OpenVINO's processor plugin runs that faster than its own
        ScaledDotProductAttention (240 against 140 documents a second in bfloat16).
        """
        of = x
        if first_only:
            of = ops.slice(x, self.axes(0), self.axes(1), self.axes(1), self.axes(1))
        query = self.split(self.dense(of, f"{name}.attention.self.query"))
        key = self.split(self.dense(x, f"{name}.attention.self.key"))
        value = self.split(self.dense(x, f"{name}.attention.self.value"))
        scale = (self.body.width // self.body.heads) ** -0.5
        scores = ops.matmul(ops.multiply(query, self.const(np.full((1, 1, 1, 1), scale))), key, False, True)
        context = ops.matmul(ops.softmax(ops.add(scores, hidden), -1), value, False, False)
        context = ops.reshape(ops.transpose(context, self.axes(0, 2, 1, 3)), self.axes(0, 0, self.body.width), True)
        mixed = ops.add(self.dense(context, f"{name}.attention.output.dense"), of)
        x = self.norm(mixed, f"{name}.attention.output.LayerNorm")
        inner = _ACTIVATIONS[self.body.activation](self.dense(x, f"{name}.intermediate.dense"))
        return self.norm(ops.add(self.dense(inner, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")
