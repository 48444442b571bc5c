import math

import pytest
import torch

from actframe.analysis.similarity import compare_records, cosine_similarity, linear_cka
from actframe.errors import SelectionError, SiteError


def noise(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_record(prompt, seed=0, rows=8, width=6, **changes):
    values = {
        "prompt": prompt,
        "model": "smollm2",
        "activations": {"embeddings": noise(rows, width, seed), "layer_0": noise(rows, width, seed + 1)},
        "positions": list(range(rows)),
        "site_positions": {},
        "prompt_length": rows - 2,
    }
    return {**values, **changes}


def test_a_record_is_like_itself():
    record = make_record("one")
    for result in compare_records(record, record):
        assert result.cosine == pytest.approx(1)
        assert result.cka == pytest.approx(1)
        assert result.norm_first == result.norm_second


def test_each_record_is_read_at_the_end_of_its_own_prompt():
    first, second = make_record("one", rows=8), make_record("two", seed=5, rows=9)
    (result,) = compare_records(first, second, "last_prompt", sites=["layer_0"])
    here, there = first["activations"]["layer_0"][5], second["activations"]["layer_0"][6]
    assert result.cosine == pytest.approx(float(here @ there / (here.norm() * there.norm())))
    assert (result.norm_first, result.norm_second) == (float(here.norm()), float(there.norm()))


def test_cka_is_computed_over_shared_positions_but_the_attention_sink():
    first = make_record("one", positions=[0, 1, 2, 3, 4, 5, 6, 7])
    second = make_record("two", seed=5, positions=[2, 3, 4, 5, 6, 7, 8, 9], prompt_length=4)
    (result,) = compare_records(first, second, "last", sites=["embeddings"])
    here, there = first["activations"]["embeddings"][2:], second["activations"]["embeddings"][:6]
    assert result.cka_positions == 6
    assert result.cka == pytest.approx(linear_cka(here, there))
    sunk = make_record("one", activations={"embeddings": first["activations"]["embeddings"].clone()})
    sunk["activations"]["embeddings"][0] = 1e9
    assert compare_records(sunk, first, "last")[0].cka == pytest.approx(1)


def test_cka_is_left_out_where_too_few_positions_are_shared():
    first, second = make_record("one"), make_record("two", positions=[5, 6, 7, 8, 9, 10, 11, 12])
    (result,) = compare_records(first, second, "last", sites=["embeddings"])
    assert (result.cka, result.cka_positions) == (None, 3)


def test_records_without_a_common_site_are_both_named_with_what_they_have():
    first = make_record("What is iron?", activations={"layer_0": torch.ones(8, 6)})
    second = make_record("What is gold?", activations={"layer_7": torch.ones(8, 6)})
    message = r"What is iron\?' has layer_0, .*What is gold\?' has layer_7; they share no site"
    with pytest.raises(SiteError, match=message):
        compare_records(first, second)


def test_a_site_that_the_first_record_lacks_is_an_error():
    with pytest.raises(SiteError, match="no site 'layer_9'"):
        compare_records(make_record("one"), make_record("two"), sites=["layer_9"])


def test_vectors_of_different_models_are_an_error_that_gives_both_widths():
    with pytest.raises(SelectionError, match=r"width 6 in .* and 5 in .*: they come from different models"):
        compare_records(make_record("one"), make_record("two", width=5))


def test_attention_patterns_are_not_compared():
    patterns = {"layer_0.attn_probs": torch.ones(2, 8, 8)}
    with pytest.raises(SiteError, match=r"share no site of \(pos, d_model\)"):
        compare_records(make_record("one", activations=patterns), make_record("two", activations=patterns))
    mixed = make_record("one", activations={"layer_0": noise(8, 6), **patterns})
    assert [result.site for result in compare_records(mixed, mixed)] == ["layer_0"]


def test_the_cosine_of_opposite_vectors_is_minus_one():
    vector = noise(1, 5)[0]
    assert cosine_similarity(vector, -3 * vector) == pytest.approx(-1)


def test_the_cosine_with_a_zero_vector_is_nan():
    assert math.isnan(cosine_similarity(torch.zeros(3), torch.ones(3)))


def test_the_cosine_of_half_precision_does_not_overflow():
    large = torch.full((4,), 60000.0, dtype=torch.float16)
    assert cosine_similarity(large, large) == pytest.approx(1)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_does_not_see_rotation_scale_or_shift(debiased):
    rows = noise(20, 6)
    rotation = torch.linalg.qr(noise(6, 6, seed=1)).Q
    assert linear_cka(rows, 7 * rows @ rotation + 3, debiased=debiased) == pytest.approx(1)


def test_the_plain_estimator_is_the_feature_form_of_the_paper():
    first, second = noise(20, 6), noise(20, 9, seed=1)
    x, y = first - first.mean(dim=0), second - second.mean(dim=0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(first, second, debiased=False) == pytest.approx(float(expected))


def test_the_cka_of_noise_is_near_zero_only_without_the_bias():
    first, second = noise(60, 576), noise(60, 576, seed=1)
    assert abs(linear_cka(first, second)) < 0.1
    assert linear_cka(first, second, debiased=False) > 0.8


def test_the_unbiased_estimator_has_no_bias_over_many_draws():
    draws = [linear_cka(noise(10, 30, seed), noise(10, 30, seed + 500)) for seed in range(300)]
    assert abs(sum(draws) / len(draws)) < 0.02


def test_cka_of_something_that_does_not_vary_is_nan():
    assert math.isnan(linear_cka(torch.ones(6, 3), noise(6, 3)))


@pytest.mark.parametrize(("rows", "others"), [(3, 3), (6, 5)])
def test_cka_of_too_few_or_unpaired_rows_is_an_error(rows, others):
    with pytest.raises(SelectionError, match=f"got {rows} rows and {others} rows"):
        linear_cka(noise(rows, 4), noise(others, 4))
