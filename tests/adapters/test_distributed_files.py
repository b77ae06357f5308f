"""Two processes save and load one adapter: whole tensors in the file, errors on both ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from expandermask.adapters import load_adapter
from tests.adapters.conftest import WEIGHTS
from tests.adapters.models import mlp
from tests.without_compiler import ROOT

RANK = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from expandermask.adapters import AdapterConfig, attach, load_adapter, save_adapter
from expandermask.errors import AdapterError
from tests.adapters.models import mlp, layers
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
def sharded():
    model = mlp()
    attach(model, AdapterConfig(r=16), rng=0)
    for layer in layers(model):
        adapter = layer.adapter("default")
        for side in ("lora_A", "lora_B"):
            values = torch.arange(getattr(adapter, side).numel()).float()
            whole = values.view(getattr(adapter, side).shape)
            shard = distribute_tensor(whole, mesh, [Shard(0)])
            setattr(adapter, side, nn.Parameter(shard))
    return model
model = sharded()
save_adapter(model, f"{folder}/adapter")
assert os.path.exists(f"{folder}/adapter/adapter_model.safetensors")
other = sharded()
with torch.no_grad():
    for layer in layers(other):
        for parameter in layer.adapter("default").parameters():
            parameter.zero_()
load_adapter(other, f"{folder}/adapter")
for one, two in zip(layers(model), layers(other)):
    for p, q in zip(one.adapter("default").parameters(), two.adapter("default").parameters()):
        assert torch.equal(p.to_local(), q.to_local()) and p.to_local().any()
open(f"{folder}/taken", "a").close()
try:
    save_adapter(model, f"{folder}/taken")
    sys.exit("saved over a file")
except AdapterError as error:
    assert ("rank 0 could not write" in str(error)) == (rank == 1), error
os._exit(0)
"""


def test_two_ranks_save_one_file_and_both_hear_of_an_error(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    assert os.listdir(tmp_path / "adapter") == [WEIGHTS]
    model = mlp()
    load_adapter(model, tmp_path / "adapter")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            wanted = torch.arange(parameter.numel()).float().view(parameter.shape)
            assert torch.equal(parameter, wanted), name
