"""Storage backend `zstd`: planes, seekable files, and what is refused."""

import os
import shutil
import subprocess

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from actframe.errors import ActframeError, FormatError, StorageError
from actframe.records.bundle import Bundle
from actframe.storage.positional import PositionalFile
from actframe.storage.safetensors_ import SafetensorsBackend
from actframe.storage.zstd_ import ZstdBackend
from actframe.testing import DTYPES, StorageBackendTests, assert_same, assert_survives, random_tensor

SPLIT = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


class TestZstdBackend(StorageBackendTests):
    @pytest.fixture
    def backend(self):
        return ZstdBackend()


def gaussian(*shape, seed=0):
    """Numbers distributed as activations are: a scale for each channel."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.randn(shape[-1], generator=generator).exp()
    return (torch.randn(shape, generator=generator) * scales).bfloat16()


@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=4),
    dtypes=st.lists(st.sampled_from([dtype for dtype in DTYPES if dtype != torch.complex128]), min_size=4, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_any_shapes_and_dtypes_survive_together(tmp_path_factory, shapes, dtypes, seed):
    tensors = {
        f"{index}": random_tensor(dtype, *shape, seed=seed)
        for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    path = tmp_path_factory.mktemp("property") / "bundle.safetensors.zst"
    assert_survives(ZstdBackend(), path, Bundle(tensors, {"seed": seed}))


@pytest.mark.parametrize("dtype", SPLIT, ids=str)
def test_tensors_larger_than_a_frame_survive(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("actframe.storage.zstd_.FRAME_BYTES", 1024)
    tensors = {"layer_0": random_tensor(dtype, 333, 11), "layer_1": random_tensor(dtype, 4096)}
    assert_survives(ZstdBackend(), tmp_path / "bundle.safetensors.zst", Bundle(tensors))


def test_activations_of_a_real_model_shrink_as_promised(tmp_path, smollm2):
    prompt = "Photosynthesis is how plants turn light, water and carbon dioxide into sugar and oxygen. " * 8
    inputs = smollm2.tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        states = smollm2.model(**inputs, output_hidden_states=True).hidden_states
    tensors = {f"layer_{index}": state[0].clone() for index, state in enumerate(states[:-1])}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    path = tmp_path / "real.safetensors.zst"
    assert_survives(ZstdBackend(), path, Bundle(tensors))
    assert len(save(tensors)) / path.stat().st_size >= 1.44


def test_float32_that_was_bfloat16_shrinks_by_more_than_half(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    tensor = gaussian(256, 256).float()
    assert_survives(ZstdBackend(), path, Bundle({"layer_0": tensor}))
    assert path.stat().st_size < tensor.nbytes / 2.5


def test_small_tensors_cost_little_more_than_their_bytes(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    tensors = {f"layer_{index}": gaussian(1, 48, seed=index) for index in range(200)}
    assert_survives(ZstdBackend(), path, Bundle(tensors))
    plain = tmp_path / "bundle.safetensors"
    SafetensorsBackend().write(plain, Bundle(tensors))
    assert path.stat().st_size < plain.stat().st_size / 1.3


def test_reading_one_of_31_sites_reads_less_than_a_twentieth_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "bundle.safetensors.zst"
    metadata = {"prompt": "x" * 300, "response": "y" * 600, "input_ids": list(range(96))}
    tensors = {f"layer_{index}": gaussian(96, 576, seed=index) for index in range(31)}
    ZstdBackend().write(path, Bundle(tensors, metadata))
    counts = []
    read_into = PositionalFile.read_into
    monkeypatch.setattr(
        PositionalFile,
        "read_into",
        lambda self, start, buffer: counts.append(len(buffer)) or read_into(self, start, buffer),
    )
    assert_same(ZstdBackend().read(path).tensors["layer_17"], tensors["layer_17"])
    assert sum(counts) <= path.stat().st_size / 20


def bundle_of_everything():
    return Bundle(
        {"layer_0": gaussian(32, 64), "layer_1": gaussian(32, 64).float(), "mask": torch.ones(9, dtype=torch.bool)},
        {"prompt": "What is the capital of France?"},
    )


def assert_same_bundle(found, expected):
    assert found.metadata == expected.metadata
    assert list(found.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert_same(found.tensors[name], tensor)


def test_streaming_zstd_across_frames_gives_a_safetensors_file_of_the_same_bundle(tmp_path):
    path, plain = tmp_path / "bundle.safetensors.zst", tmp_path / "bundle.safetensors"
    ZstdBackend().write(path, bundle_of_everything())
    with open(path, "rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        plain.write_bytes(stream.read())
    assert_same_bundle(SafetensorsBackend().read(plain), bundle_of_everything())
    library = load_file(plain)
    assert (library["layer_0"].dtype, library["layer_0"].shape) == (torch.uint8, (2, 32, 64))


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the zstd program")
def test_the_zstd_program_gives_a_safetensors_file_of_the_same_bundle(tmp_path):
    path, plain = tmp_path / "bundle.safetensors.zst", tmp_path / "bundle.safetensors"
    ZstdBackend().write(path, bundle_of_everything())
    subprocess.run(["zstd", "-q", "--test", path], check=True)
    subprocess.run(["zstd", "-q", "-d", path], check=True)
    assert_same_bundle(SafetensorsBackend().read(plain), bundle_of_everything())


def test_every_flipped_bit_is_an_error(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    ZstdBackend().write(path, Bundle({"a": gaussian(8, 64), "b": torch.arange(5)}, {"prompt": "hello, hello, hello"}))
    whole = path.read_bytes()
    unnoticed = []
    with open(path, "r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            byte = whole[bit // 8]
            os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)
            try:
                dict(ZstdBackend().read(path).tensors)
                unnoticed.append(bit)
            except ActframeError:
                os.pwrite(file.fileno(), bytes([byte]), bit // 8)
    assert unnoticed == []
    assert len(ZstdBackend().read(path).tensors["a"]) == 8


def test_damage_to_one_site_leaves_the_others_readable(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    tensors = {f"layer_{index}": gaussian(64, 64, seed=index) for index in range(3)}
    ZstdBackend().write(path, Bundle(tensors))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = ZstdBackend().read(path).tensors
    assert_same(found["layer_0"], tensors["layer_0"])
    assert_same(found["layer_2"], tensors["layer_2"])
    with pytest.raises(FormatError, match="frame 4 is damaged"):
        found["layer_1"]


def test_constant_tensors_expand_no_further_than_a_reader_believes(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    tensor = torch.zeros(48 << 20, dtype=torch.bfloat16)
    ZstdBackend().write(path, Bundle({"layer_0": tensor}))
    assert tensor.nbytes / 1000 <= path.stat().st_size < tensor.nbytes / 900
    assert_same(ZstdBackend().read(path).tensors["layer_0"], tensor)


def test_a_plain_zstd_file_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "plain.safetensors.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(save({"layer_0": torch.zeros(100)})))
    with pytest.raises(FormatError, match="does not end in a seek table.*`zstd -d`"):
        ZstdBackend().read(path)


def test_a_dtype_that_the_format_lacks_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    with pytest.raises(StorageError, match="'layer_0' is complex128"):
        ZstdBackend().write(path, Bundle({"layer_0": torch.ones(1, dtype=torch.complex128)}))
    assert not path.exists()
