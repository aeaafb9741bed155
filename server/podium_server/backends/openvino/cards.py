"""What must be known of a model beside its graph: `model.toml`, or the files that its makers wrote."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from podium_server.backends.cross_encoders.cross_encoder import ScoreScale
from podium_server.errors import ConfigInvalid

Pooling: TypeAlias = Literal["mean", "cls"]

CARD_FILE = "model.toml"

_UNREASONABLE_TOKENS = 1_000_000
"""transformers writes 1e30 for "no limit"."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What must be known of an encoder.

    Args:
        max_tokens: the most that it sees of a text, special tokens and prefix included.
        pooling: how a text's vector is made of its tokens'.
        query_prefix: put before queries.
        document_prefix: put before documents.

    """

    max_tokens: int
    pooling: Pooling = "mean"
    query_prefix: str = ""
    document_prefix: str = ""

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            raise ConfigInvalid(f"pooling is {self.pooling!r}; it must be 'mean' or 'cls'")
        if self.max_tokens < 3:
            raise ConfigInvalid(f"max_tokens is {self.max_tokens}; it must be 3 or more")


@dataclass(frozen=True, slots=True)
class CrossEncoderCard:
    """What must be known of a cross-encoder.

    Args:
        max_tokens: the most that it sees of a pair, special tokens included.
        score_scale: what the graph gives; None where the graph itself tells (a sigmoid or a softmax at its end).

    """

    max_tokens: int
    score_scale: ScoreScale | None = None

    def __post_init__(self) -> None:
        if self.score_scale not in (None, *get_args(ScoreScale)):
            raise ConfigInvalid(f"score_scale is {self.score_scale!r}; it must be 'logit' or 'probability'")
        if self.max_tokens < 8:
            raise ConfigInvalid(f"max_tokens is {self.max_tokens}; of a pair it must be 8 or more")


def read_card(folder: Path) -> ModelCard:
    """Read an encoder's `model.toml`, or where there is none the files that sentence-transformers writes.

    Raises:
        ConfigInvalid: there are neither, or what they say cannot be used.

    """
    said = _card(folder)
    if said is not None:
        return ModelCard(
            max_tokens=_max_tokens(said, folder),
            pooling=said.get("pooling", "mean"),
            query_prefix=str(said.get("query_prefix", "")),
            document_prefix=str(said.get("document_prefix", "")),
        )
    length = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    if length is None:
        length = _positions(read_json(folder / "config.json"))
    if not isinstance(length, int):
        raise ConfigInvalid(
            f"{folder} has neither {CARD_FILE} nor sentence_bert_config.json; write a {CARD_FILE} with max_tokens"
        )
    prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    return ModelCard(
        max_tokens=length,
        pooling=_pooling(folder),
        query_prefix=prompts.get("query") or "",
        document_prefix=prompts.get("document") or prompts.get("passage") or "",
    )


def read_cross_encoder_card(folder: Path) -> CrossEncoderCard:
    """Read a cross-encoder's `model.toml`, or where there is none the files that transformers writes.

    Raises:
        ConfigInvalid: there are neither, or what they say cannot be used.

    """
    said = _card(folder)
    if said is not None:
        return CrossEncoderCard(max_tokens=_max_tokens(said, folder), score_scale=said.get("score_scale"))
    config = read_json(folder / "config.json")
    known = (
        (read_json(folder / "podium_student.json").get("student") or {}).get("max_tokens"),
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        _positions(config),
    )
    lengths = [int(each) for each in known if isinstance(each, int | float) and 0 < each < _UNREASONABLE_TOKENS]
    if not lengths:
        raise ConfigInvalid(
            f"{folder} has neither {CARD_FILE} nor a config.json that tells how long a pair may be; write a "
            f"{CARD_FILE} with max_tokens"
        )
    return CrossEncoderCard(max_tokens=min(lengths))


def kind_said(folder: Path) -> Literal["encoder", "cross-encoder"] | None:
    """Return what `model.toml` says that a model is; None where it says nothing.

    Raises:
        ConfigInvalid: it is a kind that is not known.

    """
    said = (_card(folder) or {}).get("kind")
    if said is not None and said not in ("encoder", "cross-encoder"):
        raise ConfigInvalid(f"{folder / CARD_FILE}: kind is {said!r}; it must be 'encoder' or 'cross-encoder'")
    return said


def write_card(folder: Path, said: Mapping[str, str | int], *, comments: tuple[str, ...] = ()) -> None:
    """Write `model.toml`: comments first, then names and values."""
    lines = [f"# {line}" for line in comments]
    lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in said.items()]
    (folder / CARD_FILE).write_text("\n".join([*lines, ""]), encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Return the object that a file holds, an empty one where there is no file.

    Raises:
        ConfigInvalid: it is not JSON.

    """
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigInvalid(f"{file} is not JSON: {error}") from None
    return said if isinstance(said, dict) else {}


def _card(folder: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{folder / CARD_FILE} cannot be read: {error!r}; it needs max_tokens at least") from None


def _max_tokens(said: Mapping[str, Any], folder: Path) -> int:
    try:
        return int(said["max_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigInvalid(f"{folder / CARD_FILE} cannot be read: {error!r}; it needs max_tokens at least") from None


def _positions(config: Mapping[str, Any]) -> int | None:
    """Return for how many tokens a model has positions, or None where its config does not say."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    # RoBERTa counts positions from the row after its padding's, and says how many rows there are.
    of_roberta = config.get("model_type") in ("roberta", "xlm-roberta", "camembert")
    return positions - int(config.get("pad_token_id", 1)) - 1 if of_roberta else positions


def _pooling(folder: Path) -> Pooling:
    said = read_json(folder / "1_Pooling" / "config.json")
    # The first is how sentence-transformers 6 writes it; before, each way had a switch.
    mode = said.get("pooling_mode")
    modes = [mode] if mode else [name for name, on in said.items() if name.startswith("pooling_mode_") and on]
    short = [str(each).removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for each in modes]
    match short:
        case [] | ["mean"]:
            return "mean"
        case ["cls"]:
            return "cls"
    raise ConfigInvalid(f"{folder} pools by {' and '.join(short)}; known here are 'mean' and 'cls'")
