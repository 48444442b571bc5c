"""Copies from a device: what was captured is what the model had computed then, however late it arrives."""

import pytest
import torch

from actframe import ActivationRecorder, Selection
from actframe.capture.copies import Copies
from actframe.capture.selection import Scratch, SiteBuffer
from actframe.testing import tiny_model, tiny_tokenizer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_tensors_on_the_cpu_are_there_at_once():
    scratch = Scratch()
    buffer = SiteBuffer(scratch)
    rows = torch.randn(3, 4)
    buffer.append(rows)
    assert not scratch.copies._waiting
    kept = buffer.take([0, 1, 2])
    assert torch.equal(kept, rows)
    assert not kept.is_pinned()
    assert not torch.cuda.is_initialized() or torch.cuda.is_available()


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_model_changes_in_place_afterwards_was_captured_before(dtype):
    scratch = Scratch()
    buffer = SiteBuffer(scratch)
    weight = torch.randn(1024, 1024, device="cuda", dtype=dtype)
    rows = torch.randn(4096, 1024, device="cuda", dtype=dtype)
    expected = []
    for _ in range(20):
        rows = rows @ weight / 32
        expected.append(rows.cpu())
        buffer.append(rows)
        rows.zero_().add_(1)
    assert torch.equal(buffer.take(list(range(20 * 4096))), torch.cat(expected))


@needs_cuda
def test_memory_that_copies_hold_on_the_device_is_bounded(monkeypatch):
    monkeypatch.setattr(Copies, "WAITING_BYTES", 1 << 20)
    scratch = Scratch()
    buffer = SiteBuffer(scratch)
    rows = torch.randn(256, 1024, device="cuda")
    for _ in range(50):
        buffer.append(rows)
        assert scratch.copies._bytes <= 1 << 20
    assert torch.equal(buffer.take(list(range(256))), rows.cpu())


@needs_cuda
def test_memory_is_taken_back_only_when_copies_into_it_have_arrived():
    scratch = Scratch()
    SiteBuffer(scratch).append(torch.ones(1 << 16, 256, device="cuda"))
    scratch.reset()
    buffer = SiteBuffer(scratch)
    buffer.append(torch.full((1 << 16, 256), 2.0, device="cuda"))
    assert buffer.take([0, (1 << 16) - 1]).eq(2).all()


@needs_cuda
def test_memory_of_a_recording_on_the_cpu_serves_a_later_one_on_the_device():
    model = tiny_model("llama")
    ids = torch.tensor([[1, 2, 3]])
    for device in ("cpu", "cuda", "cpu"):
        model.to(device)
        with torch.no_grad(), ActivationRecorder(model) as recorder:
            out = model(ids.to(device), output_hidden_states=True)
        for layer in range(3):
            assert torch.equal(recorder.activations[f"layer_{layer}"], out.hidden_states[layer + 1].cpu())


@needs_cuda
@pytest.mark.parametrize("select", [None, "**", Selection(positions="last"), Selection(positions=[0, 2])])
def test_a_model_on_the_device_gives_the_records_that_synchronous_hooks_give(select):
    model, tokenizer = tiny_model("llama").to("cuda"), tiny_tokenizer()
    inputs = tokenizer(["hello", "to be or not"], return_tensors="pt", padding=True, return_token_type_ids=False)
    seen = []
    handle = model.model.layers[2].register_forward_hook(lambda _, __, output: seen.append(output.cpu()))
    with torch.no_grad(), ActivationRecorder(model, select) as recorder:
        model.generate(**inputs.to("cuda"), max_new_tokens=4, do_sample=False, eos_token_id=None)
    handle.remove()
    whole = torch.cat(seen, dim=1)
    for row, record in enumerate(recorder.records):
        tokens = whole[row, -(record.prompt_length + 3) :]
        assert torch.equal(record.activations["layer_2"], tokens[record.positions])
        assert all(tensor.device.type == "cpu" for tensor in record.activations.values())
