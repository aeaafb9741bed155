"""Where a model comes from: shipped with Podium, a folder, or the hub; converted once and kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from podium_server.backends.openvino.cards import CARD_FILE, kind_said, read_json
from podium_server.backends.openvino.convert import CONVERTER, Kind, convert, is_source, module_folders
from podium_server.backends.openvino.runtime import MODEL_FILE, WEIGHTS_FILE
from podium_server.backends.openvino.tokens import TOKENIZER_FILE
from podium_server.errors import ConfigInvalid

CACHE_VARIABLE = "PODIUM_CACHE"
"""The environment variable that names the folder for what can be made again."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FETCHED = ("*.json", "*.safetensors", "openvino_model.xml", "openvino_model.bin", CARD_FILE, "LICENSE*", "NOTICE*")
_FETCHED_NEXT = ("pytorch_model.bin", "model.onnx", "model.onnx_data", "onnx/model.onnx", "onnx/model.onnx_data")
_DECIDES = (".json", ".safetensors", ".onnx", ".onnx_data", ".txt", ".toml", ".model")


def shipped_models() -> tuple[str, ...]:
    """Return the names of the models that ship with Podium."""
    return tuple(
        sorted(entry.name for entry in files("podium_server.models").iterdir() if (entry / MODEL_FILE).is_file())
    )


def resolve(model: str, *, kind: Kind) -> Path:
    """Return a folder with `openvino_model.xml`, its `.bin` and `tokenizer.json`.

    Args:
        model: a shipped name; a folder with such a model; a folder with `.safetensors` or ONNX, which is converted once
            and kept (`cache_folder`); a name on the hub ("org/name"), which is fetched first.
        kind: what it is converted to.

    Raises:
        ConfigInvalid: it is none of these, cannot be fetched, or cannot be converted.

    """
    if model in shipped_models():
        return Path(str(files("podium_server.models"))) / model
    folder = Path(model)
    if not folder.exists() and _HUB_NAME.fullmatch(model):
        folder = _fetched(model)
    missing = [name for name in (MODEL_FILE, WEIGHTS_FILE, TOKENIZER_FILE) if not (folder / name).is_file()]
    if not missing:
        return folder
    if folder.is_dir() and MODEL_FILE in missing and is_source(folder):
        return _converted(folder, kind)
    raise ConfigInvalid(
        f"model {model!r} is not one that ships with Podium ({', '.join(shipped_models())}), and as a folder it lacks "
        f"{' and '.join(missing)}, and weights to convert (model.safetensors, onnx/model.onnx)"
    )


def kind_of(model: str) -> Kind:
    """Return what a model is: by its card, the outputs of its graph, or its `config.json`; an encoder otherwise.

    A hub name is fetched for it.
    """
    folder = Path(model)
    if model in shipped_models():
        folder = Path(str(files("podium_server.models"))) / model
    elif not folder.exists() and _HUB_NAME.fullmatch(model):
        folder = _fetched(model)
    said = kind_said(folder)
    if said is not None:
        return said
    architectures = read_json(folder / "config.json").get("architectures") or []
    return "cross-encoder" if any("SequenceClassification" in str(each) for each in architectures) else "encoder"


def cache_folder() -> Path:
    """Return where converted models are kept: `models` in PODIUM_CACHE, or in `podium` of the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser() / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podium" / "models"


def _converted(source: Path, kind: Kind) -> Path:
    """Return the converted model of a folder: from the cache where no byte of it has changed, else made now."""
    target = cache_folder() / f"{_plain(source)}-{kind}-{_content_hash(source, kind)}"
    if (target / MODEL_FILE).is_file():
        return target
    # Made beside its place and moved there whole: two processes, or one that dies, leave no half of a model.
    making = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        convert(source, making, kind=kind)
        with contextlib.suppress(OSError):  # another process was quicker, and made the same
            making.rename(target)
        if not (target / MODEL_FILE).is_file():
            raise ConfigInvalid(f"the converted model cannot be kept as {target}")
        return target
    except OSError as error:
        raise ConfigInvalid(
            f"the converted model of {source} cannot be kept in {target.parent}: {error}; {CACHE_VARIABLE} names "
            "another folder"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _content_hash(source: Path, kind: Kind) -> str:
    said = hashlib.sha256(f"{CONVERTER} {kind}".encode())
    for file in sorted(_deciding(source)):
        said.update(f"\0{file.relative_to(source)}\0".encode())
        with file.open("rb") as opened:
            said.update(hashlib.file_digest(opened, "sha256").digest())
    return said.hexdigest()[:16]


def _deciding(source: Path) -> Iterator[Path]:
    """Yield the files that decide what a model is: in its folder, those of its modules, and that of an ONNX export."""
    for folder in (*module_folders(source), source / "onnx"):
        for file in folder.glob("*"):
            if file.suffix in _DECIDES or file.name.startswith("pytorch_model"):
                yield file


def _plain(source: Path) -> str:
    # A snapshot's folder on the hub is named by a commit; the model's name stands two above.
    named = source.resolve()
    if named.parent.name == "snapshots":
        named = named.parent.parent
    return re.sub(r"[^\w.-]+", "-", named.name)[:80] or "model"


def _fetched(model: str) -> Path:
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(model, allow_patterns=list(_FETCHED)))
        if not (folder / MODEL_FILE).is_file() and not is_source(folder):
            folder = Path(huggingface_hub.snapshot_download(model, allow_patterns=[*_FETCHED, *_FETCHED_NEXT]))
        return folder
    # Everything that the hub's client raises is one of these two.
    except (OSError, ValueError) as error:
        raise ConfigInvalid(
            f"model {model!r} is no folder here, and cannot be fetched from the hub: {error} On a machine without a "
            "network, fetch it elsewhere (hf download) and give its folder"
        ) from error
