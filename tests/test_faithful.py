"""Ways of running a model in which a simpler recorder would be silently wrong: each exact, or refused."""

import copy
import io
import threading
import types

import pytest
import torch
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from actframe import ActivationRecorder, CaptureError, Selection, SiteError
from actframe.testing import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("no_grad")
PROMPTS = ["hello", "hi there you", "to be or not to be"]
GREEDY = {"do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def encode(tokenizer, prompts=PROMPTS):
    encoded = tokenizer(prompts, return_tensors="pt", padding=True)
    return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}


def never(*tokens):
    """A logits processor that rules tokens out."""
    return lambda ids, scores: scores.index_fill(1, torch.tensor(tokens), -1e9)


def embedded(model, ids):
    return model.get_input_embeddings().weight[ids]


# Padding and prompts


@pytest.mark.parametrize("settings", [{}, {"prefill_chunk_size": 4}, {"use_cache": False}])
def test_padding_that_generate_infers_is_padding(model, tokenizer, settings):
    inputs = encode(tokenizer)
    lengths = inputs["attention_mask"].sum(1).tolist()
    # Transformers infers padding only where the pad token cannot be meant otherwise.
    inputs["input_ids"][inputs["attention_mask"] == 0] = model.config.pad_token_id
    with ActivationRecorder(model, Selection("embeddings", "last_prompt")) as recorder:
        model.generate(inputs["input_ids"], max_new_tokens=3, **GREEDY, **settings)
    assert [record.prompt_length for record in recorder.records] == lengths
    for record in recorder.records:
        assert record.positions == [record.prompt_length - 1]
        assert torch.equal(record.activations["embeddings"][0], embedded(model, record.input_ids[-1]))


def test_an_end_of_sequence_that_was_switched_off_does_not_cut(model, tokenizer):
    inputs = encode(tokenizer, ["x"])
    end = int(model.generate(**inputs, max_new_tokens=4, **GREEDY)[0, 2])
    model.generation_config.eos_token_id = end
    with ActivationRecorder(model, 0) as recorder:
        returned = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert recorder.records[0].output_ids == returned[0, 1:].tolist()


def test_rows_that_a_criterion_ends_early_end_there(model, tokenizer):
    class After(StoppingCriteria):
        def __call__(self, ids, scores, **_):
            width = ids.shape[1]
            return torch.tensor([width >= 18 + 2, width >= 18 + 4, False])

    inputs = encode(tokenizer)
    with ActivationRecorder(model, 0) as recorder:
        model.generate(
            **inputs, max_new_tokens=6, do_sample=False, eos_token_id=259, pad_token_id=258,
            stopping_criteria=StoppingCriteriaList([After()]),
            logits_processor=LogitsProcessorList([never(258, 259)]),
        )  # fmt: skip
    assert [len(record.output_ids) for record in recorder.records] == [2, 4, 6]


# Caches


def test_a_conversation_of_several_turns_that_keeps_its_cache_is_recorded_whole(model):
    cache = DynamicCache(config=model.config)
    with ActivationRecorder(model, ["embeddings", "layer_3"]) as recorder:
        first = model.generate(torch.tensor([[1, 2, 3]]), past_key_values=cache, max_new_tokens=3, **GREEDY)
        asked = torch.cat([first, torch.tensor([[7, 8]])], dim=1)
        second = model.generate(asked, past_key_values=cache, max_new_tokens=3, **GREEDY)
    one, two = recorder.records
    assert (one.output_ids, two.output_ids) == (first[0, 3:].tolist(), second[0, asked.shape[1] :].tolist())
    assert two.input_ids == asked[0].tolist()
    assert two.positions == list(range(second.shape[1] - 1))
    assert torch.equal(two.activations["embeddings"], embedded(model, second[0, :-1]))
    assert torch.equal(two.activations["layer_3"][: len(one.positions)], one.activations["layer_3"])
    assert one.activations["layer_3"].data_ptr() != two.activations["layer_3"].data_ptr()


def test_what_a_crop_takes_from_the_cache_is_forgotten(model):
    with ActivationRecorder(model, ["embeddings", "layer_2"]) as recorder:
        cache = model(torch.tensor([[1, 2, 3]])).past_key_values
        for token in (4, 5, 6):
            model(torch.tensor([[token]]), past_key_values=cache)
        cache.crop(-2)
        out = model(torch.tensor([[9, 10]]), past_key_values=cache, output_hidden_states=True)
    (record,) = recorder.records
    assert record.input_ids + record.output_ids == [1, 2, 3, 4, 9, 10]
    assert torch.equal(record.activations["layer_2"][4:], out.hidden_states[3][0])


def test_a_cache_in_another_form_is_refused(model):
    pair = tuple((torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)) for _ in range(4))
    with pytest.raises(CaptureError, match="past_key_values is a tuple"), ActivationRecorder(model, 0):
        model(torch.tensor([[1]]), past_key_values=pair)


def test_sequences_packed_into_one_row_are_refused(model):
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(CaptureError, match="position_ids do not rise by one"), ActivationRecorder(model, 0):
        model(torch.tensor([[1, 2, 3, 4, 5, 6]]), position_ids=positions)


# Encoder-decoder models


def test_a_decoder_is_joined_with_the_encoding_that_it_attends_to():
    t5 = tiny_model("t5")
    first, second = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[5, 6]])
    with ActivationRecorder(t5, ["encoder.layer_0", "decoder.layer_0"]) as recorder:
        encodings = [t5.get_encoder()(ids) for ids in (first, second)]
        t5(encoder_outputs=encodings[0], decoder_input_ids=torch.tensor([[258, 7]]))
        t5.generate(encoder_outputs=encodings[1], max_new_tokens=3, num_return_sequences=2, do_sample=True)
    assert [record.input_ids for record in recorder.records] == [[1, 2, 3, 4], [5, 6], [5, 6]]
    twins = [record.activations["encoder.layer_0"] for record in recorder.records[1:]]
    assert torch.equal(*twins)
    assert twins[0].data_ptr() != twins[1].data_ptr()


def test_an_encoding_from_outside_the_block_is_refused_where_its_sites_are_wanted():
    t5 = tiny_model("t5")
    outside = t5.get_encoder()(torch.tensor([[1, 2, 3]]))
    call = {"encoder_outputs": outside, "decoder_input_ids": torch.tensor([[258, 7]])}
    with pytest.raises(CaptureError, match="computed outside this recording"), ActivationRecorder(t5):
        t5(**call)
    with ActivationRecorder(t5, "decoder.layer_0") as recorder:
        t5(**call)
    assert recorder.records[0].positions == [0, 1]


def test_a_decoder_called_by_hand_ends_with_itself():
    t5 = tiny_model("t5")
    with ActivationRecorder(t5, ["encoder.layer_1", "decoder.layer_1"]) as recorder:
        states = t5.get_encoder()(torch.tensor([[1, 2, 3]])).last_hidden_state
        out = t5.get_decoder()(torch.tensor([[258]]), encoder_hidden_states=states, use_cache=True)
        t5.get_decoder()(torch.tensor([[4]]), encoder_hidden_states=states, past_key_values=out.past_key_values)
    (record,) = recorder.records
    assert record.activations["decoder.layer_1"].shape == (2, 32)


# Models within models, and copies


class Wrapper(torch.nn.Module):
    """As training frameworks wrap models: nothing in its signature tells what it is given."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch, returns=True):
        out = self.inner(**batch)
        return out if returns else None


@pytest.mark.parametrize("returns", [True, False])
def test_a_wrapper_that_hides_the_arguments_is_looked_through(model, tokenizer, returns):
    inputs = encode(tokenizer)
    with ActivationRecorder(Wrapper(model), "embeddings") as recorder:
        recorder.model(inputs, returns)
    assert [len(record.input_ids) for record in recorder.records] == [5, 12, 18]
    for record in recorder.records:
        assert torch.equal(record.activations["embeddings"], embedded(model, record.input_ids))


def test_a_copy_of_a_recorded_model_is_a_model_of_its_own(model, tokenizer):
    inputs = encode(tokenizer)
    with ActivationRecorder(model, 0) as recorder:
        twin = copy.deepcopy(model)
        for parameter in twin.parameters():
            parameter.zero_()
        copied = twin.generate(**inputs, max_new_tokens=2, **GREEDY)
        model.generate(**inputs, max_new_tokens=2, **GREEDY)
        torch.save(model, io.BytesIO())
    assert copied[:, -2:].eq(0).all()
    assert len(recorder.records) == 3


def test_a_generate_of_the_users_own_is_used_and_left_in_place(model, tokenizer):
    calls = []

    def generate(self, *args, **options):
        calls.append(args)
        return type(self).generate(self, *args, **options)

    model.generate = types.MethodType(generate, model)
    inputs = encode(tokenizer)
    with ActivationRecorder(model, 0) as recorder:
        model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=2, **GREEDY)
    assert len(recorder.records) == 3
    assert len(calls) == 1
    assert model.generate.__func__ is generate


# What callers ask for


def test_nested_recorders_may_both_use_output_hidden_states(model, tokenizer):
    inputs = encode(tokenizer)
    strategy = "output_hidden_states"
    with ActivationRecorder(model, strategy=strategy) as outer, ActivationRecorder(model, strategy=strategy) as inner:
        out = model(**inputs)
        asked = model(**inputs, output_hidden_states=True)
    assert len(outer.records) == len(inner.records) == 6
    assert out.get("hidden_states") is None
    assert len(asked.hidden_states) == 5


def test_hidden_states_that_were_asked_for_by_index_stay_those(model, tokenizer):
    inputs = encode(tokenizer)
    plain = model(**inputs, output_hidden_states=[0, 2])
    with ActivationRecorder(model, strategy="output_hidden_states"):
        recorded = model(**inputs, output_hidden_states=[0, 2])
    assert [state is None for state in plain.hidden_states] == [state is None for state in recorded.hidden_states]


def test_a_module_that_cannot_be_asked_for_hidden_states_is_refused(model):
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids):
            return self.inner(input_ids)

    with pytest.raises(SiteError, match="use strategy='hooks'"):
        ActivationRecorder(Named(), strategy="output_hidden_states")


def test_logits_that_an_index_chose_are_refused(model):
    with pytest.raises(CaptureError, match="not logits that an index chose"), ActivationRecorder(model, "logits"):
        model(torch.tensor([[1, 2, 3]]), logits_to_keep=torch.tensor([0, 2]))


@pytest.mark.parametrize("positions", [[0], slice(None, 2), "prompt"])
def test_logits_of_positions_that_were_not_computed_are_empty_and_say_so(model, tokenizer, positions):
    with ActivationRecorder(model, Selection(["layer_0", "logits"], positions)) as recorder:
        model.generate(**encode(tokenizer), max_new_tokens=3, **GREEDY)
    for record in recorder.records:
        computed = [position for position in record.positions if position >= record.prompt_length - 1]
        assert record.positions_of("logits") == computed
        assert record.activations["logits"].shape == (len(computed), 260)


# Holes


def test_a_layer_that_is_skipped_is_never_a_hole(model):
    class Skip(torch.nn.Module):
        def forward(self, hidden_states, **_):
            return hidden_states

    skipped = model.model.layers[2]
    with pytest.raises(CaptureError, match="layer_2 did not run"), ActivationRecorder(model):
        model.model.layers[2] = Skip()
        try:
            model(torch.tensor([[1, 2]]))
        finally:
            model.model.layers[2] = skipped


def test_a_selected_module_that_never_ran_is_an_error_beside_sites_that_did(model):
    model.add_module("unused", torch.nn.Linear(2, 2))
    with pytest.raises(CaptureError, match="these of the selected sites never fired.*module:unused"):
        with ActivationRecorder(model, ["layer_0", "module:unused"]):
            model(torch.tensor([[1, 2]]))


def test_gradient_checkpointing_runs_blocks_again_without_recording_them(model):
    model.train()
    model.gradient_checkpointing_enable() if not hasattr(
        model, "activation_checkpointing_enable"
    ) else model.activation_checkpointing_enable()
    with torch.enable_grad(), ActivationRecorder(model, ["layer_0", "layer_1.attn_out"]) as recorder:
        model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    assert len(recorder.records) == 1
    assert not recorder.records[0].activations["layer_0"].requires_grad


# Reading early, order, memory


def test_what_is_read_during_a_forward_pass_is_what_was_finished_before(model):
    seen = []
    handle = model.model.layers[1].register_forward_hook(lambda *_: seen.append(recorder.activations))
    with ActivationRecorder(model, [0, 3]) as recorder:
        out = model(torch.tensor([[1, 2, 3]]))
        model(torch.tensor([[4]]), past_key_values=out.past_key_values)
        final = recorder.activations["layer_3"]
    handle.remove()
    assert seen[0] == {}
    assert torch.equal(seen[1]["layer_3"], final[:, :3])


def test_records_stand_in_the_order_in_which_their_sequences_began(model, tokenizer):
    with ActivationRecorder(model, 0, tokenizer=tokenizer) as recorder:
        kept = model(**encode(tokenizer, ["first, and its cache is kept"]))
        for prompt in ("second", "third"):
            model(**encode(tokenizer, [prompt]))
    assert kept.past_key_values is not None
    assert [record.prompt for record in recorder.records] == ["first, and its cache is kept", "second", "third"]


def test_changing_a_record_that_was_read_early_changes_no_other(model):
    with ActivationRecorder(model, 0) as recorder:
        model(torch.tensor([[1, 2, 3]]))
        recorder.records[0].activations["layer_0"].zero_()
    assert recorder.records[0].activations["layer_0"].any()


def test_what_was_recorded_in_inference_mode_can_be_used_outside(model):
    with ActivationRecorder(model, 0) as recorder:
        with torch.inference_mode():
            out = model(torch.tensor([[1, 2, 3]]))
            model(torch.tensor([[4]]), past_key_values=out.past_key_values)
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, **GREEDY)
    for record in recorder.records:
        assert not record.activations["layer_0"].is_inference()


def test_a_failed_pass_inside_generate_gives_its_memory_away_only_once(model):
    cache, ids = DynamicCache(config=model.config), torch.tensor([[1, 2, 3]])
    failing = [True]

    def fail_once(module, args):
        if failing:
            failing.clear()
            raise RuntimeError("out of memory, say")

    def retry(model, input_ids, **_):
        with pytest.raises(RuntimeError, match="out of memory"):
            model(input_ids)
        token = model(input_ids, past_key_values=cache).logits[:, -1:].argmax(-1)
        return torch.cat([input_ids, token], dim=1)

    model.model.layers[2].register_forward_pre_hook(fail_once)
    with ActivationRecorder(model, "embeddings") as recorder:
        model.generate(ids, custom_generate=retry, max_new_tokens=1)
        model(torch.tensor([[7, 8, 9]]))
        model(torch.tensor([[4]]), past_key_values=cache)
    for record in recorder.records:
        fed = [*record.input_ids, *record.output_ids][: len(record.positions)]
        assert torch.equal(record.activations["embeddings"], embedded(model, fed))
    assert sorted(len(record.positions) for record in recorder.records) == [3, 3, 4]


def test_a_sink_may_run_the_model_again(model):
    received = []

    class Again:
        def append(self, record):
            received.append(record.input_ids)
            if len(received) < 3:
                model(torch.tensor([[8, len(received)]]))

    with ActivationRecorder(model, 0, into=Again()):
        model(torch.tensor([[1, 2]]))
        model(torch.tensor([[3, 4]]))
    # What it runs when the block has ended is no longer recorded.
    assert sorted(received) == [[1, 2], [3, 4], [8, 1]]


def test_two_threads_that_generate_at_once_are_refused(model):
    failures = []

    class Interrupt(StoppingCriteria):
        def __call__(self, ids, scores, **_):
            if not failures:
                worker = threading.Thread(target=self.generate_too)
                worker.start()
                worker.join()
            return torch.tensor([False])

        def generate_too(self):
            try:
                model.generate(torch.tensor([[7]]), max_new_tokens=2, **GREEDY)
            except CaptureError as error:
                failures.append(str(error))

    with ActivationRecorder(model, 0) as recorder:
        model.generate(
            torch.tensor([[1, 2]]), max_new_tokens=3, stopping_criteria=StoppingCriteriaList([Interrupt()]), **GREEDY
        )
    assert len(recorder.records) == 1
    assert "another thread is generating" in failures[0]


def test_records_say_how_they_were_computed_even_if_the_model_changes_later(model):
    with ActivationRecorder(model, 0) as recorder:
        model(torch.tensor([[1, 2]]))
        model.bfloat16()
        model(torch.tensor([[1, 2]]))
    assert [record.dtype for record in recorder.records] == ["float32", "bfloat16"]
    assert [record.activations["layer_0"].dtype for record in recorder.records] == [torch.float32, torch.bfloat16]


def test_a_prompt_of_embeddings_with_more_positions_than_ids_is_counted_in_embeddings(model):
    ids = torch.tensor([[1, 2, 3]])
    embeds = torch.cat([torch.randn(1, 2, 32), embedded(model, ids)], dim=1)
    with ActivationRecorder(model, "embeddings") as recorder:
        model.generate(inputs_embeds=embeds, max_new_tokens=3, **GREEDY)
    assert recorder.records[0].prompt_length == 5
    assert torch.equal(recorder.records[0].activations["embeddings"][:5], embeds[0])


@pytest.mark.parametrize("select", [None, "layer_0", "embeddings"])
def test_hidden_states_that_are_shifted_by_one_are_refused(select):
    mamba = tiny_model("mamba", num_hidden_layers=2, state_size=4)
    with pytest.raises(CaptureError, match="hidden state [01] that MambaForCausalLM returns is not its"):
        with ActivationRecorder(mamba, select, strategy="output_hidden_states"):
            mamba(torch.tensor([[1, 2, 3]]))
