"""Makes a folder with an OpenVINO model of a folder as transformers or sentence-transformers save it.

Weights in `.safetensors` of BERT-like models become a graph that is written here; ONNX is read by OpenVINO; anything
else goes through torch, where the extra is installed.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import openvino

from podium_server.backends.openvino.bert import NotOfThisKind, cross_encoder, encoder
from podium_server.backends.openvino.cards import (
    read_card,
    read_cross_encoder_card,
    read_json,
    write_card,
)
from podium_server.backends.openvino.joint_maxsim import (
    HEAD_FILE,
    STUDENT_FILE,
    Joint,
    joint_maxsim,
    pair_template,
)
from podium_server.backends.openvino.runtime import MODEL_FILE
from podium_server.backends.openvino.safetensors import read_tensors
from podium_server.backends.openvino.tokens import TOKENIZER_FILE, read_tokenizer
from podium_server.errors import ConfigInvalid

Kind: TypeAlias = Literal["encoder", "cross-encoder"]
"""What is made of a model: vectors of texts, or a score of a pair."""

CONVERTER = 2
"""Counted up whenever the same files give another model, so that what is cached is made anew."""

_ONNX_FILES = ("model.onnx", "onnx/model.onnx")
_TRANSFORMER = "Transformer"
_HARMLESS = ("Pooling", "Normalize")
_SPECIAL_TOKENS = frozenset({"[CLS]", "[SEP]", "<s>", "</s>"})


def is_source(folder: Path) -> bool:
    """Return whether a folder has weights that can be converted."""
    body = _body(folder)
    return bool(_weights(body)) or _onnx(folder) is not None or (body / "pytorch_model.bin").is_file()


def convert(source_folder: Path, target_folder: Path, *, kind: Kind) -> None:
    """Write `openvino_model.xml`, `.bin`, `tokenizer.json` and `model.toml` of the model in a folder.

    Args:
        source_folder: as transformers or sentence-transformers save it: `config.json`, `tokenizer.json`, and weights as
            `model.safetensors` or ONNX. A folder of several modules (`modules.json`) may hold a transformer, pooling,
            normalization, and a linear layer that makes vectors for late interaction.
        target_folder: made where there is none; what lies there under these names is overwritten.
        kind: what is made of it.

    Raises:
        ConfigInvalid: it cannot be converted; the message says why, and what would.

    """
    body = _body(source_folder)
    tokenizer = next((f / TOKENIZER_FILE for f in (source_folder, body) if (f / TOKENIZER_FILE).is_file()), None)
    if tokenizer is None:
        raise ConfigInvalid(
            f"{source_folder} has no {TOKENIZER_FILE}; transformers writes one: "
            f"AutoTokenizer.from_pretrained({str(source_folder)!r}).save_pretrained({str(source_folder)!r})"
        )
    cut = read_tokenizer(tokenizer)
    joint = _joint(body) if kind == "cross-encoder" else None
    if joint is not None:
        pair_template(cut, joint)
    model, way = _graph(source_folder, body, kind)
    said: dict[str, str | int] = {"kind": kind}
    if kind == "encoder":
        card = read_card(source_folder)
        said |= {"max_tokens": card.max_tokens, "pooling": card.pooling}
        said |= {"query_prefix": card.query_prefix, "document_prefix": card.document_prefix}
    else:
        of_pair = read_cross_encoder_card(body)
        said |= {"max_tokens": of_pair.max_tokens}
        if of_pair.score_scale is not None:
            said |= {"score_scale": of_pair.score_scale}
    target_folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, target_folder / MODEL_FILE, compress_to_fp16=False)
    (target_folder / TOKENIZER_FILE).write_text(cut.to_str(), encoding="utf-8")
    write_card(target_folder, said, comments=(f"Made by Podium's converter {CONVERTER} of {source_folder}, {way}.",))
    for notice in ("NOTICE", "LICENSE"):
        if (source_folder / notice).is_file():
            shutil.copyfile(source_folder / notice, target_folder / notice)


def _graph(source: Path, body: Path, kind: Kind) -> tuple[Any, str]:
    """Return the graph, and how it was made."""
    reasons = []
    # Read first: what these modules do must not get lost on another way.
    projection = _projection(source) if kind == "encoder" else None
    weights = _weights(body)
    if weights:
        try:
            return _written(body, weights, kind, projection), "its graph written from its tensors"
        except NotOfThisKind as reason:
            reasons.append(f"its graph cannot be written from its tensors: {reason}")
            if projection is not None:
                raise ConfigInvalid(f"{source} has a projection over token vectors, and {reasons[0]}") from None
    if (onnx := _onnx(source)) is not None:
        try:
            return openvino.convert_model(onnx), f"from {onnx.relative_to(source)}"
        except RuntimeError as error:
            reasons.append(f"OpenVINO cannot read {onnx.relative_to(source)}: {error}")
    try:
        from podium_server.backends.openvino.convert_torch import traced
    except ImportError as error:
        raise ConfigInvalid(
            f"{source} cannot be converted without torch: {'; '.join(reasons) or 'no safetensors, no ONNX'}. Install "
            f"the extra torch (pip install 'podium[torch]'), or put an ONNX export beside it as onnx/model.onnx "
            f"({error})"
        ) from None
    return traced(body, kind), "traced by torch"


def _written(body: Path, weights: list[Path], kind: Kind, projection: Mapping[str, Any] | None) -> Any:
    config = read_json(body / "config.json")
    tensors: dict[str, Any] = {}
    for file in weights:
        tensors |= read_tensors(file)
    joint = _joint(body) if kind == "cross-encoder" else None
    if joint is not None:
        return joint_maxsim(tensors, config, read_tensors(body / HEAD_FILE), joint)
    if kind == "cross-encoder":
        return cross_encoder(tensors, config)
    return encoder(tensors, config, projection=projection)


def _joint(body: Path) -> Joint | None:
    """Return how a student of Podium's own reads a pair, where the folder holds one with another head."""
    try:
        return Joint.of(read_json(body / STUDENT_FILE))
    except NotOfThisKind as reason:
        raise ConfigInvalid(f"{body} cannot be converted: {reason}") from None


def _body(source: Path) -> Path:
    """Return the folder of the transformer itself."""
    for module in _modules(source):
        if _type(module) == _TRANSFORMER:
            return source / str(module.get("path", ""))
    return source


def _projection(source: Path) -> Mapping[str, Any] | None:
    """Return the tensors of the layer that makes vectors for late interaction, where there is one.

    Raises:
        ConfigInvalid: a module would change vectors in a way that is not known here.

    """
    found: Mapping[str, Any] | None = None
    for module in _modules(source):
        kind, folder = _type(module), source / str(module.get("path", ""))
        if kind == "Dense":
            said = read_json(folder / "config.json")
            activation = str(said.get("activation_function", "torch.nn.modules.activation.Tanh"))
            if said.get("module_input_name", "sentence_embedding") != "token_embeddings" or found is not None:
                raise _not_honoured(source, f"its module {folder.name} is no layer over token vectors")
            if not activation.endswith("Identity") or said.get("use_residual"):
                raise _not_honoured(source, f"its module {folder.name} is more than a linear layer ({activation})")
            found = {
                name.removeprefix("linear."): tensor
                for name, tensor in read_tensors(folder / "model.safetensors").items()
            }
        elif kind == "MultiVectorMask":
            said = read_json(folder / "config.json")
            # Special tokens are left out of late interaction here as well.
            if set(said.get("skiplist_words") or ()) - _SPECIAL_TOKENS or said.get("keep_only_token_ids"):
                raise _not_honoured(source, f"its module {folder.name} leaves tokens out of late interaction")
        elif kind not in (_TRANSFORMER, *_HARMLESS):
            raise _not_honoured(source, f"its module {kind} is not known here")
    return found


def _not_honoured(source: Path, why: str) -> ConfigInvalid:
    return ConfigInvalid(f"{source} cannot be converted: {why}; the backend 'sentence-transformers' serves it as it is")


def module_folders(source: Path) -> list[Path]:
    """Return the folders in which the parts of a model lie, its own among them."""
    return [source, *(source / str(module["path"]) for module in _modules(source) if module.get("path"))]


def _modules(source: Path) -> list[dict[str, Any]]:
    file = source / "modules.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ConfigInvalid(f"{file} is not JSON: {error}") from None
    return [each for each in said if isinstance(each, dict)] if isinstance(said, list) else []


def _type(module: Mapping[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _weights(folder: Path) -> list[Path]:
    """Return the files of tensors: one, or the parts of one."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    return sorted(file for file in folder.glob("model-*.safetensors") if re.search(r"-\d+-of-\d+\.", file.name))


def _onnx(folder: Path) -> Path | None:
    return next((folder / name for name in _ONNX_FILES if (folder / name).is_file()), None)
