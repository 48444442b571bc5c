"""Where a sequence has images, videos and sound."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig
from zoo.outcome import accepted_inputs, build, run

from actframe import ActivationRecorder
from actframe.capture.media import media_positions, placeholders


@pytest.mark.parametrize(
    ("config", "ids", "expected"),
    [
        ({"image_token_id": 9}, [9, 9, 1, 9], {"image": [[0, 2], [3, 4]]}),
        ({"image_token_index": 9, "video_token_index": 8}, [1, 8, 8, 9], {"image": [[3, 4]], "video": [[1, 3]]}),
        ({"audio_token_id": 7, "image_token_id": 9}, [7, 9, 7], {"image": [[1, 2]], "audio": [[0, 1], [2, 3]]}),
        ({"image_token_id": 9, "video_token_id": 9}, [9, 1], {"image": [[0, 1]]}),
        ({"image_token_id": 9, "image_start_token_id": 5}, [5, 9, 6], {"image": [[1, 2]]}),
        ({"image_token_id": 9}, [1, 2, 3], {}),
        ({"image_token_id": 9}, [], {}),
        ({"image_token_id": None}, [1, 2], {}),
        ({"image_token_id": True}, [1, 2], {}),
        ({}, [1, 2], {}),
    ],
)
def test_runs_of_placeholders_are_found(config, ids, expected):
    found = media_positions(placeholders(SimpleNamespace(**config)), ids)
    assert found == expected
    assert list(found) == list(expected)
    assert json.loads(json.dumps(found)) == found


def test_a_model_without_a_configuration_has_no_media():
    assert media_positions(placeholders(None), [1, 2, 3]) == {}


@pytest.mark.parametrize(
    ("kind", "name", "of"),
    [
        ("qwen2_vl", "image_token_id", "image"),
        ("qwen2_vl", "video_token_id", "video"),
        ("llava", "image_token_id", "image"),
        ("gemma3", "image_token_id", "image"),
        ("qwen2_audio", "audio_token_id", "audio"),
    ],
)
def test_configurations_of_transformers_name_their_placeholders(kind, name, of):
    config = AutoConfig.for_model(kind)
    token = getattr(config, name, None)
    assert token is not None
    assert media_positions(placeholders(config), [1, token, token, 2]) == {of: [[1, 3]]}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("qwen2_vl", "Qwen2VLForConditionalGeneration"), ("llava", "LlavaForConditionalGeneration")],
)
def test_a_record_says_where_its_images_are(kind, name):
    model = build(kind, name)
    inputs = accepted_inputs(kind, model)
    token = model.config.image_token_id
    with ActivationRecorder(model, "embeddings") as recorder:
        run(model, inputs)
    for record, row in zip(recorder.records, inputs["input_ids"].tolist(), strict=True):
        ((first, stop),) = record.media["image"]
        assert [position for position, each in enumerate(row) if each == token] == list(range(first, stop))


def test_a_record_of_text_has_no_media(tiny_llama):
    model, _ = tiny_llama
    with ActivationRecorder(model, "embeddings") as recorder:
        model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False)
    assert "media" not in recorder.records[0]
