"""Tiny random models and tokenizers of the kinds that torch serves, made on the spot: no file, no network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from podium_strategies.prompts import load
from podium_strategies.prompts.prompt import Sheet

WORDS = ["yes", "no", "Yes", "No", "1", "0"] * 40
TEXT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query.",
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided.",
    "A flea can live up to a year, but its general lifespan depends on its living conditions. flea flea",
    *(
        turn.content
        for name in ("qwen3-reranker", "bge-reranker-v2-gemma", "mxbai-rerank-v2")
        for turn in load(name).render(Sheet("why", ("because",)))
    ),
    *WORDS,
)
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 1024, "initializer_range": 0.3,
}  # fmt: skip


def bert(folder: Path, *, labels: int = 1, head: bool = True) -> str:
    """Make a BERT with the shipped tokenizer, which is a real one."""
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(files("podium_server.models") / "all-minilm-l6-v2" / "tokenizer.json"),
        unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]",
        model_max_length=512, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    kind = BertForSequenceClassification if head else BertModel
    model = seeded(kind, BertConfig(**SIZES, num_labels=labels))
    return saved(folder, model, tokenizer)


def qwen(folder: Path, *, family: str = "Qwen3", chat_template: str | None = None) -> str:
    """Make a decoder with a byte-level tokenizer that cuts words as Qwen's does."""
    import transformers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>", model_max_length=1024
    )
    wrapped.add_tokens(["<think>", "</think>"])
    if chat_template is not None:
        wrapped.chat_template = chat_template
    own = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024, "initializer_range": 0.3}
    decoder = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
    sizes = own if family == "GPT2" else decoder
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(wrapped), pad_token_id=0, bos_token_id=None, eos_token_id=2, **sizes
    )
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    model = seeded(getattr(transformers, name), config)
    return saved(folder, model, wrapped)


def gemma(folder: Path) -> str:
    """Make a Gemma with a tokenizer like SentencePiece's: blanks are letters, and a text begins with <bos>."""
    from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=[*special, *fallback], initial_alphabet=["\n"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        padding_side="left", model_max_length=1024,
    )  # fmt: skip
    config = GemmaConfig(vocab_size=len(wrapped), **SIZES, num_key_value_heads=1, head_dim=8)
    return saved(folder, seeded(GemmaForCausalLM, config), wrapped)


def seeded(kind: Any, config: Any) -> Any:
    import torch

    torch.manual_seed(7)
    return kind(config).eval()


def saved(folder: Path, model: Any, tokenizer: Any) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
