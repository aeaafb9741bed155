"""A BERT small enough to be trained in a test, and data for it that can be learnt."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = [f"w{i}" for i in range(60)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_bert(folder: Path, *, seed: int = 0) -> Path:
    """Write a random BERT of 2 layers, 32 wide, whose words are `WORDS`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: at for at, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    said["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    said |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def pairs(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return pairs whose passage holds the words of its query among others."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        query = rng.sample(WORDS, 3)
        rows.append({"source": "toy", "query": " ".join(query), "positive": " ".join([*query, *rng.sample(WORDS, 5)])})
    return rows


def lists(count: int, *, size: int = 8, seed: int = 1) -> list[dict[str, Any]]:
    """Return teacher's lists: the more words of the query a passage holds, the better."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        query = rng.sample(WORDS, 4)
        ranked = [
            {"docid": f"d{i}", "text": " ".join([*query[: 4 - i // 2], *rng.sample(WORDS, 6)]), "teacher_rank": i + 1}
            for i in range(size)
        ]
        rows.append({"qid": str(number), "query": " ".join(query), "ranked": ranked})
    return rows


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
