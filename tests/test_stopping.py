"""Texts that end responses: each row at its own, and records that hold what was generated."""

import pytest
import torch
import toys
from toys import Toy

from actframe import ActivationStore
from actframe.runs.generation import GenerationSettings, Request, generate_batch
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun
from actframe.testing import tiny_model, tiny_tokenizer

PROMPTS = [[1, 7, 9], [1, 5], [1, 8, 8, 8], [1, 20, 30]]
SETTINGS = GenerationSettings(max_new_tokens=12)


def answered(loaded, stops):
    requests = [Request(ids, 0, tuple(own)) for ids, own in zip(PROMPTS, stops, strict=True)]
    return generate_batch(loaded, requests, SETTINGS)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def loaded(request):
    return LoadedModel("tiny", tiny_model(request.param), tiny_tokenizer())


def stop_within(response):
    """Two characters from the middle of what a response says freely."""
    place = len(response.text) // 2
    return response.text[place : place + 2]


def test_each_response_ends_before_its_own_stop_and_others_go_on(loaded):
    free = answered(loaded, [[], [], [], []])
    stops = [[stop_within(free[0])], [], ["never to be seen", stop_within(free[2])], []]
    stopped = answered(loaded, stops)
    for row in (1, 3):
        assert stopped[row] == free[row]
    for row in (0, 2):
        assert stopped[row].text == free[row].text.partition(stops[row][-1])[0]
        assert not stopped[row].truncated
        length = len(stopped[row].output_ids)
        assert length < len(free[row].output_ids)
        assert stopped[row].output_ids == free[row].output_ids[:length]
        assert stops[row][-1] in loaded.tokenizer.decode(stopped[row].output_ids)
        assert stops[row][-1] not in loaded.tokenizer.decode(stopped[row].output_ids[:-1])
    alone = [generate_batch(loaded, [Request(PROMPTS[row], 0, tuple(stops[row]))], SETTINGS)[0] for row in range(4)]
    assert stopped == alone


def test_a_stop_that_the_prompt_has_begun_does_not_count(tiny_llama):
    loaded = LoadedModel("tiny", *tiny_llama)
    ids = loaded.tokenizer("one?").input_ids
    (free,) = generate_batch(loaded, [Request(ids)], SETTINGS)
    (same,) = generate_batch(loaded, [Request(ids, 0, ("?" + free.text[0],))], SETTINGS)
    assert same == free


class Stopping(Toy):
    """Each question ends at stops of its own."""

    name = "stopping"

    def __init__(self, stops):
        self._stops = stops

    def stops(self, question):
        return self._stops.get(question.id, ())


@pytest.mark.parametrize("pad", ["eos", "own"])
def test_records_hold_what_was_generated_with_the_stop_and_nothing_after_it(pad, tiny, tmp_path):
    if pad == "eos":
        tokenizer = tiny_tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        tiny = LoadedModel("tiny", tiny.model, tokenizer)
    plain = BenchmarkRun(tiny, Toy(), tmp_path / "plain", toys.settings(capture=CaptureSettings())).execute()
    free = {answer["question_id"]: answer["response"] for answer in plain.answers}
    stops = {key: (text[2:4],) for key, text in free.items() if key in ("toy/1", "toy/4", "toy/8")}
    BenchmarkRun(tiny, Stopping(stops), tmp_path / "out", toys.settings(capture=CaptureSettings())).execute()
    whole = {record.question_id: record for record in ActivationStore(tmp_path / "plain")}
    for record in ActivationStore(tmp_path / "out"):
        other = whole[record.question_id]
        assert record.output_ids == other.output_ids[: len(record.output_ids)]
        assert len(record.positions) == len(record.input_ids) + len(record.output_ids) - 1
        for site, tensor in record.activations.items():
            assert torch.allclose(tensor, other.activations[site][: len(tensor)], atol=1e-5)
        if record.question_id in stops:
            assert record.response == free[record.question_id].partition(stops[record.question_id][0])[0]
            assert record.output_tokens == len(record.output_ids) < len(other.output_ids)
            assert not record.truncated
        else:
            assert record.response == free[record.question_id]
