"""Texts in, activations out: bit for bit those of a whole forward pass, and nothing computed above the last site."""

import contextlib

import pytest
import torch
from toys import hooks_of, no_forward

import actframe
from actframe import (
    ActivationRecorder,
    ActivationStore,
    CaptureError,
    ModelError,
    PromptError,
    Selection,
    SelectionError,
    SettingsError,
    SiteError,
    capture_texts,
)
from actframe.capture.replay import ReplayRecorder
from actframe.runs.models import LoadedModel
from actframe.runs.text_batches import WINDOW, plan_batches
from actframe.testing import tiny_model, tiny_tokenizer

TEXTS = ["one text", "a second one, which is longer", "3", "and the last of them"]
DECODERS = ["llama", "gpt2", "gemma3_text", "mixtral"]


def padded(rows):
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def whole_forward(model, rows, select):
    """The records of a plain forward pass over all rows in one batch, the longest first, in the order of the rows."""
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    with ActivationRecorder(model, select) as recorder, torch.no_grad():
        model(**padded([rows[row] for row in order]))
    found = dict(zip(order, recorder.records, strict=True))
    return [found[row] for row in range(len(rows))]


def assert_same_activations(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours.activations) == list(theirs.activations)
        assert ours.positions == theirs.positions
        for site, tensor in ours.activations.items():
            assert tensor.dtype == theirs.activations[site].dtype
            assert torch.equal(tensor, theirs.activations[site]), site


@contextlib.contextmanager
def modules_that_ran(model):
    """Inside the block, the paths of modules gather as they return."""
    ran = []
    handles = [
        module.register_forward_hook(lambda *_, path=path: ran.append(path)) for path, module in model.named_modules()
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", [*DECODERS, "bert"])
@pytest.mark.parametrize(
    "select", [1, [0, 2], None, "layer_1.mlp_out", "layer_0.resid_pre", Selection(sites=2, positions="last")], ids=str
)
def test_what_is_recorded_is_what_a_whole_forward_computes(family, select):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    found = capture_texts(model, tokenizer, TEXTS, select)
    assert_same_activations(found, whole_forward(model, [tokenizer(text).input_ids for text in TEXTS], select))


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("select", ["final_norm", "logits", ["layer_1", "logits"]], ids=str)
def test_the_forward_runs_as_far_as_the_sites_above_the_blocks(family, select):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    found = capture_texts(model, tokenizer, TEXTS, select)
    assert_same_activations(found, whole_forward(model, [tokenizer(text).input_ids for text in TEXTS], select))


def test_it_is_so_for_smollm2_in_bfloat16(smollm2):
    texts = ["The capital of France is", "Rain", "Water boils at one hundred degrees, and freezes at"]
    found = capture_texts(smollm2.model, smollm2.tokenizer, texts, [4, 8])
    rows = [smollm2.tokenizer(text).input_ids for text in texts]
    assert_same_activations(found, whole_forward(smollm2.model, rows, [4, 8]))


def test_nothing_is_computed_above_the_last_site(tiny):
    recorder = ReplayRecorder(tiny.model, [0, 1], tokenizer=None, into=[])
    with modules_that_ran(tiny.model) as ran, recorder:
        recorder.run(padded([[1, 2, 3]]))
        first = len(ran)
        recorder.run(padded([[1, 2, 3]]))
    assert "lm_head" in ran[:first], "a few tokens run through the whole model first"
    assert ran[-1] == "model.layers.1"
    assert not {"model.layers.2", "model.norm", "lm_head"} & set(ran[first:])


def test_without_logits_among_the_sites_the_head_computes_one_position_at_most(tiny):
    widths = []
    with tiny.model.lm_head.register_forward_hook(lambda _, args, output: widths.append(output.shape[1])):
        found = capture_texts(tiny.model, tiny.tokenizer, TEXTS, "module:model.layers.1.mlp.act_fn")
    assert set(widths) == {1}
    rows = [tiny.tokenizer(text).input_ids for text in TEXTS]
    assert_same_activations(found, whole_forward(tiny.model, rows, "module:model.layers.1.mlp.act_fn"))


@pytest.mark.parametrize("site", ["module:lm_head", "module:lm_head@input"])
def test_sites_by_path_get_the_whole_forward(tiny, site):
    found = capture_texts(tiny.model, tiny.tokenizer, TEXTS, site)
    assert_same_activations(found, whole_forward(tiny.model, [tiny.tokenizer(text).input_ids for text in TEXTS], site))


def test_a_block_that_runs_again_later_is_refused_and_not_taken_from_its_first_run():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    last = model.model.layers[3]
    plain = last.forward

    def forward(hidden, *args, **kwargs):
        return plain(model.model.layers[1](hidden, *args, **kwargs), *args, **kwargs)

    last.forward = forward
    with pytest.raises(CaptureError, match="ran more than once in one forward pass"):
        capture_texts(model, tokenizer, TEXTS, 1)


def test_records_say_what_they_are_and_come_in_the_order_of_the_texts(tiny):
    found = capture_texts(tiny, None, TEXTS, 1, batch_tokens=32, about=[{"label": n} for n in range(4)])
    assert [record.prompt for record in found] == TEXTS
    assert [record.text_id for record in found] == [0, 1, 2, 3]
    assert [record.label for record in found] == [0, 1, 2, 3]
    for record in found:
        assert record.recorded == "replay"
        assert record.response is None
        assert record.model == "tiny"
        assert record.input_ids == tiny.tokenizer(record.prompt).input_ids
        assert record.output_ids == []
        assert record.positions == list(range(len(record.input_ids)))
        assert record.activations["layer_1"].shape == (len(record.input_ids), 32)
        assert "prompt_tokens" not in record


def test_a_name_of_its_own_takes_the_place_of_the_number(tiny):
    (record,) = capture_texts(tiny, None, ["one"], 1, about=[{"text_id": "a-7"}])
    assert record.text_id == "a-7"


def test_no_hook_stays_also_where_a_forward_raises(tiny):
    before = hooks_of(tiny.model)
    capture_texts(tiny, None, TEXTS, 1)
    assert hooks_of(tiny.model) == before
    with tiny.model.model.layers[0].register_forward_hook(lambda *_: 1 / 0), pytest.raises(ZeroDivisionError):
        capture_texts(tiny, None, TEXTS, 1)
    assert hooks_of(tiny.model) == before


def test_token_ids_are_taken_as_they_are(tiny):
    ids = [[5, 6, 7], [8, 9]]
    found = capture_texts(tiny.model, None, ids, 1, responses=[[10], [11, 12]])
    assert [record.input_ids for record in found] == ids
    assert [record.output_ids for record in found] == [[10], [11, 12]]
    assert [record.prompt for record in found] == [None, None]


# Pairs of prompt and response.


@pytest.mark.parametrize("family", [*DECODERS, "bert"])
def test_prompt_and_response_are_computed_as_one_sequence(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    answers = ["yes, it is", "", "three", "!"]
    found = capture_texts(model, tokenizer, TEXTS, [0, 2], responses=answers)
    rows = [tokenizer(text + answer).input_ids for text, answer in zip(TEXTS, answers, strict=True)]
    assert_same_activations(found, whole_forward(model, rows, [0, 2]))
    for record, text, answer in zip(found, TEXTS, answers, strict=True):
        assert (record.prompt, record.response) == (text, answer)
        assert record.prompt_tokens == record.prompt_length == len(record.input_ids) == len(text)
        assert record.output_ids == tokenizer(answer).input_ids
        assert record.phases == ["prompt"] * len(text) + ["response"] * len(answer)


@pytest.mark.parametrize(
    ("positions", "chosen"),
    [
        ("prompt", range(5)),
        ("response", range(5, 8)),
        ("last_prompt", [4]),
        ("last", [7]),
        ([-1, 0], [0, 7]),
        (slice(3, 6), [3, 4, 5]),
    ],
    ids=str,
)
def test_positions_are_told_by_each_rows_own_boundary(tiny, positions, chosen):
    prompts, answers = ["a longer prompt", "short"], ["!", "ans"]
    everything = capture_texts(tiny, None, prompts, 1, responses=answers)[1]
    found = capture_texts(tiny, None, prompts, Selection(1, positions=positions), responses=answers)[1]
    assert found.positions == list(chosen)
    assert torch.equal(found.activations["layer_1"], everything.activations["layer_1"][list(chosen)])


def test_a_response_follows_its_prompt_in_the_chat_template(smollm2):
    (record,) = capture_texts(smollm2.model, smollm2.tokenizer, ["Capital of France?"], 1, responses=["Paris."])
    template = [{"role": "user", "content": "Capital of France?"}]
    expected = smollm2.tokenizer.apply_chat_template(template, add_generation_prompt=True, return_dict=False)
    assert record.input_ids == expected
    assert smollm2.tokenizer.decode(record.output_ids) == "Paris."
    assert record.prompt == "Capital of France?"
    (plain,) = capture_texts(smollm2.model, smollm2.tokenizer, ["Capital of France?"], 1, responses=["a"], chat=False)
    assert plain.input_ids == smollm2.tokenizer("Capital of France?").input_ids


def test_texts_alone_are_put_into_the_template_only_when_asked(smollm2):
    (plain,) = capture_texts(smollm2.model, smollm2.tokenizer, ["Hello"], 1)
    (asked,) = capture_texts(smollm2.model, smollm2.tokenizer, ["Hello"], 1, chat=True)
    assert plain.input_ids == smollm2.tokenizer("Hello").input_ids
    assert len(asked.input_ids) > len(plain.input_ids)


def test_no_token_reaches_across_the_boundary(smollm2):
    tokenizer = smollm2.tokenizer
    prompt, response = "It is a won", "derful day"
    apart = tokenizer(prompt).input_ids
    assert tokenizer(prompt + response).input_ids[: len(apart)] != apart
    (record,) = capture_texts(smollm2.model, tokenizer, [prompt], 1, responses=[response], chat=False)
    assert record.input_ids == apart
    assert record.output_ids == tokenizer(response).input_ids


def test_a_chat_template_that_is_not_there_is_an_error(tiny):
    with pytest.raises(ModelError, match="no chat template; use chat=False"):
        capture_texts(tiny, None, TEXTS, 1, chat=True)


# Encoder-decoder models.


def test_an_encoder_gets_texts_alone():
    model, tokenizer = tiny_model("t5"), tiny_tokenizer()
    found = capture_texts(model, tokenizer, TEXTS, "encoder.layer_*")
    order = sorted(range(4), key=lambda number: -len(TEXTS[number]))
    with ActivationRecorder(model.get_encoder(), "layer_*") as recorder, torch.no_grad():
        model.get_encoder()(**padded([tokenizer(TEXTS[number]).input_ids for number in order]))
    for number, reference in zip(order, recorder.records, strict=True):
        assert found[number].input_ids == reference.input_ids
        for layer in range(4):
            ours = found[number].activations[f"encoder.layer_{layer}"]
            assert torch.equal(ours, reference.activations[f"layer_{layer}"])


def test_a_decoder_gets_the_response_behind_its_start_token():
    model, tokenizer = tiny_model("t5"), tiny_tokenizer()
    answers = ["yes", "no, never", "3", "end"]
    select = ["encoder.layer_1", "decoder.layer_1"]
    found = capture_texts(model, tokenizer, TEXTS, select, responses=answers)
    alone = capture_texts(model, tokenizer, TEXTS, "decoder.layer_1", responses=answers)
    for record, lower, text, answer in zip(found, alone, TEXTS, answers, strict=True):
        assert record.input_ids == tokenizer(text).input_ids
        assert record.output_ids == tokenizer(answer).input_ids
        assert record.prompt_length == 1
        assert record.positions == list(range(1 + len(answer)))
        assert record.activations["encoder.layer_1"].shape == (len(text), 32)
        assert record.activations["decoder.layer_1"].shape == (1 + len(answer), 32)
        assert torch.equal(record.activations["decoder.layer_1"], lower.activations["decoder.layer_1"])


def test_a_decoder_without_a_response_is_an_error():
    with pytest.raises(SelectionError, match=r"text 0 has no response.*give responses, or select 'encoder\.\*'"):
        capture_texts(tiny_model("t5"), tiny_tokenizer(), TEXTS)


# Batches, memory, and where records go.


def test_batches_hold_no_more_than_their_tokens_with_padding():
    lengths = [7, 30, 2, 2, 9, 41, 8, 8, 1, 16]
    batches = plan_batches(lengths, 32)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 32
    assert [lengths[batch[0]] for batch in batches] == sorted((lengths[batch[0]] for batch in batches), reverse=True)


def test_more_texts_than_a_window_all_come_in_order(tiny):
    texts = [f"{number:x}" for number in range(WINDOW + 5)]
    found = capture_texts(tiny, None, texts, Selection(0, positions="last"))
    assert [record.prompt for record in found] == texts


def test_a_batch_that_memory_does_not_suffice_for_is_halved(tiny):
    rows = []

    def refuse(module, args, kwargs):
        rows.append(kwargs["hidden_states"].shape[0] if "hidden_states" in kwargs else args[0].shape[0])
        if rows[-1] > 2:
            torch.empty(1 << 50, dtype=torch.uint8)

    with tiny.model.model.layers[1].register_forward_pre_hook(refuse, with_kwargs=True):
        found = capture_texts(tiny, None, TEXTS, 1)
    assert rows == [1, 4, 2, 2]
    assert [record.prompt for record in found] == TEXTS
    assert [record.batch_size for record in found] == [2] * 4
    expected = capture_texts(tiny, None, TEXTS, 1)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.activations["layer_1"], theirs.activations["layer_1"])


def test_a_store_gets_the_records_as_they_are_computed(tiny, tmp_path):
    with ActivationStore(tmp_path / "texts") as store:
        assert capture_texts(tiny, None, TEXTS, 1, into=store) == 4
    store = ActivationStore(tmp_path / "texts")
    assert sorted(record.prompt for record in store) == sorted(TEXTS)
    (record,) = store.where(text_id=2)
    (alone,) = [each for each in capture_texts(tiny, None, TEXTS, 1) if each.text_id == 2]
    assert torch.equal(record.activations["layer_1"], alone.activations["layer_1"])
    assert record.recorded == "replay"


def test_no_texts_are_no_records_and_the_model_does_not_run(tiny):
    with no_forward(tiny.model):
        assert capture_texts(tiny, None, [], 1) == []


# What cannot be computed is said before the model runs.


def test_texts_that_do_not_fit_the_context_are_counted_and_named_at_once(tiny):
    texts = ["short", *["x" * 129] * 12, "y" * 128]
    with no_forward(tiny.model), pytest.raises(PromptError) as caught:
        capture_texts(tiny, None, texts, 1)
    assert "of 14 texts, 12 (1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more) do not fit the context of 128" in str(
        caught.value
    )


def test_they_are_left_out_when_asked_and_it_is_said(tiny):
    with pytest.warns(RuntimeWarning, match=r"of 3 texts, 1 are skipped: 1 \(1\) do not fit the context of 128"):
        found = capture_texts(tiny, None, ["a", "x" * 129, "b"], 1, too_long="skip")
    assert [(record.text_id, record.prompt) for record in found] == [(0, "a"), (2, "b")]


def test_a_pair_must_fit_together(tiny):
    with pytest.raises(PromptError, match=r"1 \(0\) do not fit"):
        capture_texts(tiny, None, ["x" * 100], 1, responses=["y" * 29])


def test_empty_texts_are_an_error_or_left_out(tiny):
    with no_forward(tiny.model), pytest.raises(PromptError, match=r"2 \(0, 2\) are empty: .*empty='skip'"):
        capture_texts(tiny, None, ["", "a", " \n"], 1)
    with pytest.warns(RuntimeWarning, match=r"2 \(0, 2\) are empty"):
        found = capture_texts(tiny, None, ["", "a", " \n"], 1, empty="skip")
    assert [record.prompt for record in found] == ["a"]


@pytest.mark.parametrize(
    ("texts", "more", "error", "message"),
    [
        ("one text", {}, PromptError, "texts is a list of texts, not one text"),
        (["a", 7], {}, PromptError, "text 1 is neither text nor token ids but int"),
        (["a"], {"responses": [None]}, PromptError, "response 0 is neither text nor token ids but NoneType"),
        (["a", "b"], {"responses": ["c"]}, SettingsError, "there are 2 texts and 1 responses"),
        (["a"], {"about": []}, SettingsError, "there are 1 texts and 0 about"),
        (["a"], {"batch_tokens": 0}, SettingsError, "batch_tokens is 0; it must be a whole number"),
        (["a"], {"too_long": "cut"}, SettingsError, "too_long is 'cut'; it is 'error' or 'skip'"),
        (["a"], {"select": 9}, SiteError, "no layer 9"),
    ],
)
def test_what_makes_no_sense_is_an_error(tiny, texts, more, error, message):
    with no_forward(tiny.model), pytest.raises(error, match=message):
        capture_texts(tiny, None, texts, **{"select": 1, **more})


def test_text_without_a_tokenizer_is_an_error(tiny):
    with pytest.raises(ModelError, match="has no tokenizer"):
        capture_texts(LoadedModel("bare", tiny.model), None, ["a"], 1)


def test_a_model_in_training_mode_is_an_error():
    model = tiny_model("llama").train()
    with pytest.raises(ModelError, match=r"training mode.*model\.eval\(\)"):
        capture_texts(model, tiny_tokenizer(), ["a"], 1)


def test_it_is_a_public_name():
    assert actframe.capture_texts is capture_texts
