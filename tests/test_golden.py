"""Files of every format version that was ever written, which must be read for ever.

A file here is never written again: a change of the format gets a new file beside it.
"""

from pathlib import Path

import pytest
import torch

from actframe.records.record import ActivationRecord
from actframe.storage.files import load_activations
from actframe.testing.storage import assert_same

GOLDEN = Path(__file__).parent / "golden"
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
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(FILES)
