"""Axes of tensors, decided by what a place says and never by sizes that happen to be equal."""

import pytest
import torch

from actframe import ActivationRecorder, CaptureError
from actframe.capture.axes import call_shape, to_rows
from actframe.capture.calls import Call
from actframe.capture.parts import Place
from actframe.testing import tiny_model

N = 4
EQUAL = Call(rows=N, width=N)
"""As many rows as columns; the tensors below have as many heads, streams and features too."""


def numbered(*shape):
    return torch.arange(N**4)[: torch.Size(shape).numel()].view(shape)


def read(axes, tensor, call=EQUAL, streams=N):
    return to_rows("site", Place("m", axes=axes, streams=streams), tensor, call)


def cell(rows, row, column):
    """What a table of rows has for one row and column of the call."""
    return rows.unflatten(0, (N, N))[row, column]


@pytest.mark.parametrize(
    ("axes", "shape", "of"),
    [
        ("residual", (N, N, N), lambda t, row, column: t[row, column]),
        ("residual", (N * N, N), lambda t, row, column: t.view(N, N, N)[row, column]),
        ("flat", (N * N, N), lambda t, row, column: t.view(N, N, N)[row, column]),
        ("pos_first", (N, N, N), lambda t, row, column: t[column, row]),
        ("pos_first", (N * N, N), lambda t, row, column: t.view(N, N, N)[column, row]),
        ("streams", (N, N, N, N), lambda t, row, column: t[row, column]),
        ("streams_first", (N, N, N, N), lambda t, row, column: t[:, row, column]),
        ("packed_streams", (N, N, N * N), lambda t, row, column: t[row, column].view(N, N)),
        ("logits", (N, N, N), lambda t, row, column: t[row, column]),
        ("unknown", (N, N, N), lambda t, row, column: t[row, column]),
    ],
)
def test_equal_sizes_are_told_apart_by_what_the_place_says(axes, shape, of):
    tensor = numbered(*shape)
    rows, first = read(axes, tensor)
    assert first == 0
    for row in range(N):
        for column in range(N):
            assert torch.equal(cell(rows, row, column), of(tensor, row, column))


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("residual", (N, N, N, N)),
        ("residual", (N, N)),
        ("flat", (N, N, N)),
        ("pos_first", (N, N, N, N)),
        ("streams", (N, N, N)),
        ("streams_first", (N, N, N)),
        ("packed_streams", (N, N, N + 1)),
        ("unknown", (N, N, N, N)),
        ("unknown", (N * N, N)),
        ("unknown", (N, N)),
        ("unknown", (N,)),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(axes, shape):
    with pytest.raises(CaptureError, match=r"site has shape \(.*only tensors \(.*\) can be told apart.*layout="):
        read(axes, torch.zeros(shape))


def test_the_streams_must_be_as_many_as_the_model_has():
    with pytest.raises(CaptureError, match="stream"):
        read("streams", torch.zeros(N, N, 3, N))
    with pytest.raises(CaptureError, match="stream"):
        read("streams_first", torch.zeros(3, N, N, N))


def test_rows_that_may_be_routed_tokens_are_refused_and_say_so():
    with pytest.raises(CaptureError, match="may be the tokens of all sequences, or some of them in another order"):
        read("unknown", torch.zeros(N * N, 2))


def test_a_module_of_heads_is_taken_where_its_positions_are_certain():
    heads = torch.randn(N, N, N + 1, 3)
    assert torch.equal(read("unknown", heads)[0], heads.flatten(0, 1))
    with pytest.raises(CaptureError, match="two of its axes are as long as the sequence"):
        read("unknown", torch.randn(N, N, N, 3))
    one = Call(rows=N, width=1)
    assert read("unknown", torch.randn(N, 1, 1, 3), one)[0].shape == (N, 1, 3)


def test_logits_of_the_last_columns_say_which_is_the_first():
    tensor = torch.randn(N, 1, 7)
    rows, first = read("logits", tensor)
    assert (rows.shape, first) == ((N, 7), N - 1)
    assert read("logits", torch.randn(N * N, 7))[0].shape == (N * N, 7)
    with pytest.raises(CaptureError, match="not logits that an index chose"):
        read("logits", torch.randn(N, N, 7), Call(rows=N, width=N, logits_by_index=True))


def test_what_is_read_is_detached_and_not_copied_in_the_ordinary_case():
    tensor = torch.randn(N, N, N, requires_grad=True)
    rows, _ = read("residual", tensor)
    assert not rows.requires_grad
    assert rows.data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("residual", (2, 3, 8), (2, 3)),
        ("residual", (6, 8), (1, 6)),
        ("flat", (6, 8), (1, 6)),
        ("pos_first", (3, 2, 8), (2, 3)),
        ("streams", (2, 3, 4, 8), (2, 3)),
        ("streams_first", (4, 2, 3, 8), (2, 3)),
        ("pattern", (2, 4, 3, 3), (2, 3)),
        ("unknown", (2, 3, 8), (2, 3)),
        ("unknown", (2, 3, 4, 8), (2, 3)),
        ("unknown", (2, 8), (2, 1)),
    ],
)
def test_a_call_whose_arguments_do_not_tell_is_as_its_first_tensor_says(axes, shape, expected):
    assert call_shape("site", Place("m", axes=axes), torch.zeros(shape)) == expected


@pytest.mark.parametrize(("axes", "shape"), [("residual", (2, 3, 4, 8)), ("unknown", (2,)), ("pattern", (2, 3, 8))])
def test_a_first_tensor_that_does_not_tell_either_is_refused(axes, shape):
    with pytest.raises(CaptureError, match="does not tell what are its positions"):
        call_shape("site", Place("m", axes=axes), torch.zeros(shape))


def test_a_module_that_gives_a_known_site_is_laid_out_as_that_site_is():
    model, ids = tiny_model("mixtral"), torch.tensor([[1, 2, 3, 4]] * 4)
    with torch.no_grad(), ActivationRecorder(model, ["layer_0.router_logits", "module:model.layers.0.mlp.gate"]) as rec:
        model(ids)
    ours, theirs = rec.activations.values()
    assert torch.equal(ours, theirs)
    with pytest.raises(CaptureError, match="not logits that an index chose"):
        with torch.no_grad(), ActivationRecorder(model, "module:lm_head"):
            model(ids, logits_to_keep=torch.tensor([3, 2, 1, 0]))


def test_a_plain_module_of_features_has_one_position_in_each_row():
    model, values = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.randn(4, 4)
    with torch.no_grad(), ActivationRecorder(model, "module:1") as recorder:
        expected = model(values)
    assert torch.equal(recorder.activations["module:1"], expected[:, None])
