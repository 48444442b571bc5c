import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actframe.analysis import stats
from actframe.analysis.stats import record_stats, row_norms, site_stats


def test_the_numbers_are_those_of_the_definitions():
    tensor = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, -12.0]])
    result = site_stats("layer_0", tensor, positions=[7, 9])
    values = [3, 4, 0, 0, 0, -12]
    mean = sum(values) / 6
    second = sum((value - mean) ** 2 for value in values) / 6
    fourth = sum((value - mean) ** 4 for value in values) / 6
    assert (result.site, result.shape, result.dtype) == ("layer_0", (2, 3), "float32")
    assert result.mean == pytest.approx(mean)
    assert result.std == pytest.approx(math.sqrt(second))
    assert result.kurtosis == pytest.approx(fourth / second**2)
    assert (result.norm_mean, result.norm_median, result.norm_max) == (8.5, 8.5, 12.0)
    assert (result.norm_max_position, result.max_abs, result.max_abs_at) == (9, 12.0, (9, 2))
    assert (result.zero_fraction, result.nonfinite) == (0.5, 0)


def test_the_kurtosis_of_gaussian_noise_is_three():
    noise = torch.randn(400, 500, generator=torch.Generator().manual_seed(0))
    assert site_stats("noise", noise).kurtosis == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
def test_the_largest_values_of_a_dtype_do_not_overflow(dtype):
    largest = torch.finfo(dtype).max if dtype != torch.float64 else 1e60
    tensor = torch.tensor([[largest, -largest], [largest, -largest]], dtype=torch.float64).to(dtype)
    result = site_stats("layer_0", tensor)
    assert result.mean == 0
    assert result.std == pytest.approx(largest)
    assert result.kurtosis == pytest.approx(1)
    assert result.norm_max == pytest.approx(largest * math.sqrt(2))


def test_a_large_mean_costs_no_precision():
    tensor = torch.tensor([[1e8 - 1, 1e8 + 1]], dtype=torch.float64)
    assert site_stats("layer_0", tensor).std == pytest.approx(1)


def test_values_that_are_not_finite_are_counted_and_left_out():
    tensor = torch.tensor([[1.0, math.nan], [math.inf, 2.0], [3.0, 4.0]])
    result = site_stats("layer_0", tensor)
    assert result.nonfinite == 2
    assert result.mean == 2.5
    assert (result.norm_mean, result.norm_max_position) == (5.0, 2)
    assert (result.max_abs, result.max_abs_at) == (4.0, (2, 1))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_a_site_without_values_gives_nan_and_no_error(shape):
    result = site_stats("layer_0", torch.zeros(shape))
    assert math.isnan(result.mean)
    assert result.max_abs_at is None
    assert result.nonfinite == 0


def test_a_site_of_nan_alone_gives_nan_and_no_place():
    result = site_stats("layer_0", torch.full((2, 2), math.nan))
    assert math.isnan(result.max_abs)
    assert (result.max_abs_at, result.norm_max_position, result.nonfinite) == (None, None, 4)


def test_a_constant_site_has_no_kurtosis():
    assert math.isnan(site_stats("layer_0", torch.ones(2, 2)).kurtosis)


def test_the_place_in_an_attention_pattern_is_head_position_key():
    pattern = torch.zeros(2, 3, 4)
    pattern[1, 2, 0] = 1
    result = site_stats("layer_0.attn_probs", pattern, positions=[10, 11, 12])
    assert (result.max_abs_at, result.norm_max_position) == ((1, 12, 0), 12)


def test_integers_and_booleans_are_described_too():
    assert site_stats("ids", torch.tensor([[1, 2]])).mean == 1.5
    assert site_stats("mask", torch.tensor([[True, False]])).zero_fraction == 0.5


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 9), width=st.integers(1, 9), block=st.integers(1, 20), seed=st.integers(0, 1000))
def test_blocks_give_what_the_whole_tensor_gives(rows, width, block, seed):
    tensor = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    whole = site_stats("layer_0", tensor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "_BLOCK_VALUES", block)
        pieces = site_stats("layer_0", tensor)
    assert pieces.max_abs_at == whole.max_abs_at == tuple(divmod(int(tensor.abs().argmax()), width))
    assert pieces.norm_max_position == whole.norm_max_position
    assert [pieces.mean, pieces.std] == pytest.approx([whole.mean, whole.std])
    assert pieces.kurtosis == pytest.approx(whole.kurtosis, nan_ok=True)


def test_row_norms_keep_all_axes_but_the_last():
    assert row_norms(torch.full((2, 3, 4), 0.5)).tolist() == [[1.0] * 3] * 2
    assert row_norms(torch.zeros(0, 4)).shape == (0,)


def test_a_record_is_described_site_by_site_in_its_order():
    record = {
        "model": "smollm2",
        "activations": {"embeddings": torch.ones(2, 3), "layer_0": torch.full((2, 3), 2.0)},
        "positions": [4, 5],
    }
    assert [result.site for result in record_stats(record)] == ["embeddings", "layer_0"]
    (only,) = record_stats(record, sites=["layer_*"])
    assert (only.site, only.mean, only.norm_max_position) == ("layer_0", 2.0, 4)


def test_a_lazy_record_is_read_one_site_at_a_time_and_once():
    reads = []

    class Lazy(dict):
        def __getitem__(self, site):
            reads.append(site)
            return super().__getitem__(site)

    record_stats({"activations": Lazy(embeddings=torch.ones(2, 3), layer_0=torch.ones(2, 3))})
    assert reads == ["embeddings", "layer_0"]
