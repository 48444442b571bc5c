"""Each extension is held to its contract, and found as users find it."""

import pytest
import torch
from actframe_example.backend import TorchSaveBackend
from actframe_example.benchmark import Colours
from actframe_example.engine import ShiftsEngine
from actframe_example.strategy import BlockOutputs

from actframe import ActivationRecorder, load_activations
from actframe.testing import (
    BenchmarkAdapterTests,
    CaptureStrategyTests,
    ExecutionEngineTests,
    StorageBackendTests,
    tiny_model,
)


class TestTorchSaveBackend(StorageBackendTests):
    @pytest.fixture
    def backend(self):
        return TorchSaveBackend()


class TestBlockOutputs(CaptureStrategyTests):
    @pytest.fixture
    def strategy(self):
        return BlockOutputs()


class TestColours(BenchmarkAdapterTests):
    @pytest.fixture
    def adapter(self):
        return Colours()


class TestShiftsEngine(ExecutionEngineTests):
    @pytest.fixture
    def engine(self):
        return ShiftsEngine(tasks_per_worker=2)


def test_the_installed_plugin_records_and_saves(tmp_path):
    model, ids = tiny_model("llama"), torch.tensor([[1, 2, 3]])
    with torch.no_grad(), ActivationRecorder(model, 1, strategy="block_outputs") as recorder:
        model(ids)
    recorder.save(tmp_path / "example.pt")
    found = load_activations(tmp_path / "example.pt")
    assert torch.equal(found["activations"]["layer_1"], recorder.records[0].activations["layer_1"])
