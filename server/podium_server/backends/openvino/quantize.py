"""Makes a model's numbers int8 (extra `optimize`: NNCF): weights alone, or weights and activations.

With activations their ranges are fixed beforehand from samples (post-training quantization, with SmoothQuant, arXiv
2211.10438). A processor that multiplies int8 (VNNI, AMX) then computes the layers in it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from podium_server.backends.openvino.runtime import MODEL_FILE
from podium_server.errors import ConfigInvalid

KEPT_FROM_INT8 = (r"encoder\.layer\.\d+\.output\.dense",)
"""The second product of each feed-forward block, by its name in graphs that are written here: the inputs of it, after
GELU, have outliers. What the shipped encoder was once tried with; see `Quantization.keep`."""
SMOOTH_QUANT_ALPHA = 0.9

_LAYER = re.compile(r"encoder\.layer\.\d+\.")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How numbers become int8.

    Args:
        activations: those of the products too; else the weights alone.
        alpha: how much of the activations' outliers is moved into the weights (SmoothQuant), from 0 to 1.
        keep: regular expressions of names of products that are left as they are, `encoder.layer.5.` for one.
            What is computed of one token alone (a cross-encoder's last layer after its keys and values, and its head)
            always is: it takes next to no time.
        last_layer: the rest of such a last layer becomes int8, too. A last layer left as it is costs 6 % of the speed
            against one in int8, and the largest difference of a score falls from 0.6 to 0.13 of their spread
            (MiniLM-L6 with an untrained head).

    """

    activations: bool = True
    alpha: float = SMOOTH_QUANT_ALPHA
    keep: tuple[str, ...] = ()
    last_layer: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigInvalid(f"alpha is {self.alpha}; it must be from 0 to 1")
        for pattern in self.keep:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigInvalid(f"keep is {pattern!r}, which is no regular expression: {error}") from None

    def __str__(self) -> str:
        if not self.activations:
            return "int8 weights"
        kept = f", without {' '.join(self.keep)}" if self.keep else ""
        kept += ", the last layer too" if self.last_layer else ""
        return f"int8 weights and activations, alpha {self.alpha:g}{kept}"


def quantize(folder: Path, target: Path, samples: Sequence[dict[str, NDArray[np.int64]]], how: Quantization) -> None:
    """Write the quantized graph of a folder into another.

    Args:
        folder: with `openvino_model.xml`, not quantized yet.
        target: an existing folder.
        samples: inputs as the graph takes them, of pairs or texts like those that it will see; not read for weights
            alone.
        how: what becomes int8.

    Raises:
        ConfigInvalid: NNCF is not installed, the graph is quantized already, or NNCF cannot quantize it.

    """
    try:
        import nncf
    except ImportError as error:
        raise ConfigInvalid(
            f"quantization needs the extra optimize: pip install 'podium[optimize]' ({error})"
        ) from None
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(folder / MODEL_FILE)
    if _is_quantized(model):
        raise ConfigInvalid(f"{folder} has int8 weights already; quantize the model that it was made of")
    try:
        with redirect_stdout(sys.stderr):  # where NNCF's bars belong
            model = _int8(nncf, model, samples, how)
    except RuntimeError as error:
        raise ConfigInvalid(f"NNCF cannot quantize {folder}: {error}") from error
    openvino.save_model(model, target / MODEL_FILE, compress_to_fp16=False)


def _int8(nncf: Any, model: Any, samples: Sequence[dict[str, NDArray[np.int64]]], how: Quantization) -> Any:
    if how.activations:
        model = nncf.quantize(
            model,
            nncf.Dataset(list(samples)),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=_ignored(nncf, model, how),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=how.alpha)
            ),
        )
    # Asymmetric: half the error of symmetric, at no cost in time. After `quantize` the embeddings are left to store so.
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


def _ignored(nncf: Any, model: Any, how: Quantization) -> Any:
    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    names = [node.get_friendly_name() for node in products]
    for pattern in how.keep:
        if not any(re.match(pattern, name) for name in names):
            raise ConfigInvalid(f"no product is named like {pattern!r}; there are {', '.join(sorted(names)[:8])}, …")
    single = [node.get_friendly_name() for node in products if _is_of_one_token(node)]
    layers = {found[0] for name in single if (found := _LAYER.match(name)) and not how.last_layer}
    kept = [
        name
        for name in names
        if any(re.match(pattern, name) for pattern in how.keep) or any(name.startswith(layer) for layer in layers)
    ]
    return nncf.IgnoredScope(names=sorted({*single, *kept})) if single or kept else None


def _is_of_one_token(node: Any) -> bool:
    """Return whether a product has one row a pair: (batch, width), (batch, 1, width), or attention of one token."""
    shape = node.get_output_partial_shape(0)
    # At most: a slice of one token is known to be one or, of an empty text, none. -1 is no bound.
    return len(shape) == 2 or (len(shape) > 2 and shape[len(shape) - 2].get_max_length() in (0, 1))


def _is_quantized(model: Any) -> bool:
    return any(node.get_type_name() == "FakeQuantize" or _is_int8_table(node) for node in model.get_ops())


def _is_int8_table(node: Any) -> bool:
    if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) < 2:  # a single int8 may be anything
        return False
    return node.get_output_element_type(0).get_type_name() in ("i8", "u8", "i4", "u4")
