"""Settings for every test: no network, few threads, GPU tests only where there is a GPU."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))

import hypothesis
import pytest

hypothesis.settings.register_profile("mpkir", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("mpkir")


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Any]:
    """Makes the model of a configuration with random weights, large enough that logits differ: the
    default leaves them all near zero. `dtype` is torch.bfloat16 if not given.
    """
    import torch
    import transformers

    def make(config: Any, dtype: Any = torch.bfloat16, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=1 / math.sqrt(parameter.shape[-1]))
                else:
                    parameter.normal_(mean=1.0, std=0.1)
        return model.eval()

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))
