"""Writes a student as sentence-transformers and transformers read it; what they have no place for stands beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from podium_server.training.torch_bodies import STUDENT_FILE, located
from podium_server.training.torch_students import (
    DENSE_FOLDER,
    HEAD_FILE,
    Classifying,
    Encoding,
    JointMaxSim,
    TorchStudent,
)

_OF_THE_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_NOTICES = ("NOTICE", "LICENSE")


def write(student: TorchStudent, folder: Path, said: Mapping[str, Any]) -> None:
    """Write config, weights, tokenizer and the modules of sentence-transformers.

    Args:
        student: with the weights that are to be kept.
        folder: made where there is none; what lies there under these names is overwritten.
        said: more for `podium_student.json`: how it was made.

    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = student.student
    student.body.save_pretrained(folder)
    source = Path(located(settings.start))
    for name in (*_OF_THE_TOKENIZER, *_NOTICES):
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
    if not (folder / "tokenizer.json").is_file():
        student.tokens.tokenizer.save(str(folder / "tokenizer.json"))
    match student:
        case Encoding():
            _write_modules(student, folder)
        case JointMaxSim():
            head = {"reading.weight": student.reading.weight, "reading.bias": student.reading.bias}
            head["temperature"] = student.temperature
            if student.projection is not None:
                head["projection.weight"] = student.projection.weight
            save_file({name: _plain(tensor) for name, tensor in head.items()}, folder / HEAD_FILE)
        case Classifying():
            _write_lengths(folder, settings.max_tokens)
    card = {"student": settings.model_dump(mode="json", exclude={"start", "layers"}), **said}
    (folder / STUDENT_FILE).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous().clone()


def _write_lengths(folder: Path, max_tokens: int) -> None:
    _json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    said = (
        json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        if (folder / "tokenizer_config.json").is_file()
        else {}
    )
    _json(folder / "tokenizer_config.json", {**said, "model_max_length": max_tokens})


def _write_modules(student: Encoding, folder: Path) -> None:
    """Write the modules: of a late-interaction student a `MultiVectorEncoder`, else a `SentenceTransformer`."""
    settings = student.student
    _write_lengths(folder, settings.max_tokens)
    late = settings.kind == "late-interaction"
    pooling = {"cls_token": False, "mean_tokens": True, "max_tokens": False, "mean_sqrt_len_tokens": False}
    width = int(student.body.config.hidden_size)
    _json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": width, **{f"pooling_mode_{name}": value for name, value in pooling.items()}},
    )
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Pooling", "sentence_transformers.models.Pooling")]
    if late:
        modules += _write_token_modules(student, folder, width)
    else:
        modules.append(("2_Normalize", "sentence_transformers.models.Normalize"))
        (folder / "2_Normalize").mkdir(exist_ok=True)
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    _json(folder / "modules.json", listed)
    _json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "MultiVectorEncoder" if late else "SentenceTransformer",
            "prompts": {"query": settings.query_prefix, "document": settings.document_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": "meanmaxsim" if late else "cosine",
        },
    )


def _write_token_modules(student: Encoding, folder: Path, width: int) -> list[tuple[str, str]]:
    """Write what becomes of token vectors: projected, of unit length, without special tokens; return the modules."""
    base = "sentence_transformers.base.modules"
    of_tokens = {"module_input_name": "token_embeddings"}
    modules = []
    if student.projection is not None:
        _json(
            folder / DENSE_FOLDER / "config.json",
            {
                "in_features": width,
                "out_features": student.projection.weight.shape[0],
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
                **of_tokens,
                "module_output_name": "token_embeddings",
            },
        )
        save_file({"linear.weight": _plain(student.projection.weight)}, folder / DENSE_FOLDER / "model.safetensors")
        modules.append((DENSE_FOLDER, f"{base}.dense.Dense"))
    _json(folder / "2_Normalize" / "config.json", of_tokens)
    special = [student.tokens.tokenizer.id_to_token(i) for i in (student.tokens.first, student.tokens.last)]
    mask = {"skiplist_words": special, "skiplist_tasks": ["query", "document"], "keep_only_token_ids": None}
    _json(folder / "3_MultiVectorMask" / "config.json", mask)
    where = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
    return [*modules, ("2_Normalize", f"{base}.normalize.Normalize"), ("3_MultiVectorMask", where)]


def _json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
