"""The names of the files that hold one answer each."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actframe.storage.file_names import activation_file_name
from actframe.storage.files import backend_for


@pytest.mark.parametrize(
    ("prompt", "stem"),
    [
        ("What is the capital of France?", "What_is_the_capital_of_France"),
        ("", "prompt"),
        ("???", "prompt"),
        ("../../etc/passwd", "etc_passwd"),
        ('a/b\\c:d*e?f"g<h>i|j\0k\nl', "a_b_c_d_e_f_g_h_i_j_k_l"),
        ("...hidden", "hidden"),
        ("日本の首都は。", "日本の首都は"),
        ("Cafe\u0301", "Café"),
        ("\ud83d x", "x"),
        ("x" * 300, "x" * 60),
        ("首" * 300, "首" * 20),
        (
            "one two three four five six seven eight nine ten eleven twelve",
            "one_two_three_four_five_six_seven_eight_nine_ten_eleven",
        ),
    ],
)
def test_a_prompt_becomes_a_portable_name(prompt, stem):
    moment = datetime(2024, 9, 15, 14, 30, 22, 123456)
    assert activation_file_name(prompt, ".pkl", moment) == f"benchmark_activations_20240915_143022_123456_{stem}.pkl"


def test_suffixes_may_come_without_their_dot():
    assert activation_file_name("x", "safetensors.zst").endswith("_x.safetensors.zst")
    assert backend_for(activation_file_name("x", "safetensors.zst")).name == "zstd"


@given(st.text())
def test_any_prompt_becomes_a_name_that_can_be_saved(tmp_path_factory, prompt):
    name = activation_file_name(prompt, ".pkl")
    assert len(name.encode()) < 128
    assert not set(name) & set('/\\:*?"<>|\0\n\r\t ')
    folder = tmp_path_factory.mktemp("names")
    (folder / name).touch()
    assert [file.name for file in folder.iterdir()] == [name]


def test_names_made_one_after_the_other_differ():
    assert len({activation_file_name("same", ".pkl") for _ in range(200)}) == 200
