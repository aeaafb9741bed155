"""The graph of Podium's own cross-encoder with late interaction inside the joint pass (`head = "joint-maxsim"`).

score = temperature × MaxSim(query's tokens, passage's tokens) + a linear reading of the first token. Below the layer
`joint_from` a token sees those of its own text alone; with `joint_from` at the number of layers the score is late
interaction itself, and every layer less lets query and passage see each other once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
from openvino import opset15 as ops
from tokenizers import Tokenizer, processors

from podium_server.backends.openvino.bert import SCORE_OUTPUT, Body, Graph, NotOfThisKind, Tensors

HEAD_FILE = "head.safetensors"
STUDENT_FILE = "podium_student.json"


@dataclass(frozen=True, slots=True)
class Joint:
    """How a student reads a pair.

    Args:
        joint_from: the first layer in which query and passage see each other, counted from 0.
        restart_positions: the passage has a first token of its own, and its positions begin anew.
        segments: query and passage have different segment vectors.

    """

    joint_from: int
    restart_positions: bool
    segments: bool

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Joint | None:
        """Read `podium_student.json`; None where the student has another head, or there is none.

        Raises:
            NotOfThisKind: something is missing.

        """
        student = said.get("student") or {}
        if student.get("head") != "joint-maxsim":
            return None
        try:
            return cls(int(student["joint_from"]), bool(student["restart_positions"]), bool(student["segments"]))
        except KeyError as missing:
            raise NotOfThisKind(f"its {STUDENT_FILE} lacks {missing}") from None


def joint_maxsim(tensors: Tensors, config: Mapping[str, Any], head: Tensors, joint: Joint) -> openvino.Model:
    """Return the graph (input_ids, attention_mask, token_type_ids: (batch, tokens) int64) → logits (batch, 1).

    Args:
        tensors: of the body, by any of the names that are known here.
        config: the body's `config.json`.
        head: `reading.weight` (1, width), `reading.bias` (1,), `temperature` (), and perhaps `projection.weight`
            (dim, width).
        joint: how it reads a pair.

    Raises:
        NotOfThisKind: of another kind of model, or with a part missing.

    """
    missing = [name for name in ("reading.weight", "reading.bias", "temperature") if name not in head]
    if missing:
        raise NotOfThisKind(f"its {HEAD_FILE} lacks {', '.join(missing)}")
    graph = Graph(tensors, Body.of(config))
    ids, mask, segments = (graph.input(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
    seen, second = ops.convert(mask, "f32"), ops.convert(segments, "f32")
    of_query = ops.reduce_sum(ops.multiply(seen, ops.subtract(graph.const(1.0), second)), graph.axes(1), True)
    place = _places(graph, ids)
    position = ops.subtract(place, ops.multiply(second, of_query)) if joint.restart_positions else None
    x = graph.embedded(ids, segments if joint.segments else None, position)
    together = ops.unsqueeze(graph.hiding(seen), graph.axes(1, 2))
    same = ops.equal(ops.unsqueeze(second, graph.axes(2)), ops.unsqueeze(second, graph.axes(1)))
    apart = ops.multiply(ops.convert(same, "f32"), ops.unsqueeze(seen, graph.axes(1)))
    apart = ops.unsqueeze(graph.hiding(apart), graph.axes(1))
    for i in range(graph.body.layers):
        hidden = together if i >= joint.joint_from else apart
        x = graph.layer(x, hidden, f"encoder.layer.{i}", first_only=False)
    maxsim = _maxsim(graph, x, head, seen, second, of_query, place, 1 if joint.restart_positions else 0)
    first = ops.squeeze(ops.slice(x, graph.axes(0), graph.axes(1), graph.axes(1), graph.axes(1)), graph.axes(1))
    reading = ops.reduce_sum(ops.multiply(first, graph.const(head["reading.weight"])), graph.axes(1), True)
    reading = ops.add(reading, graph.const(head["reading.bias"].reshape(1, 1)))
    score = ops.add(ops.multiply(maxsim, graph.const(head["temperature"].reshape(()))), reading)
    return openvino.Model([graph.result(score, SCORE_OUTPUT)], graph.parameters, "joint-maxsim")


def pair_template(tokenizer: Tokenizer, joint: Joint) -> None:
    """Make `tokenizer` put a pair together as the student was trained with."""
    single = tokenizer.encode("text")
    first, last = single.tokens[0], single.tokens[-1]
    again = f" {first}:1" if joint.restart_positions else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last}{again} $B:1 {last}:1",
        special_tokens=[(first, single.ids[0]), (last, single.ids[-1])],
    )


def _places(graph: Graph, ids: Any) -> Any:
    """Return (1, tokens) float32: 0, 1, 2, …"""
    length = ops.squeeze(ops.gather(ops.shape_of(ids), graph.axes(1), graph.axes(0)), graph.axes(0))
    zero, one = (graph.const(value, np.int64) for value in (0, 1))
    return ops.unsqueeze(ops.range(zero, length, one, "f32"), graph.axes(0))


def _maxsim(graph: Graph, x: Any, head: Tensors, seen: Any, second: Any, of_query: Any, place: Any, own: int) -> Any:
    """Return (batch, 1): the mean over the query's tokens of the best cosine among the passage's."""
    vectors = x
    if "projection.weight" in head:
        vectors = ops.matmul(x, graph.const(head["projection.weight"]), False, True)
        vectors.set_friendly_name("projection")
    # Divided after the product: what follows the last of these OpenVINO leaves in float32.
    squares = ops.reduce_sum(ops.multiply(vectors, vectors), graph.axes(2), True)
    lengths = ops.sqrt(ops.maximum(squares, graph.const(1e-24)))
    cosines = ops.divide(
        ops.divide(ops.matmul(vectors, vectors, False, True), lengths), ops.transpose(lengths, graph.axes(0, 2, 1))
    )
    one = graph.const(1.0)

    def where(*conditions: Any) -> Any:
        both = conditions[0]
        for each in conditions[1:]:
            both = ops.logical_and(both, each)
        return ops.convert(both, "f32")

    last = ops.subtract(ops.reduce_sum(seen, graph.axes(1), True), one)
    of_passage = where(
        ops.equal(second, one),
        ops.greater_equal(place, ops.add(of_query, graph.const(float(own)))),
        ops.less(place, last),
    )
    asked = where(ops.less(second, one), ops.greater_equal(place, one), ops.less(place, ops.subtract(of_query, one)))
    best = ops.reduce_max(ops.add(cosines, ops.unsqueeze(graph.hiding(of_passage), graph.axes(1))), graph.axes(2))
    best = ops.maximum(best, graph.const(-1.0))
    count = ops.maximum(ops.reduce_sum(asked, graph.axes(1), True), one)
    return ops.divide(ops.reduce_sum(ops.multiply(best, asked), graph.axes(1), True), count)
