"""Writes a tiny random chat model as GGUF. Runs in the llama.cpp environment: `tiny_gguf.py FILE`."""

from __future__ import annotations

import sys

import gguf
import numpy as np

WIDTH, HEADS, LAYERS, INNER, CONTEXT = 64, 4, 2, 128, 8192
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> tuple[list[str], list[int]]:
    """A token for each byte (SentencePiece's fallback) and each label of a prompt."""
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 4
    tokens = special + [f"<0x{n:02X}>" for n in range(256)]
    kinds += [gguf.TokenType.BYTE] * 256
    words = [chr(n) for n in range(33, 127)] + ["▁", "yes", "no", "▁yes", "▁no", "Yes", "No", "▁>"]
    words += [str(n) for n in range(10, 101)] + [f"▁{chr(n)}" for n in range(65, 91)]
    tokens += words
    kinds += [gguf.TokenType.NORMAL] * len(words)
    return tokens, [int(kind) for kind in kinds]


def write(path: str) -> None:
    rng = np.random.default_rng(7)
    tokens, kinds = vocabulary()
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("tiny-random")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(WIDTH)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_vocab_size(len(tokens))
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores([0.0 if kind != gguf.TokenType.NORMAL else -float(i) for i, kind in enumerate(kinds)])
    out.add_token_types(kinds)
    out.add_bos_token_id(1)
    out.add_eos_token_id(4)
    out.add_unk_token_id(0)
    out.add_add_bos_token(True)
    out.add_add_space_prefix(False)
    out.add_chat_template(TEMPLATE)

    def weight(name: str, *shape: int) -> None:
        out.add_tensor(name, (rng.standard_normal(shape) * 0.2).astype(np.float32))

    def ones(name: str) -> None:
        out.add_tensor(name, np.ones(WIDTH, dtype=np.float32))

    weight("token_embd.weight", len(tokens), WIDTH)
    for n in range(LAYERS):
        ones(f"blk.{n}.attn_norm.weight")
        for part in "qkv":
            weight(f"blk.{n}.attn_{part}.weight", WIDTH, WIDTH)
        weight(f"blk.{n}.attn_output.weight", WIDTH, WIDTH)
        ones(f"blk.{n}.ffn_norm.weight")
        weight(f"blk.{n}.ffn_gate.weight", INNER, WIDTH)
        weight(f"blk.{n}.ffn_up.weight", INNER, WIDTH)
        weight(f"blk.{n}.ffn_down.weight", WIDTH, INNER)
    ones("output_norm.weight")
    weight("output.weight", len(tokens), WIDTH)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    write(sys.argv[1])
