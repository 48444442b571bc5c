"""ActivationRecorder around real forward passes and real generation, against hooks written by hand."""

import threading
import weakref

import pytest
import torch
from transformers import AutoConfig, AutoModel, DynamicCache, pipeline

from actframe import ActivationRecorder, CaptureError, Selection, SiteError, UnknownNameError
from actframe.capture.available import available_sites
from actframe.capture.layout import find_layout
from actframe.testing import FAMILIES, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("no_grad")
PROMPTS = ["hello", "hi there you", "to be or not to be"]


def encode(tokenizer, prompts=PROMPTS, side="left"):
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side=side)
    return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}


class HandHooks:
    """The reference: every output of every block, call by call, kept by hooks that know nothing of actframe."""

    def __init__(self, model):
        self.calls = {}
        self.handles = []
        for tower in find_layout(model).towers:
            for index, path in enumerate(tower.blocks):
                module = model.get_submodule(path)
                self.handles.append(module.register_forward_hook(self.keep(f"{tower.prefix}layer_{index}")))

    def keep(self, name):
        def hook(module, args, output):
            state = output[0] if isinstance(output, tuple) else output
            self.calls.setdefault(name, []).append(state.clone())

        return hook

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def stitched(self, site, row, pads, length):
        """Prefill and steps of one left-padded row, one after another."""
        return torch.cat([call[row] for call in self.calls[site]])[pads : pads + length]


def hook_count(model):
    """How many hooks of ours are on the model; transformers leaves some of its own behind."""
    hooks = [hook for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return sum(hook.__module__.startswith("actframe") for hook in hooks)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_what_a_hand_written_hook_sees(family):
    model, inputs = tiny_model(family), encode(tiny_tokenizer())
    if family == "t5":
        inputs["decoder_input_ids"] = torch.full((3, 2), 258)
    with HandHooks(model) as hand, ActivationRecorder(model) as recorder:
        model(**inputs)
    assert set(hand.calls) <= set(recorder.sites)
    for row, record in enumerate(recorder.records):
        real = inputs["attention_mask"][row].bool()
        for site, (state,) in hand.calls.items():
            expected = state[row] if site.startswith("decoder.") else state[row][real]
            assert torch.equal(record.activations[site], expected), site


@pytest.mark.parametrize("family", FAMILIES)
def test_the_strategies_agree_bit_for_bit_on_every_site_they_share(family):
    model, inputs = tiny_model(family), encode(tiny_tokenizer())
    if family == "t5":
        inputs["decoder_input_ids"] = torch.full((3, 2), 258)
    shared = available_sites(model, "output_hidden_states")
    with (
        ActivationRecorder(model, shared, strategy="output_hidden_states") as states,
        ActivationRecorder(model, shared) as hooks,
    ):
        model(**inputs)
    assert len(states.records) == 3
    for one, other in zip(states.records, hooks.records, strict=True):
        assert list(one.activations) == shared
        for site in shared:
            assert torch.equal(one.activations[site], other.activations[site]), site


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "bert"])
@pytest.mark.parametrize("strategy", ["hooks", "output_hidden_states"])
def test_outputs_are_the_same_with_and_without_recording(family, strategy):
    model, inputs = tiny_model(family), encode(tiny_tokenizer())
    plain = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    with ActivationRecorder(model, strategy=strategy):
        recorded = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(plain, recorded)
    inputs |= {"decoder_input_ids": torch.full((3, 2), 258)} if family == "t5" else {}
    before = model(**inputs)
    with ActivationRecorder(model, strategy=strategy):
        after = model(**inputs)
    assert list(before) == list(after)
    assert torch.equal(before.logits, after.logits)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("bert", "t5")])
def test_generation_is_recorded_position_by_position_without_padding(family):
    model, inputs = tiny_model(family), encode(tiny_tokenizer())
    with HandHooks(model) as hand, ActivationRecorder(model) as recorder:
        returned = model.generate(**inputs, max_new_tokens=7, do_sample=False, eos_token_id=None)
    width = inputs["input_ids"].shape[1]
    assert len(recorder.records) == 3
    for row, record in enumerate(recorder.records):
        pads = int((inputs["attention_mask"][row] == 0).sum())
        assert record.input_ids == inputs["input_ids"][row, pads:].tolist()
        assert record.output_ids == returned[row, width:].tolist()
        assert record.positions == list(range(width - pads + 7 - 1))
        assert record.phases == ["prompt"] * (width - pads) + ["response"] * 6
        for site in hand.calls:
            assert torch.equal(record.activations[site], hand.stitched(site, row, pads, len(record.positions))), site


def test_an_encoder_decoder_gives_both_towers_of_each_sequence():
    model, inputs = tiny_model("t5"), encode(tiny_tokenizer(), side="right")
    with HandHooks(model) as hand, ActivationRecorder(model) as recorder:
        returned = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
    for row, record in enumerate(recorder.records):
        real = inputs["attention_mask"][row].bool()
        assert record.input_ids == inputs["input_ids"][row][real].tolist()
        assert record.output_ids == returned[row, 1:].tolist()
        assert record.positions == [0, 1, 2, 3, 4]
        assert record.phases == ["prompt", *["response"] * 4]
        assert record.positions_of("encoder.layer_0") == list(range(int(real.sum())))
        assert torch.equal(record.activations["encoder.layer_2"], hand.calls["encoder.layer_2"][0][row][real])
        assert torch.equal(record.activations["decoder.layer_3"], hand.stitched("decoder.layer_3", row, 0, 5))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 1.3},
        {"do_sample": False, "use_cache": False},
        {"do_sample": False, "cache_implementation": "static"},
        {"do_sample": False, "prefill_chunk_size": 4},
        {"do_sample": False, "return_dict_in_generate": True, "output_hidden_states": True, "output_scores": True},
    ],
    ids=["greedy", "sampling", "no cache", "static cache", "chunked prefill", "return dict"],
)
@pytest.mark.parametrize("strategy", ["hooks", "output_hidden_states"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_way_of_generating_gives_the_records_of_the_sequences_returned(settings, batch, strategy, tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer, PROMPTS[-batch:])
    torch.manual_seed(0)
    with ActivationRecorder(model, ["embeddings", "layer_2", "final_norm"], strategy=strategy) as recorder:
        returned = model.generate(**inputs, max_new_tokens=6, **settings)
    sequences = returned.sequences if "return_dict_in_generate" in settings else returned
    for record, row, mask in zip(recorder.records, sequences, inputs["attention_mask"], strict=True):
        whole = [*record.input_ids, *record.output_ids]
        assert whole == row[int((mask == 0).sum()) :].tolist()[: len(whole)]
        assert record.positions == list(range(len(whole) - 1))
        # The embedding of a token is the same however the passes were cut, so it proves each row's position.
        assert torch.equal(record.activations["embeddings"], model.model.embed_tokens.weight[whole[:-1]])
        alone = model(torch.tensor([whole[:-1]]), output_hidden_states=True)
        torch.testing.assert_close(record.activations["final_norm"], alone.hidden_states[-1][0], rtol=1e-4, atol=1e-5)


def test_rows_end_at_their_own_end_of_sequence(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer)
    free = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
    end = int(free[0, -5])
    with ActivationRecorder(model, tokenizer=tokenizer) as recorder:
        returned = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=end, pad_token_id=258)
    width = inputs["input_ids"].shape[1]
    for record, row in zip(recorder.records, returned, strict=True):
        response = row[width:].tolist()
        expected = response[: response.index(end) + 1] if end in response else response
        assert record.output_ids == expected
        assert len(record.activations["layer_0"]) == len(record.input_ids) + len(expected) - 1
    assert len({len(record.output_ids) for record in recorder.records}) > 1


def test_an_end_of_sequence_token_inside_the_prompt_and_a_pad_token_in_the_answer_are_ordinary(tiny_llama):
    model, _ = tiny_llama
    ids = torch.tensor([[72, 257, 258, 80]])
    with ActivationRecorder(model) as recorder:
        returned = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False,
            eos_token_id=257, pad_token_id=258, bad_words_ids=[[i] for i in range(259) if i != 258],
        )  # fmt: skip
    (record,) = recorder.records
    assert record.input_ids == [72, 257, 258, 80]
    assert record.output_ids == returned[0, 4:].tolist()


def test_num_return_sequences_gives_one_record_each(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer)
    torch.manual_seed(1)
    with ActivationRecorder(model, "embeddings") as recorder:
        returned = model.generate(**inputs, max_new_tokens=4, do_sample=True, num_return_sequences=2, eos_token_id=None)
    assert [record.output_ids for record in recorder.records] == returned[:, -4:].tolist()


def test_generating_from_embeddings_keeps_positions_without_ids(tiny_llama):
    model, tokenizer = tiny_llama
    ids = encode(tokenizer, ["embedded"])["input_ids"]
    embeds = model.model.embed_tokens(ids)
    with ActivationRecorder(model, "embeddings") as recorder:
        returned = model.generate(inputs_embeds=embeds, max_new_tokens=3, do_sample=False, eos_token_id=None)
    (record,) = recorder.records
    assert (record.input_ids, record.prompt_length) == ([], 8)
    assert record.output_ids == returned[0].tolist()
    assert torch.equal(record.activations["embeddings"][:8], embeds[0])
    assert record.positions == list(range(10))


def test_rejected_drafts_are_not_recorded(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer, ["abcabcabcabcab"])
    plain = model.generate(**inputs, max_new_tokens=10, do_sample=False, eos_token_id=None)
    with ActivationRecorder(model, ["embeddings", "layer_3"]) as recorder:
        drafted = model.generate(
            **inputs, max_new_tokens=10, do_sample=False, eos_token_id=None, prompt_lookup_num_tokens=3
        )
    assert torch.equal(plain, drafted)
    (record,) = recorder.records
    assert torch.equal(record.activations["embeddings"], model.model.embed_tokens.weight[drafted[0, :-1]])


def test_right_padding_is_dropped_in_a_forward_pass_and_in_generate(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer, side="right")
    with ActivationRecorder(model, "embeddings", tokenizer=tokenizer) as recorder:
        model(**inputs)
        model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert [record.prompt for record in recorder.records] == PROMPTS * 2
    for record in recorder.records:
        fed = [*record.input_ids, *record.output_ids[:-1]]
        assert torch.equal(record.activations["embeddings"], model.model.embed_tokens.weight[fed])


def test_a_loop_that_calls_the_model_by_hand_is_one_sequence(tiny_llama):
    model, tokenizer = tiny_llama
    ids = encode(tokenizer, ["hand written"])["input_ids"]
    generated = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    with ActivationRecorder(model) as loop:
        out = model(ids)
        for _ in range(3):
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=out.past_key_values)
    with ActivationRecorder(model) as whole:
        model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    (by_hand,), (by_generate,) = loop.records, whole.records
    assert by_hand.input_ids == ids[0].tolist()
    assert by_hand.output_ids == generated[0, ids.shape[1] : -1].tolist()
    for site in loop.sites:
        assert torch.equal(by_hand.activations[site], by_generate.activations[site])


POSITIONS = [
    ("all", range),
    ("prompt", lambda length: range(3)),
    ("response", lambda length: range(3, length)),
    ("last_prompt", lambda length: [2]),
    ("last", lambda length: [length - 1]),
    (slice(1), lambda length: [0]),
    (slice(3, None), lambda length: range(3, length)),
    (slice(-1, None), lambda length: [length - 1]),
    (slice(4, 6), lambda length: range(4, min(length, 6))),
    ([0, 4], lambda length: [position for position in (0, 4) if position < length]),
    ([3], lambda length: [3] if length > 3 else []),
    ([-1], lambda length: [length - 1]),
]
"""What each form of positions means of a prompt of three and what follows it."""


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("widths", [(3,), (3, 1), (3, 2), (3, 1, 1), (3, 2, 1)], ids=str)
@pytest.mark.parametrize(("positions", "meant"), POSITIONS, ids=[str(positions) for positions, _ in POSITIONS])
def test_a_loop_by_hand_keeps_what_the_selection_means_however_little_of_each_call(
    positions, meant, widths, rows, tiny_llama
):
    model, _ = tiny_llama
    cache = DynamicCache(config=model.config)
    ids = torch.arange(rows * sum(widths)).reshape(rows, -1)
    with HandHooks(model) as hand, ActivationRecorder(model, Selection([0, 2], positions)) as recorder:
        for step in ids.split(widths, dim=1):
            model(step, past_key_values=cache)
    wanted = list(meant(sum(widths)))
    assert len(recorder.records) == rows
    for row, record in enumerate(recorder.records):
        assert record.positions == wanted
        for site, tensor in record.activations.items():
            assert torch.equal(tensor, torch.cat(hand.calls[site], dim=1)[row, wanted]), site


def test_a_first_call_of_padding_alone_leaves_the_next_one_whole(tiny_llama):
    model, _ = tiny_llama
    cache = DynamicCache(config=model.config)
    with HandHooks(model) as hand, ActivationRecorder(model, 1) as recorder:
        model(torch.tensor([[258, 258]]), attention_mask=torch.tensor([[0, 0]]), past_key_values=cache)
        model(torch.tensor([[1, 2, 3]]), attention_mask=torch.tensor([[0, 0, 1, 1, 1]]), past_key_values=cache)
    (record,) = recorder.records
    assert torch.equal(record.activations["layer_1"], hand.calls["layer_1"][1][0])


def test_several_calls_give_several_records_in_order(tiny_llama):
    model, tokenizer = tiny_llama
    with ActivationRecorder(model, 0, tokenizer=tokenizer) as recorder:
        for prompt in PROMPTS:
            model(**encode(tokenizer, [prompt]))
    assert [record.prompt for record in recorder.records] == PROMPTS


def test_a_text_generation_pipeline_is_recorded(tiny_llama):
    model, tokenizer = tiny_llama
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    settings = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    with ActivationRecorder(model, tokenizer=tokenizer) as recorder:
        answers = pipe(PROMPTS, batch_size=2, **settings)
    assert [record.prompt for record in recorder.records] == PROMPTS
    assert [record.response or "" for record in recorder.records] == [answer[0]["generated_text"] for answer in answers]


def test_a_streaming_thread_may_generate(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer, ["streamed"])
    with ActivationRecorder(model) as recorder:
        worker = threading.Thread(target=model.generate, kwargs={**inputs, "max_new_tokens": 3, "do_sample": False})
        worker.start()
        worker.join()
    assert len(recorder.records) == 1


def test_nested_recorders_record_the_same(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer)
    with ActivationRecorder(model) as outer:
        model(**inputs)
        with ActivationRecorder(model, "layer_1") as inner:
            model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert len(outer.records) == 6
    assert len(inner.records) == 3
    for one, other in zip(outer.records[3:], inner.records, strict=True):
        assert torch.equal(one.activations["layer_1"], other.activations["layer_1"])


def test_recorders_may_end_in_any_order(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer)
    first, second = ActivationRecorder(model, 0), ActivationRecorder(model, 0)
    first.__enter__()
    second.__enter__()
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    first.__exit__(None, None, None)
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    second.__exit__(None, None, None)
    assert (len(first.records), len(second.records)) == (3, 6)
    assert "generate" not in vars(model)
    assert hook_count(model) == 0


def test_a_recorder_can_be_entered_again(tiny_llama):
    model, tokenizer = tiny_llama
    recorder = ActivationRecorder(model, 0)
    for prompt in PROMPTS:
        with recorder:
            model(**encode(tokenizer, [prompt]))
    assert len(recorder.records) == 3
    with pytest.raises(CaptureError, match="recording already"), recorder:
        recorder.__enter__()


def test_a_block_that_was_ended_by_an_error_leaves_no_hooks_and_keeps_what_was_complete(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer)
    recorder = ActivationRecorder(model)
    with pytest.raises(RuntimeError, match="out of luck"), recorder:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        model.model.layers[2].register_forward_pre_hook(_raise)
        model(**inputs)
    model.model.layers[2]._forward_pre_hooks.clear()
    assert hook_count(model) == 0
    assert "generate" not in vars(model)
    assert len(recorder.records) == 3


def _raise(module, args):
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("strategy", ["hooks", "output_hidden_states"])
def test_hooks_are_gone_when_the_block_ends(strategy, tiny_llama):
    model, tokenizer = tiny_llama
    with ActivationRecorder(model, strategy=strategy):
        model(**encode(tokenizer))
        assert hook_count(model) > 0
    assert hook_count(model) == 0


def test_a_sink_gets_each_record_when_its_sequence_closes(tiny_llama):
    model, tokenizer = tiny_llama
    sink = []
    with ActivationRecorder(model, 0, into=sink) as recorder:
        model.generate(**encode(tokenizer), max_new_tokens=2, do_sample=False)
        assert len(sink) == 3
        for prompt in PROMPTS:
            model(**encode(tokenizer, [prompt]))
        assert len(sink) >= 5
    assert len(sink) == 6
    assert recorder.records == []


def test_records_that_went_to_a_sink_are_not_kept(tiny_llama):
    model, tokenizer = tiny_llama
    seen = []

    class Forget:
        def append(self, record):
            seen.append(weakref.ref(record.activations["layer_0"]))

    with ActivationRecorder(model, 0, into=Forget()):
        for _ in range(5):
            model.generate(**encode(tokenizer), max_new_tokens=2, do_sample=False)
    assert sum(reference() is not None for reference in seen) <= 3


def test_an_error_in_the_sink_reaches_the_caller(tiny_llama):
    model, tokenizer = tiny_llama

    class Full:
        def append(self, record):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), ActivationRecorder(model, 0, into=Full()):
        model.generate(**encode(tokenizer), max_new_tokens=2, do_sample=False)
    assert hook_count(model) == 0


def test_activations_of_the_latest_sequences_are_one_padded_tensor(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer)
    with ActivationRecorder(model, [0, 3]) as recorder:
        model(**encode(tokenizer, ["first"]))
        model(**inputs)
        inside = recorder.activations
        assert len(recorder.records) == 4
    lengths = inputs["attention_mask"].sum(1).tolist()
    assert inside.keys() == recorder.activations.keys() == {"layer_0", "layer_3"}
    assert inside["layer_0"].shape == (3, max(lengths), 32)
    assert torch.equal(inside["layer_3"], recorder.activations["layer_3"])
    assert torch.equal(inside["layer_3"][0, : lengths[0]], recorder.records[1].activations["layer_3"])
    assert not inside["layer_3"][0, lengths[0] :].any()


def test_what_was_captured_owns_its_memory_and_does_not_change_later(tiny_llama):
    model, tokenizer = tiny_llama
    with ActivationRecorder(model, 0) as recorder:
        model(**encode(tokenizer))
        before = recorder.records[0].activations["layer_0"].clone()
        model(**encode(tokenizer, ["something else", "entirely different"]))
    kept = recorder.records[0].activations["layer_0"]
    assert torch.equal(kept, before)
    assert kept.is_contiguous()
    assert not kept.requires_grad
    assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


def test_in_place_changes_later_in_the_model_do_not_reach_what_was_captured(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer, ["in place"])
    expected = model(**inputs, output_hidden_states=True).hidden_states[1]

    def spoil(module, args):
        args[0].zero_()

    handle = model.model.layers[1].register_forward_pre_hook(spoil)
    with ActivationRecorder(model, 0) as recorder:
        model(**inputs)
    handle.remove()
    assert torch.equal(recorder.activations["layer_0"], expected)


def test_a_record_says_how_it_was_made(tiny_llama):
    model, tokenizer = tiny_llama
    with ActivationRecorder(model, [0, -1], tokenizer=tokenizer) as recorder:
        model.generate(**encode(tokenizer), max_new_tokens=2, do_sample=False, eos_token_id=None)
    record = recorder.records[0]
    assert record.prompt == "hello"
    assert record.response == tokenizer.decode(record.output_ids, skip_special_tokens=True)
    assert record.model == "LlamaForCausalLM"
    assert record.timestamp.endswith("+00:00")
    assert record.sites == ["layer_0", "layer_3"] == list(record.activations)
    assert (record.strategy, record.dtype, record.attn_implementation) == ("hooks", "float32", "sdpa")
    assert (record.batch_size, record.recorded) == (3, "live")
    assert record.torch_version == torch.__version__


def test_attention_patterns_grow_to_squares_of_probabilities():
    model, tokenizer = tiny_model("llama", attn_implementation="eager"), tiny_tokenizer()
    inputs = encode(tokenizer)
    with ActivationRecorder(model, "layer_2.attn_probs") as recorder:
        model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
    for record in recorder.records:
        whole = torch.tensor([[*record.input_ids, *record.output_ids[:-1]]])
        alone = model(whole, output_attentions=True).attentions[2][0]
        pattern = record.activations["layer_2.attn_probs"]
        assert pattern.shape == (4, whole.shape[1], whole.shape[1])
        torch.testing.assert_close(pattern, alone, rtol=1e-4, atol=1e-5)


def test_a_sliding_window_leaves_zeros_where_nothing_was_seen():
    model = tiny_model("mistral", attn_implementation="eager", sliding_window=8)
    with ActivationRecorder(model, ["embeddings", "layer_0.attn_probs"]) as recorder:
        model.generate(
            **encode(tiny_tokenizer(), ["sixteen letters!"]), max_new_tokens=6, do_sample=False, eos_token_id=None
        )
    (record,) = recorder.records
    whole = torch.tensor([[*record.input_ids, *record.output_ids[:-1]]])
    alone = model(whole, output_attentions=True).attentions[0][0]
    torch.testing.assert_close(record.activations["layer_0.attn_probs"], alone, rtol=1e-4, atol=1e-5)


def test_logits_that_were_computed_for_the_last_position_only_say_so(tiny_llama):
    model, tokenizer = tiny_llama
    with ActivationRecorder(model, ["layer_0", "logits"]) as recorder:
        model.generate(**encode(tokenizer), max_new_tokens=4, do_sample=False, eos_token_id=None)
    for record in recorder.records:
        prompt = len(record.input_ids)
        assert record.positions_of("logits") == list(range(prompt - 1, prompt + 3))
        assert record.activations["logits"].argmax(-1).tolist() == record.output_ids


def test_router_logits_and_flattened_outputs_get_their_positions_back():
    model, inputs = tiny_model("mixtral"), encode(tiny_tokenizer())
    with ActivationRecorder(model, "layer_*.router_logits") as recorder:
        model(**inputs)
    logits = model(**inputs, output_router_logits=True).router_logits
    for row, record in enumerate(recorder.records):
        real = inputs["attention_mask"][row].bool()
        expected = logits[1].view(3, -1, 4)[row][real]
        assert torch.equal(record.activations["layer_1.router_logits"], expected)


def test_any_module_can_be_a_site(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer, ["module"])
    with ActivationRecorder(model, ["module:model.layers.*.mlp.down_proj@input", "layer_*.mlp_act"]) as recorder:
        model(**inputs)
    (record,) = recorder.records
    assert len(record.activations) == 8
    for index in range(4):
        site = f"module:model.layers.{index}.mlp.down_proj@input"
        assert torch.equal(record.activations[site], record.activations[f"layer_{index}.mlp_act"])


def test_a_module_that_transformers_does_not_know_is_recorded_too():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    values = torch.randn(3, 5, 4)
    with ActivationRecorder(model, "module:1") as recorder:
        model(values)
    assert torch.equal(recorder.activations["module:1"], torch.relu(model[0](values)))


def test_an_encoder_used_alone_gives_records_of_its_own():
    model, inputs = tiny_model("t5"), encode(tiny_tokenizer())
    with ActivationRecorder(model, "encoder.layer_*") as recorder:
        model.get_encoder()(**inputs)
    assert [len(record.positions) for record in recorder.records] == inputs["attention_mask"].sum(1).tolist()


# Refusals


def test_an_unknown_strategy_is_an_error_that_lists_the_known_ones(tiny_llama):
    with pytest.raises(UnknownNameError, match=r"no capture strategy named 'hook' \(did you mean 'hooks'\?\)"):
        ActivationRecorder(tiny_llama[0], strategy="hook")


def test_a_layer_that_does_not_exist_is_an_error_that_says_how_many_there_are(tiny_llama):
    with pytest.raises(SiteError, match="no layer 4: the number of layers is 4"):
        ActivationRecorder(tiny_llama[0], [0, 4])


def test_a_site_that_does_not_exist_is_an_error_that_lists_the_sites(tiny_llama):
    with pytest.raises(
        SiteError, match=r"'layer_2.mlp_outt'.*did you mean 'layer_2.mlp_out'.*embeddings, layer_0 .. layer_3"
    ):
        ActivationRecorder(tiny_llama[0], "layer_2.mlp_outt")


def test_the_last_layer_is_refused_to_output_hidden_states_where_it_is_behind_the_norm(tiny_llama):
    for select in (-1, 3, "layer_3"):
        with pytest.raises(SiteError, match="layer_3 is not what transformers returns.*strategy='hooks'"):
            ActivationRecorder(tiny_llama[0], select, strategy="output_hidden_states")


def test_a_last_hidden_state_that_is_not_behind_the_norm_is_refused_as_such():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = AutoModel.from_config(AutoConfig.for_model("vit", image_size=32, patch_size=8, **sizes)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with ActivationRecorder(model) as recorder:
        model(pixels)
    expected = model(pixels, output_hidden_states=True).hidden_states
    for index, site in enumerate(["embeddings", "layer_0", "layer_1"]):
        assert torch.equal(recorder.activations[site], expected[index])
    with pytest.raises(CaptureError, match="is not its final_norm"):
        with ActivationRecorder(model, "final_norm", strategy="output_hidden_states"):
            model(pixels)


def test_modules_are_refused_to_output_hidden_states(tiny_llama):
    with pytest.raises(SiteError, match="use strategy='hooks'"):
        ActivationRecorder(tiny_llama[0], "module:lm_head", strategy="output_hidden_states")


def test_attention_patterns_are_refused_without_eager_attention(tiny_llama):
    with pytest.raises(SiteError, match="needs eager attention, and this model runs 'sdpa'"):
        ActivationRecorder(tiny_llama[0], "layer_0.attn_probs")


def test_a_sink_without_append_is_refused(tiny_llama):
    with pytest.raises(CaptureError, match="anything with append"):
        ActivationRecorder(tiny_llama[0], into="folder")


def test_a_block_in_which_no_selected_site_fires_is_an_error(tiny_llama):
    model, tokenizer = tiny_llama
    with pytest.raises(CaptureError, match="none of the selected sites fired: the model did not run"):
        with ActivationRecorder(model):
            pass
    model.add_module("unused", torch.nn.Linear(2, 2))
    try:
        with pytest.raises(CaptureError, match="none of the selected sites fired: the model ran 1 times"):
            with ActivationRecorder(model, "module:unused"):
                model(**encode(tokenizer))
    finally:
        del model.unused


def test_a_part_of_the_model_called_by_itself_is_an_error(tiny_llama):
    model, tokenizer = tiny_llama
    with ActivationRecorder(model, 0) as recorder:
        with pytest.raises(CaptureError, match="call the model itself"):
            model.model(**encode(tokenizer))
        model(**encode(tokenizer))
        assert len(recorder.records) == 3


def test_rows_that_do_not_fit_the_cache_are_refused(tiny_llama):
    model, _ = tiny_llama
    cache = DynamicCache(config=model.config)
    with (
        ActivationRecorder(model),
        pytest.raises(CaptureError, match="1 rows continues a KV cache that was filled with 2"),
    ):
        model(torch.tensor([[1, 2], [3, 4]]), past_key_values=cache)
        model(torch.tensor([[5]]), past_key_values=cache)


def test_a_module_that_runs_twice_in_one_pass_is_refused():
    shared = torch.nn.Linear(4, 4)
    model = torch.nn.Sequential(shared, shared)
    with ActivationRecorder(model, "module:0"), pytest.raises(CaptureError, match="ran more than once"):
        model(torch.randn(2, 3, 4))


def test_a_tensor_without_positions_is_refused(tiny_llama):
    model, tokenizer = tiny_llama
    with pytest.raises(CaptureError, match="only tensors"), ActivationRecorder(model, "module:model.rotary_emb"):
        model(**encode(tokenizer))


def test_a_row_of_nothing_but_padding_is_refused(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer, ["some text", ""])
    for run in (lambda: model(**inputs), lambda: model.generate(**inputs, max_new_tokens=2)):
        with (
            pytest.raises(CaptureError, match="row 1 of the batch holds nothing but padding"),
            ActivationRecorder(model),
        ):
            run()


def test_save_needs_exactly_one_sequence(tiny_llama, tmp_path):
    model, tokenizer = tiny_llama
    with ActivationRecorder(model, 0) as recorder:
        model(**encode(tokenizer))
    with pytest.raises(CaptureError, match="there are 3; save each"):
        recorder.save(tmp_path / "all.safetensors")


def test_selected_positions_are_cut_before_the_copy(tiny_llama):
    model, tokenizer = tiny_llama
    inputs = encode(tokenizer)
    everything = ActivationRecorder(model, 2)
    last = ActivationRecorder(model, Selection(sites=2, positions="last_prompt"))
    with everything, last:
        model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
    for whole, one in zip(everything.records, last.records, strict=True):
        position = len(whole.input_ids) - 1
        assert one.positions == [position]
        assert torch.equal(one.activations["layer_2"], whole.activations["layer_2"][[position]])
