"""Tiny cross-encoders with random weights, as transformers would save them: made with numpy, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

Family = Literal["bert", "roberta", "distilbert"]

WORDS = [
    "the",
    "how",
    "long",
    "do",
    "fleas",
    "live",
    "a",
    "flea",
    "can",
    "up",
    "to",
    "year",
    "paris",
    "is",
    "capital",
    "of",
    "france",
    "and",
    "city",
]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,?!'")
WIDTH, HEADS, INNER, LAYERS, POSITIONS = 32, 4, 64, 3, 96


def save_tensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a `.safetensors` of float32."""
    header: dict[str, Any] = {}
    offset, parts = 0, []
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    said = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(len(said).to_bytes(8, "little") + said + b"".join(parts))


def tokenizer(family: Family) -> Tokenizer:
    """Return a tokenizer with the family's own way to put a pair together."""
    if family == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        vocabulary = [*special, *pre_tokenizers.ByteLevel.alphabet()]
        made = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, [], unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        made.add_special_tokens(special)
        return made
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = [*special, *WORDS, *(x for x in LETTERS if x not in WORDS), *("##" + x for x in LETTERS)]
    made = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if family == "bert":
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    else:
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(special)
    return made


def cross_encoder(folder: Path, family: Family = "bert", *, labels: int = 1, seed: int = 0) -> Path:
    """Write a folder: config.json, model.safetensors, tokenizer.json, tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = tokenizer(family)
    rows = POSITIONS + (2 if family == "roberta" else 0)
    types = {"bert": 2, "roberta": 1, "distilbert": 0}[family]
    tensors = _tensors(family, cut.get_vocab_size(), rows, types, labels, np.random.default_rng(seed))
    save_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(_config(family, cut.get_vocab_size(), rows, types, labels)))
    cut.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_tokenizer_config(family)))
    return folder


def _tensors(
    family: Family, vocabulary: int, rows: int, types: int, labels: int, chance: np.random.Generator
) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int, around: float = 0.0, spread: float = 0.2) -> None:
        tensors[name] = (around + spread * chance.standard_normal(shape)).astype(np.float32)

    def dense(name: str, out: int, into: int, spread: float = 0.3) -> None:
        weight(f"{name}.weight", out, into, spread=spread)
        weight(f"{name}.bias", out)

    def norm(name: str) -> None:
        weight(f"{name}.weight", WIDTH, around=1.0)
        weight(f"{name}.bias", WIDTH)

    weight(f"{family}.embeddings.word_embeddings.weight", vocabulary, WIDTH, spread=1.0)
    weight(f"{family}.embeddings.position_embeddings.weight", rows, WIDTH)
    if types:
        weight(f"{family}.embeddings.token_type_embeddings.weight", types, WIDTH, spread=1.0)
    norm(f"{family}.embeddings.LayerNorm")
    for i in range(LAYERS):
        if family == "distilbert":
            layer = f"distilbert.transformer.layer.{i}"
            parts = [f"attention.{part}_lin" for part in ("q", "k", "v", "out")] + ["ffn.lin1", "ffn.lin2"]
            norms = ["sa_layer_norm", "output_layer_norm"]
        else:
            layer = f"{family}.encoder.layer.{i}"
            parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
            parts += ["attention.output.dense", "intermediate.dense", "output.dense"]
            norms = ["attention.output.LayerNorm", "output.LayerNorm"]
        for part in parts[:4]:
            dense(f"{layer}.{part}", WIDTH, WIDTH)
        dense(f"{layer}.{parts[4]}", INNER, WIDTH)
        dense(f"{layer}.{parts[5]}", WIDTH, INNER)
        for name in norms:
            norm(f"{layer}.{name}")
    before, last = {
        "bert": ("bert.pooler.dense", "classifier"),
        "roberta": ("classifier.dense", "classifier.out_proj"),
        "distilbert": ("pre_classifier", "classifier"),
    }[family]
    dense(before, WIDTH, WIDTH)
    dense(last, labels, WIDTH, spread=1.5)
    return tensors


def _config(family: Family, vocabulary: int, rows: int, types: int, labels: int) -> dict[str, Any]:
    name = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[family]
    said: dict[str, Any] = {
        "architectures": [f"{name}ForSequenceClassification"],
        "model_type": family,
        "vocab_size": vocabulary,
        "max_position_embeddings": rows,
        "pad_token_id": 1 if family == "roberta" else 0,
        "bos_token_id": 0 if family == "roberta" else 2,
        "eos_token_id": 2 if family == "roberta" else 3,
        "id2label": {str(i): f"LABEL_{i}" for i in range(labels)},
        "label2id": {f"LABEL_{i}": i for i in range(labels)},
    }
    if family == "distilbert":
        return said | {"dim": WIDTH, "n_heads": HEADS, "hidden_dim": INNER, "n_layers": LAYERS, "activation": "gelu"}
    return said | {
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5 if family == "roberta" else 1e-12,
        "type_vocab_size": types,
    }


def _tokenizer_config(family: Family) -> dict[str, Any]:
    if family == "roberta":
        special = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "model_max_length": 96, **special}
    names = ["input_ids", "token_type_ids", "attention_mask"] if family == "bert" else ["input_ids", "attention_mask"]
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 96,
        "model_input_names": names,
        **special,
    }
