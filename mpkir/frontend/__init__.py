"""From PyTorch and Hugging Face to the tensor dialect; names are imported when first used."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "LoadedModel": "mpkir.frontend.huggingface",
    "arrangements_of": "mpkir.frontend.rearranged",
    "decode_step": "mpkir.frontend.decode",
    "export_module": "mpkir.frontend.signature",
    "export_step": "mpkir.frontend.decode",
    "first_states": "mpkir.frontend.signature",
    "import_program": "mpkir.frontend.torch_export",
    "model_from_config": "mpkir.frontend.huggingface",
    "load_model": "mpkir.frontend.huggingface",
    "open_model": "mpkir.frontend.huggingface",
    "signature_of": "mpkir.frontend.signature",
    "settle_frequencies": "mpkir.frontend.huggingface",
    "register_lowering": "mpkir.frontend.aten.registry",
    "tensors_of": "mpkir.frontend.signature",
    "weights_of": "mpkir.frontend.huggingface",
    "without_torch_notes": "mpkir.frontend.signature",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mpkir.frontend' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
