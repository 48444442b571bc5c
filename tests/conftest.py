"""Fixtures that several test files share: the real small model, and a tiny one."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from actframe.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct in bfloat16 on the CPU: a `LoadedModel` with `.model`, `.tokenizer`, `.name`."""
    from actframe.runs.models import load_model

    return load_model("smollm2", device="cpu", dtype="bfloat16")


@pytest.fixture(scope="session")
def tiny_llama():
    """A four-block Llama with random weights in float32, and a byte tokenizer that pads on the left."""
    return tiny_model("llama"), tiny_tokenizer()


@pytest.fixture
def one_thread():
    """Torch on one thread, for tests that run something beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
