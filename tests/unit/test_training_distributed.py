"""The collectives' backend is that of the device that trains, not of a device that is there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.training.distributed import Ranks, backend_for

# Two processes on a machine that has GPUs, so PyTorch says, and train on the host all the same.
SCRIPT = """
import torch

torch.cuda.is_available = lambda: True
import torch.distributed as dist

from toolkit.training.distributed import Ranks

ranks = Ranks({device!r})
weight = torch.nn.Parameter(torch.zeros(3))
weight.grad = torch.full((3,), float(ranks.rank + 1))
total = ranks.sum_gradients([weight], torch.tensor(10.0))
print(dist.get_backend(), ranks.rank, weight.grad.tolist(), float(total), ranks.sum([1.0]))
ranks.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("device", "backend"),
    [("cpu", "gloo"), ("cuda", "nccl"), ("cuda:3", "nccl"), ("mps", "gloo")],
)
def test_backend_follows_the_device(device, backend):
    assert backend_for(device) == backend


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = Ranks("cuda")
    assert not ranks.active and ranks.world == 1 and ranks.sum([2.0]) == [2.0]


def test_training_on_the_host_beside_idle_gpus_goes_through_gloo():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(device="cpu")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.split("\n")[0] == f"gloo {rank} [3.0, 3.0, 3.0] 20.0 [2.0]"
