"""How many tests run at once, and fixtures that several test files share: the real small model, and a tiny one."""

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import psutil
import pytest
import torch
from toys import hooks_of

from actframe.testing import tiny_model, tiny_tokenizer

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """How many processes `-n auto` means: a core and 3 GiB of free memory for each, and at most eight.

    Each loads models of its own and grows to between one and two GiB, so what shares them out is memory, and with more
    than eight the longest file is what is waited for.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return max(1, min(8, CORES, psutil.virtual_memory().available // (3 << 30)))


def pytest_configure():
    """Processes beside each other share the cores, and so do those that the tests start; else each would take all."""
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        share = max(1, CORES // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(share))))


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
def model():
    """A tiny model like that of `tiny_llama`, for a test that changes it."""
    return tiny_model("llama")


@pytest.fixture
def no_grad():
    """No graph is made during the test, as where people only look."""
    with torch.no_grad():
        yield


@pytest.fixture
def tiny(tiny_llama):
    """The tiny model, as runs take it; it must have no more hooks after each test than before it."""
    from actframe.runs.models import LoadedModel

    model, tokenizer = tiny_llama
    # transformers hooks its own modules the first time that hidden states are asked for.
    model(torch.tensor([[1]]), output_hidden_states=True)
    before = hooks_of(model)
    yield LoadedModel("tiny", model, tokenizer)
    assert hooks_of(model) == before


@pytest.fixture
def open_folder():
    """A new folder that other users of the machine may read; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def one_thread():
    """Torch on one thread, for tests that run something beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory):
    """An empty bucket of an S3 server on this machine, such as `s3://bucket-5f3a`; the environment says where it is."""
    output = tmp_path_factory.mktemp("s3") / "output"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", started(server, output))
            patch.setenv("AWS_ACCESS_KEY_ID", "actframe")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "actframe")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            patch.setenv("AWS_CONFIG_FILE", os.devnull)
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
            patch.setenv("NO_PROXY", "127.0.0.1")
            import s3fs

            bucket = f"bucket-{secrets.token_hex(4)}"
            s3fs.S3FileSystem().mkdir(bucket)
            yield f"s3://{bucket}"
            s3fs.S3FileSystem.clear_instance_cache()
        server.terminate()


def started(server, output):
    """The address of a server, once it has written that it listens."""
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:\d+", output.read_text())
        if found:
            return found[0]
        assert server.poll() is None, output.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the S3 server has not started in a minute: {output.read_text()}")
