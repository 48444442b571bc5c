"""Selections: which sites and positions, reduced and cast how; and the buffer that rows are kept in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actframe import ActivationRecorder, Selection, SelectionError
from actframe.capture.selection import Scratch, SiteBuffer
from actframe.testing import tiny_model, tiny_tokenizer

POSITIONS = st.one_of(
    st.sampled_from(["all", "prompt", "response", "last_prompt", "last"]),
    st.builds(slice, st.none() | st.integers(-12, 12), st.none() | st.integers(-12, 12)),
    st.lists(st.integers(-12, 12), min_size=1, max_size=4),
)


@given(positions=POSITIONS, prompt=st.integers(1, 8), response=st.integers(0, 6))
def test_what_may_be_kept_early_covers_what_is_chosen_in_the_end(positions, prompt, response):
    selection = Selection(positions=positions)
    length = prompt + response
    kept = [*selection.may_keep(0, prompt, prompt)]
    for step in range(prompt, length):
        kept += selection.may_keep(step, step + 1, prompt)
    chosen = selection.choose(length, prompt)
    assert set(chosen) <= set(kept)
    assert chosen == sorted(set(chosen))
    if isinstance(positions, slice):
        assert chosen == list(range(length))[positions]


@pytest.fixture(scope="module")
def full():
    """A generated batch recorded in full, and what it was made from."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    inputs = dict(tokenizer(["short", "a much longer one"], return_tensors="pt", padding=True))
    inputs.pop("token_type_ids", None)

    def run(selection):
        with torch.no_grad(), ActivationRecorder(model, selection) as recorder:
            model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
        return recorder.records

    return run, run(["embeddings", "layer_2"])


@given(positions=POSITIONS)
@settings(max_examples=40, deadline=None)
def test_a_selection_equals_a_slice_of_the_full_recording(positions, full):
    run, records = full
    for whole, part in zip(records, run(Selection(["embeddings", "layer_2"], positions)), strict=True):
        assert part.positions == Selection(positions=positions).choose(len(whole.positions), len(whole.input_ids))
        for site, tensor in part.activations.items():
            assert torch.equal(tensor, whole.activations[site][part.positions])


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_a_reduction_leaves_one_row(reduce, full):
    run, records = full
    for whole, part in zip(records, run(Selection("layer_2", "response", reduce=reduce)), strict=True):
        rows = whole.activations["layer_2"][len(whole.input_ids) :]
        expected = rows.mean(0, keepdim=True) if reduce == "mean" else rows.amax(0, keepdim=True)
        assert torch.equal(part.activations["layer_2"], expected)
        assert part.positions == list(range(len(whole.input_ids), len(whole.positions)))


def test_a_cast_is_done_where_it_is_asked_for(full):
    run, records = full
    for whole, part in zip(records, run(Selection("layer_2", dtype="bfloat16")), strict=True):
        assert torch.equal(part.activations["layer_2"], whole.activations["layer_2"].bfloat16())


def test_a_cast_that_overflows_warns_with_the_site_and_the_count():
    rows = torch.tensor([[1.0, 70000.0], [-1e6, float("inf")]])
    with pytest.warns(RuntimeWarning, match=r"layer_3: 2 of 4 values do not fit torch.float16"):
        cast = Selection(dtype=torch.float16).finish(rows, "layer_3")
    assert cast.dtype == torch.float16


def test_a_mean_of_half_precision_is_taken_in_single_precision():
    rows = torch.full((3000, 1), 1.0009765625, dtype=torch.float16)
    assert Selection(reduce="mean").finish(rows, "layer_0").item() == rows[0].item()


def test_integer_activations_are_not_cast():
    rows = torch.arange(4).view(2, 2)
    assert Selection(dtype="float16").finish(rows, "module:x").dtype == torch.int64


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positions": "first"}, "no positions 'first'; there are all, prompt"),
        ({"positions": []}, "one or more int"),
        ({"positions": [1.5]}, "one or more int"),
        ({"positions": slice(0, 8, 2)}, "steps of 1"),
        ({"reduce": "sum"}, "no reduction 'sum'; there are mean, max"),
        ({"dtype": "float17"}, "no dtype 'float17'"),
        ({"dtype": "int8"}, "cast to a floating dtype"),
    ],
)
def test_a_selection_that_means_nothing_is_refused_when_it_is_made(wrong, message):
    with pytest.raises(SelectionError, match=message):
        Selection(**wrong)


@pytest.mark.parametrize("sites", [[], [True], [1.5], 1.5, True, [None], {"layer_0"}])
def test_sites_that_mean_nothing_are_refused(sites):
    with pytest.raises(SelectionError):
        Selection(sites=sites)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.data())
def test_a_buffer_gives_back_the_rows_it_was_given(sizes, data):
    scratch = Scratch()
    whole = torch.arange(1 + sum(sizes) * 3)[1:].view(-1, 3).float()
    for _ in range(3):
        buffer = SiteBuffer(scratch)
        for chunk in whole.split(sizes):
            buffer.append(chunk)
        assert buffer.length == len(whole)
        cells = sorted(data.draw(st.sets(st.integers(0, max(0, len(whole) - 1))))) if len(whole) else []
        assert torch.equal(buffer.take(cells), whole[cells])
        scratch.reset()


def test_a_buffer_never_moves_what_it_holds():
    buffer = SiteBuffer(Scratch())
    buffer.append(torch.zeros(4, 8))
    first = buffer._segments[0].data_ptr()
    for _ in range(100):
        buffer.append(torch.ones(1, 8))
    assert buffer._segments[0].data_ptr() == first
    assert len(buffer._segments) < 8


def test_what_a_buffer_gives_is_not_its_own_memory():
    scratch = Scratch()
    buffer = SiteBuffer(scratch)
    buffer.append(torch.zeros(4, 8))
    buffer.append(torch.ones(2, 8))
    taken = [buffer.take(cells) for cells in ([0, 1, 2, 3], [2, 3, 5], [4, 5], [1])]
    before = [tensor.clone() for tensor in taken]
    scratch.reset()
    SiteBuffer(scratch).append(torch.full((6, 8), 9.0))
    assert all(map(torch.equal, taken, before))
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in taken)


def test_scratch_memory_is_used_again_and_grows_by_whole_chunks(monkeypatch):
    monkeypatch.setattr(Scratch, "CHUNK_BYTES", 1024)
    scratch = Scratch()
    shapes = [(10, 10), (3, 5), (400,), (1, 1), (0, 7), (16, 16)]
    addresses = []
    for _ in range(3):
        pieces = [scratch.new(shape, torch.float32) for shape in shapes]
        for number, piece in enumerate(pieces):
            piece.fill_(number)
        assert [piece.shape for piece in pieces] == [torch.Size(shape) for shape in shapes]
        assert all((piece == number).all() for number, piece in enumerate(pieces))
        addresses.append([piece.data_ptr() for piece in pieces if piece.numel()])
        scratch.reset()
    assert addresses[0] == addresses[1] == addresses[2]
    assert all(address % 16 == 0 for address in addresses[0])


def test_scratch_memory_keeps_no_more_than_its_limit(monkeypatch):
    monkeypatch.setattr(Scratch, "CHUNK_BYTES", 1024)
    monkeypatch.setattr(Scratch, "KEPT_BYTES", 2048)
    scratch = Scratch()
    for _ in range(5):
        scratch.new((1000,), torch.uint8)
    scratch.shrink()
    assert sum(map(len, scratch._chunks)) == 2048
    assert scratch.new((3000,), torch.uint8).shape == (3000,)


def test_rows_that_change_their_shape_are_refused():
    buffer = SiteBuffer(Scratch())
    buffer.append(torch.zeros(4, 8))
    with pytest.raises(ValueError, match="rows of"):
        buffer.append(torch.zeros(4, 9))
