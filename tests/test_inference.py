"""The simple functions: what they return, what they save, and what is refused before a model is loaded."""

import inspect
from pathlib import Path

import pytest
import torch

import actframe
from actframe import (
    Question,
    Selection,
    answer_benchmark_question,
    answer_benchmark_question_with_activations,
    generate_inference,
    generate_inference_with_activations,
    load_activations,
)
from actframe.benchmarks.general import General
from actframe.errors import (
    BenchmarkError,
    ModelError,
    PromptError,
    SettingsError,
    SiteError,
    StorageError,
    UnknownNameError,
)
from actframe.runs.generation import GenerationSettings, generate_responses
from actframe.runs.models import LoadedModel
from actframe.testing import tiny_model, tiny_tokenizer

CLASSIC = {"prompt", "response", "model", "timestamp", "input_ids", "activations"}
BENCHMARK = {
    "question_id",
    "trial",
    "subject",
    "expected",
    "extracted_answer",
    "correct",
    "unparsed",
    "truncated",
}
PLANET = {
    "question": "Which planet is known as the Red Planet?",
    "choices": ["Venus", "Mars", "Jupiter", "Saturn"],
    "answer": "Mars",
    "subject": "astronomy",
}


@pytest.fixture(scope="module")
def tiny():
    return LoadedModel("tiny", tiny_model("llama", max_position_embeddings=512), tiny_tokenizer())


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one.keys() - {"activations"}:
        assert one[key] == other[key], key
    assert list(one["activations"]) == list(other["activations"])
    for site, tensor in one["activations"].items():
        assert torch.equal(tensor, other["activations"][site])
        assert tensor.dtype == other["activations"][site].dtype


def test_a_prompt_gives_the_response_as_text(tiny):
    (expected,) = generate_responses(tiny, ["hello"], GenerationSettings(max_new_tokens=5))
    assert generate_inference("hello", tiny, max_new_tokens=5) == expected.text


def test_a_loaded_model_comes_with_its_tokenizer(tiny):
    expected = generate_inference("hello", tiny, max_new_tokens=5)
    assert generate_inference("hello", tiny.model, tokenizer=tiny.tokenizer, max_new_tokens=5) == expected


def test_capturing_returns_a_second_value_and_the_same_response(tiny):
    text = generate_inference("hello", tiny, max_new_tokens=5)
    response, data = generate_inference("hello", tiny, capture_activations=True, max_new_tokens=5)
    assert response == text == data["response"]
    assert type(data) is type(data["activations"]) is dict
    assert data.keys() >= CLASSIC
    assert (data["prompt"], data["model"]) == ("hello", "tiny")
    assert list(data["activations"]) == ["embeddings", "layer_0", "layer_1", "layer_2", "layer_3"]
    fed = len(data["input_ids"]) + len(data["output_ids"]) - 1
    assert {tuple(tensor.shape) for tensor in data["activations"].values()} == {(fed, 32)}


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors", ".safetensors.zst"])
def test_what_is_saved_loads_back_as_what_was_returned(suffix, tiny, tmp_path):
    path = tmp_path / f"saved{suffix}"
    _, data = generate_inference_with_activations("hello", tiny, path, max_new_tokens=4)
    assert_same(load_activations(path), data)


def test_without_a_path_nothing_is_saved(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate_inference_with_activations("hello", tiny, max_new_tokens=2)
    answer_benchmark_question(PLANET, tiny, capture_activations=True, max_new_tokens=2)
    answer_benchmark_question_with_activations(PLANET, tiny, save_activations=False, max_new_tokens=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("layers", "sites"),
    [
        ([0, 2], ["layer_0", "layer_2"]),
        ([-1], ["layer_3"]),
        ([3, -4], ["layer_0", "layer_3"]),
        (1, ["layer_1"]),
        (["embeddings", "layer_1.mlp_out"], ["embeddings", "layer_1.mlp_out"]),
        (Selection("layer_*", positions="last"), ["layer_0", "layer_1", "layer_2", "layer_3"]),
    ],
)
def test_layers_count_from_0_and_backwards_from_the_end(layers, sites, tiny):
    _, data = generate_inference_with_activations("hello", tiny, layers_to_capture=layers, max_new_tokens=2)
    assert list(data["activations"]) == data["sites"] == sites


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_does_not_exist_says_how_many_there_are(layer, tiny):
    with pytest.raises(SiteError, match=f"no layer {layer}: the number of layers is 4"):
        generate_inference_with_activations("hello", tiny, layers_to_capture=[layer])


def test_a_question_gives_response_and_answer(tiny):
    response, answer = answer_benchmark_question(PLANET, tiny, max_new_tokens=5)
    assert isinstance(response, str)
    assert answer is None
    again, answer, data = answer_benchmark_question(PLANET, tiny, capture_activations=True, max_new_tokens=5)
    assert (again, answer) == (response, None)
    assert data.keys() >= CLASSIC | BENCHMARK
    assert (data["expected"], data["correct"], data["unparsed"]) == ("B", False, True)
    assert data["subject"] == "astronomy"


def test_a_question_without_an_expected_answer_is_neither_right_nor_wrong(tiny):
    *_, data = answer_benchmark_question("What is 2 + 2?", tiny, capture_activations=True, max_new_tokens=2)
    assert (data["expected"], data["correct"], data["trial"]) == (None, None, 0)
    assert data["prompt"] == "What is 2 + 2?\nAnswer:"


def test_a_question_of_a_benchmark_is_put_and_read_by_it(tiny):
    question = next(iter(General().questions()))

    class Loud(General):
        def prompt(self, question):
            return question.text.upper()

        def extract_answer(self, response, question):
            return question.answer

    *_, answer, data = answer_benchmark_question(
        question, tiny, capture_activations=True, benchmark=Loud(), max_new_tokens=2
    )
    assert (answer, data["correct"], data["question_id"]) == (question.answer, True, question.id)
    assert data["prompt"] == f"{question.text.upper()}\nAnswer:"


def test_a_question_is_saved_under_the_time_and_the_prompt(tiny, tmp_path):
    folder = tmp_path / "made" / "on the way"
    *_, data = answer_benchmark_question_with_activations(PLANET, tiny, activation_save_dir=folder, max_new_tokens=3)
    (path,) = folder.iterdir()
    assert path.match("benchmark_activations_2*_Which_planet_is_known_as_the_Red_Planet*.pkl")
    assert_same(load_activations(path), data)
    answer_benchmark_question_with_activations(
        PLANET, tiny, True, folder, [0], storage="zstd", strategy="output_hidden_states", max_new_tokens=3
    )
    (path,) = folder.glob("*.safetensors.zst")
    assert list(load_activations(path)["activations"]) == ["layer_0"]
    assert load_activations(path)["strategy"] == "output_hidden_states"


def test_the_folder_is_activations_in_the_current_one_by_default(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer_benchmark_question_with_activations("What is 1 + 1?", tiny, max_new_tokens=2)
    assert len(list(Path("activations").glob("benchmark_activations_*_What_is_1_1_Answer.pkl"))) == 1


def test_settings_reach_the_generation(tiny):
    drawn = {"temperature": 1.0, "top_p": 0.9, "seed": 3, "max_new_tokens": 12}
    assert generate_inference("hello", tiny, **drawn) == generate_inference("hello", tiny, **drawn)
    texts = {generate_inference("hello", tiny, **{**drawn, "seed": seed}) for seed in range(4)}
    assert len(texts) > 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: generate_inference_with_activations("x", "none/such", f / "no" / "x.pkl"),
            StorageError,
            "no does not",
        ),
        (lambda f: generate_inference_with_activations("x", "none/such", f / "x.onnx"), UnknownNameError, "'.onnx'"),
        (lambda f: generate_inference_with_activations("x", "none/such", strategy="h"), UnknownNameError, "strategy"),
        (
            lambda f: answer_benchmark_question_with_activations("x", "none/such", storage="zip"),
            UnknownNameError,
            "no storage backend named 'zip'",
        ),
        (
            lambda f: answer_benchmark_question_with_activations("x", "none/such", activation_save_dir=f / "file"),
            StorageError,
            "cannot write to the folder",
        ),
        (
            lambda f: answer_benchmark_question({"text": "x"}, "none/such"),
            BenchmarkError,
            "lacks the column 'question'",
        ),
        (lambda f: generate_inference("x", "none/such", temperature=-1), SettingsError, "temperature is -1"),
        (
            lambda f: generate_inference("x", "none/such", layers_to_capture=[1]),
            SettingsError,
            "capture_activations=True",
        ),
        (
            lambda f: generate_inference("x", "none/such", max_tokens=3),
            TypeError,
            r"no option 'max_tokens' \(did you mean 'max_new_tokens'\?\); there are chat, ",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(call, error, message, tmp_path, monkeypatch):
    """The model does not exist either: that would be the error if it came first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(error, match=message):
        call(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bad_prompts_and_models_are_errors_of_their_own(tiny):
    with pytest.raises(PromptError, match="prompt 0 of 1 is empty"):
        generate_inference("", tiny)
    with pytest.raises(PromptError, match="is too long: 600 tokens"):
        generate_inference("x" * 600, tiny)
    with pytest.raises(ModelError, match="'LlamaForCausalLM' has no tokenizer"):
        generate_inference("x", tiny.model)
    with pytest.raises(ModelError, match="has no chat template"):
        generate_inference("x", tiny, chat=True)
    with pytest.raises(ModelError, match="'none/such' is not in the local"):
        generate_inference("x", "none/such")


def test_the_signatures_are_those_that_existing_code_calls():
    names = {
        "generate_inference": ["prompt", "model"],
        "generate_inference_with_activations": ["prompt", "model", "save_path", "layers_to_capture"],
        "answer_benchmark_question": ["question", "model"],
        "answer_benchmark_question_with_activations": [
            "question",
            "model",
            "save_activations",
            "activation_save_dir",
            "layers_to_capture",
        ],
    }
    for name, expected in names.items():
        parameters = inspect.signature(getattr(actframe, name)).parameters.values()
        assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == expected
    defaults = inspect.signature(answer_benchmark_question_with_activations).parameters
    assert defaults["save_activations"].default is True
    assert defaults["activation_save_dir"].default == "activations"


def test_smollm2_answers_a_question_with_its_activations(smollm2, tmp_path):
    question = Question("q", "What is the capital of France?", "B", choices=("Lyon", "Paris", "Nice"))
    response, answer, data = answer_benchmark_question_with_activations(
        question, smollm2, activation_save_dir=tmp_path, layers_to_capture=[0, -1], max_new_tokens=16
    )
    assert "Paris" in response
    assert answer == "B"
    assert data["correct"] is True
    assert list(data["activations"]) == ["layer_0", "layer_29"]
    (path,) = tmp_path.iterdir()
    assert_same(load_activations(path), data)
