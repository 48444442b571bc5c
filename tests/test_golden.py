"""Files of every format version that was ever written, which must be read for ever.

A file here is never written again: a change of the format gets a new file beside it.
"""

import re
from pathlib import Path

import pytest
import torch

from actframe.records.bundle import Bundle
from actframe.records.record import ActivationRecord
from actframe.storage.files import load_activations, read_bundle, write_bundle
from actframe.testing import assert_same

GOLDEN = Path(__file__).parent / "golden"
DOCUMENT = Path(__file__).parent.parent / "docs" / "storage-formats.md"
FILES = ["record_1.pkl", "record_1.safetensors", "record_1.safetensors.zst"]


def golden_record():
    """The record that the files of format `record/1` hold."""
    ramp = torch.arange(-256, 256, dtype=torch.float32).reshape(8, 64)
    return ActivationRecord(
        {
            "prompt": "What is the capital of France? \N{GREEK SMALL LETTER ALPHA}",
            "response": "Paris.",
            "model": "smollm2",
            "timestamp": "2024-09-15T14:30:22+00:00",
            "input_ids": [1, 2, 3, 4, 5, 6],
            "output_ids": [7, 8, 2],
            "activations": {
                "embeddings": (ramp / 64).bfloat16(),
                "layer_0": (ramp * 4).bfloat16(),
                "layer_1": ramp.half() / 2,
                "layer_1.mlp_out": ramp / 8,
                "router": ramp.double()[:, :4] / 1024,
                "quantized": ramp.to(torch.float8_e4m3fn)[0],
                "special": torch.tensor([0x7FC1, 0xFFC1, 0x7F80, 0x8000], dtype=torch.uint16).view(torch.bfloat16),
                "mask": ramp[0] > -224,
                "counts": torch.tensor([-1, 2**40]),
                "one": torch.tensor(0.5),
                "none": torch.empty(0, 64),
            },
            "positions": [0, 1, 2, 3, 4, 5, 6, 7],
            "site_positions": {},
            "prompt_length": 6,
            "correct": True,
            "score": 0.1,
            "extracted_answer": None,
        }
    )


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_is_read(name):
    expected = golden_record()
    found = load_activations(GOLDEN / name)
    assert found.keys() == expected.keys()
    assert {key: found[key] for key in found if key != "activations"} == {
        key: expected[key] for key in expected if key != "activations"
    }
    assert list(found["activations"]) == list(expected.activations)
    for site, tensor in expected.activations.items():
        assert_same(found["activations"][site], tensor)


def test_every_golden_file_is_read_by_a_test():
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted([*FILES, *EXAMPLES])


EXAMPLES = {
    "example.safetensors": Bundle({"layer_0": torch.tensor([[1.5, -2.0]]).bfloat16()}, {"prompt": "Hi"}),
    "example.safetensors.zst": Bundle(
        {"layer_0": torch.full((8, 64), 1.5).bfloat16(), "mask": torch.tensor([True, False, True])}, {"prompt": "Hi"}
    ),
}
"""The files that `docs/storage-formats.md` shows."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_documentation_is_read(name):
    found = read_bundle(GOLDEN / name)
    assert found.metadata == EXAMPLES[name].metadata
    assert list(found.tensors) == list(EXAMPLES[name].tensors)
    for site, tensor in EXAMPLES[name].tensors.items():
        assert_same(found.tensors[site], tensor)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_documentation_shows_the_bytes_of_its_example(name):
    dumps = re.findall(r"^```text\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    dump = dumps[list(EXAMPLES).index(name)]
    shown = {int(line[:8], 16): bytes.fromhex(line[10:58]) for line in dump.splitlines()}
    content = (GOLDEN / name).read_bytes()
    assert shown == {start: content[start : start + 16] for start in range(0, len(content), 16)}


def test_what_is_written_today_is_what_the_documentation_shows(tmp_path):
    path = tmp_path / "example.safetensors"
    write_bundle(EXAMPLES["example.safetensors"], path)
    assert path.read_bytes() == (GOLDEN / "example.safetensors").read_bytes()
