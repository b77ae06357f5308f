"""What the tests of adapter files share: one saved adapter with a trained head."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from expandermask.adapters import AdapterConfig, save_adapter
from tests.adapters.models import attached, bert

HEADED = AdapterConfig(r=16, lora_dropout=0.1, modules_to_save=["classifier"])
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A trained adapter's folder, and the model it was saved from."""
    model = bert()
    attached(model, HEADED)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(model, folder)
    return folder, model
