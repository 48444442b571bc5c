"""Tensor parallel: two real processes that compute one model over gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from actframe import ActivationRecorder, ActivationStore
from actframe.testing import tiny_model

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_model_that_two_processes_compute_is_recorded_once_and_whole(tmp_path):
    model = tiny_model("llama", num_key_value_heads=4)
    model.save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    done = subprocess.run(
        [*command, f"--master-port={port}", HERE / "tensor_parallel.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    with torch.no_grad(), ActivationRecorder(model, list(first)) as alone:
        model(torch.tensor([[1, 2, 3, 4, 5]]))
    for site, whole in alone.records[0].activations.items():
        assert torch.equal(first[site], second[site])
        assert first[site].shape == whole.shape
        assert torch.allclose(first[site], whole, atol=2e-6)
    (record,) = ActivationStore(tmp_path / "store")
    assert len(record.output_ids) == 4
