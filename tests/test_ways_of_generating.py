"""Every way of generating gives the records of the sequences that were returned, or is refused.

The judge is not the recorder: in GPT-2 the embeddings are those of token and position added, so they tell both to the
bit; and a replay of each sequence alone tells what led to it, to the rounding of float32.
"""

import copy
import threading

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList, StaticCache

from actframe import ActivationRecorder, CaptureError, Selection
from actframe.testing import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("no_grad")
PROMPTS = ["a", "two words here", "of three"]
GREEDY = {"do_sample": False, "eos_token_id": None}
SITES = ["embeddings", "layer_1", "layer_3"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    return tiny_model(request.param, initializer_range=0.3)


def encode(tokenizer, prompts=PROMPTS):
    return tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)


def unpadded(inputs, row):
    return inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()


def judge(model, records, expected, *, by_hand=False):
    """Each record is of the expected prompt and response, whose last token `generate` never feeds."""
    assert len(records) == len(expected)
    for record, (prompt, response) in zip(records, expected, strict=True):
        assert (record.input_ids, record.output_ids) == (prompt, response)
        fed = [*prompt, *response] if by_hand else [*prompt, *response[:-1]]
        first = len(fed) - len(record.positions)
        assert record.positions == list(range(first, len(fed)))
        replay = model(torch.tensor([fed]), output_hidden_states=True).hidden_states
        if model.config.model_type == "gpt2":
            assert torch.equal(record.activations["embeddings"], replay[0][0, first:])
        for site, state in zip(SITES, (replay[0], replay[2]), strict=False):
            torch.testing.assert_close(record.activations[site], state[0, first:], rtol=2e-5, atol=2e-5)


def answers(inputs, sequences, *, each=1, ends=()):
    """What was returned, by prompt and response without padding."""
    width = inputs["input_ids"].shape[1]
    expected = []
    for number, sequence in enumerate(sequences.tolist()):
        response = sequence[width:]
        end = next((index + 1 for index, token in enumerate(response) if token in ends), len(response))
        expected.append((unpadded(inputs, number // each), response[:end]))
    return expected


@pytest.mark.parametrize("settings", [
    {"num_beams": 3},
    {"num_beams": 4, "num_return_sequences": 2},
    {"num_beams": 3, "num_return_sequences": 3, "length_penalty": -1.0},
    {"num_beams": 3, "use_cache": False},
    {"num_beams": 3, "cache_implementation": "static"},
    {"num_beams": 3, "do_sample": True, "temperature": 2.0},
    {"num_beams": 2, "prefill_chunk_size": 4},
    {"num_beams": 3, "max_new_tokens": 1},
    {"num_return_sequences": 3, "do_sample": True},
], ids=str)  # fmt: skip
def test_beams_are_the_sequences_that_were_returned(model, tokenizer, settings):
    inputs = encode(tokenizer)
    torch.manual_seed(0)
    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(
            **inputs, **{"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, **settings}
        )
    judge(model, recorder.records, answers(inputs, returned, each=settings.get("num_return_sequences", 1)))


@pytest.mark.parametrize("beams", [2, 4])
def test_beams_that_end_early_are_found_among_those_given_up(tokenizer, beams):
    found_early = 0
    for seed in range(6):
        model = tiny_model("gpt2", seed=seed, initializer_range=0.3)
        inputs = encode(tokenizer)
        ends = list(range(0, 256, 3))
        with ActivationRecorder(model, SITES) as recorder:
            returned = model.generate(
                **inputs, num_beams=beams, num_return_sequences=2, max_new_tokens=9, do_sample=False, eos_token_id=ends
            )
        expected = answers(inputs, returned, each=2, ends=ends)
        found_early += sum(len(response) < 9 for _, response in expected)
        judge(model, recorder.records, expected)
    assert found_early > 5


def test_beams_record_the_same_with_every_selection_of_positions(tokenizer):
    model, inputs = tiny_model("gpt2", initializer_range=0.3), encode(tokenizer)
    settings = {"num_beams": 3, "max_new_tokens": 6, **GREEDY}
    with ActivationRecorder(model, "layer_3") as whole:
        model.generate(**inputs, **settings)
    for positions in ("prompt", "response", "last_prompt", "last", slice(-3, None), [0, -1]):
        with ActivationRecorder(model, Selection("layer_3", positions)) as part:
            model.generate(**inputs, **settings)
        for full, cut in zip(whole.records, part.records, strict=True):
            chosen = [full.positions.index(position) for position in cut.positions]
            assert torch.equal(full.activations["layer_3"][chosen], cut.activations["layer_3"])


def test_attention_patterns_of_beams_are_those_of_the_sequence(tokenizer):
    model = tiny_model("gpt2", initializer_range=0.3, attn_implementation="eager")
    inputs = encode(tokenizer)
    with ActivationRecorder(model, "layer_2.attn_probs") as recorder:
        model.generate(**inputs, num_beams=3, max_new_tokens=6, **GREEDY)
    for record in recorder.records:
        fed = torch.tensor([[*record.input_ids, *record.output_ids[:-1]]])
        expected = model(fed, output_attentions=True).attentions[2][0]
        torch.testing.assert_close(record.activations["layer_2.attn_probs"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"num_return_sequences": 2}], ids=str)
def test_beams_of_an_encoder_decoder_have_the_encoding_of_their_prompt(tokenizer, settings):
    model = tiny_model("t5", initializer_factor=3.0)
    inputs = encode(tokenizer)
    with ActivationRecorder(model) as recorder:
        returned = model.generate(**inputs, num_beams=4, max_new_tokens=6, **GREEDY, **settings)
    each = settings.get("num_return_sequences", 1)
    for number, (record, sequence) in enumerate(zip(recorder.records, returned.tolist(), strict=True)):
        prompt = unpadded(inputs, number // each)
        assert (record.input_ids, record.output_ids) == (prompt, sequence[1:])
        replay = model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([sequence[:-1]]), output_hidden_states=True
        )
        for site, state in [
            ("encoder.layer_1", replay.encoder_hidden_states[2]),
            ("decoder.embeddings", replay.decoder_hidden_states[0]),
            ("decoder.layer_2", replay.decoder_hidden_states[3]),
        ]:
            scale = state.abs().max().item()
            torch.testing.assert_close(record.activations[site], state[0], rtol=0, atol=1e-4 * scale)


# A beam search, and others, by hand


def test_a_beam_search_by_hand_is_recorded_as_the_beams_that_survive(model, tokenizer):
    prompt = torch.tensor([[5, 6, 7]])
    with ActivationRecorder(model, SITES) as recorder:
        cache, beams, scores = DynamicCache(config=model.config), prompt.expand(3, -1), torch.tensor([0.0, -1e9, -1e9])
        fed = beams
        for _ in range(5):
            logits = model(fed, past_key_values=cache).logits[:, -1].log_softmax(-1) + scores[:, None]
            scores, best = logits.flatten().topk(3)
            rows, tokens = best // 260, best % 260
            cache.reorder_cache(rows)
            beams = torch.cat([beams[rows], tokens[:, None]], dim=1)
            fed = tokens[:, None]
    judge(model, recorder.records, [(beam[:3], beam[3:-1]) for beam in beams.tolist()], by_hand=True)


def test_contrastive_search_by_hand_keeps_the_candidates_that_were_chosen(model):
    prompts = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with ActivationRecorder(model, SITES) as recorder:
        cache = DynamicCache(config=model.config)
        logits, kept = model(prompts, past_key_values=cache).logits[:, -1], prompts
        for step in range(4):
            candidates = logits.topk(3).indices.flatten()
            cache.batch_repeat_interleave(3)
            tried = model(candidates[:, None], past_key_values=cache).logits[:, -1]
            chosen = torch.tensor([step % 3, 3 + (step + 1) % 3])
            cache.batch_select_indices(chosen)
            logits, kept = tried[chosen], torch.cat([kept, candidates[chosen, None]], dim=1)
    judge(model, recorder.records, [(row[:3], row[3:]) for row in kept.tolist()], by_hand=True)


def test_rows_that_a_loop_takes_out_when_they_have_ended_are_records_too(model):
    prompts = torch.tensor([[5, 6], [7, 8], [9, 10]])
    with ActivationRecorder(model, SITES) as recorder:
        cache = DynamicCache(config=model.config)
        model(prompts, past_key_values=cache)
        model(torch.tensor([[1], [2], [3]]), past_key_values=cache)
        cache.batch_select_indices(torch.tensor([2, 0]))
        model(torch.tensor([[4], [5]]), past_key_values=cache)
    judge(model, recorder.records, [([5, 6], [1, 5]), ([7, 8], [2]), ([9, 10], [3, 4])], by_hand=True)


def test_rows_of_a_shared_beginning_that_a_loop_takes_out_are_records_too(model):
    """First one of three leaves, then, after another pass, one of two: each was fed something of its own."""
    with ActivationRecorder(model, SITES) as recorder:
        cache = DynamicCache(config=model.config)
        model(torch.tensor([[5, 6]]), past_key_values=cache)
        cache.batch_repeat_interleave(3)
        model(torch.tensor([[1], [2], [3]]), past_key_values=cache)
        cache.batch_select_indices(torch.tensor([0, 2]))
        model(torch.tensor([[4], [5]]), past_key_values=cache)
        cache.batch_select_indices(torch.tensor([1]))
        model(torch.tensor([[7]]), past_key_values=cache)
    kept = [([5, 6], [2]), ([5, 6], [1, 4]), ([5, 6], [3, 5, 7])]
    judge(model, recorder.records, kept, by_hand=True)


MOVES = {
    "crop": ({"tokens_to_remove": -1}, [([5, 6], [10]), ([7, 8], [11])]),
    "reorder_cache": ({"beam_idx": torch.tensor([1, 0])}, [([5, 6], [1, 11]), ([7, 8], [2, 10])]),
    "batch_select_indices": ({"indices": torch.tensor([1])}, [([5, 6], [1]), ([7, 8], [2, 10])]),
    "batch_repeat_interleave": (
        {"repeats": 2},
        [([5, 6], [1, 10]), ([5, 6], [1, 11]), ([7, 8], [2, 12]), ([7, 8], [2, 13])],
    ),
}


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("method", MOVES)
def test_a_loop_may_name_the_argument_of_what_it_asks_of_a_cache(model, method, by_keyword):
    given, expected = MOVES[method]
    with ActivationRecorder(model, SITES) as recorder:
        cache = DynamicCache(config=model.config)
        model(torch.tensor([[5, 6], [7, 8]]), past_key_values=cache)
        model(torch.tensor([[1], [2]]), past_key_values=cache)
        getattr(cache, method)(**given) if by_keyword else getattr(cache, method)(*given.values())
        rows = cache.layers[0].keys.shape[0]
        model(torch.arange(10, 10 + rows)[:, None], past_key_values=cache)
    judge(model, recorder.records, expected, by_hand=True)


def test_rows_moved_behind_the_recorders_back_are_refused(model):
    with pytest.raises(CaptureError, match="moved since its last forward pass"), ActivationRecorder(model, 0):
        cache = model(torch.tensor([[1, 2], [3, 4]])).past_key_values
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.flip(0), layer.values.flip(0)
        model(torch.tensor([[1], [2]]), past_key_values=cache)


# Prompts that were computed before, once for several


def test_copies_of_a_prompt_that_was_computed_once_are_sequences_of_their_own(model):
    prefix, questions = [5, 6, 7, 8], [[1, 2], [3], [9, 9, 9]]
    expected = []
    with ActivationRecorder(model, SITES) as recorder:
        cache = DynamicCache(config=model.config)
        model(torch.tensor([prefix]), past_key_values=cache)
        for question in questions:
            ids = torch.tensor([[*prefix, *question]])
            own = copy.deepcopy(cache)
            returned = model.generate(ids, past_key_values=own, max_new_tokens=4, **GREEDY)
            expected.append((ids[0].tolist(), returned[0, ids.shape[1] :].tolist()))
    judge(model, recorder.records[:1], [(prefix, [])], by_hand=True)
    judge(model, recorder.records[1:], expected)
    first = recorder.records[0].activations["layer_3"]
    assert all(torch.equal(record.activations["layer_3"][:4], first) for record in recorder.records)


@pytest.mark.parametrize("whole", [True, False], ids=["whole prompt", "new ids and a whole mask"])
@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_a_prefix_that_was_never_run_here_has_no_activations_and_the_record_says_so(model, whole, kind):
    prefix, question = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[1, 2]])
    cache = kind(config=model.config, max_cache_len=32) if kind is StaticCache else kind(config=model.config)
    model(prefix, past_key_values=cache)
    ids = torch.cat([prefix, question], dim=1)
    given = {"input_ids": ids} if whole else {"input_ids": question, "attention_mask": torch.ones_like(ids)}
    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(**given, past_key_values=cache, max_new_tokens=4, **GREEDY)
    (record,) = recorder.records
    assert record.positions == [4, 5, 6, 7, 8]
    assert record.computed_before == 4
    assert record.prompt_length == 6
    assert record.input_ids == (ids if whole else question)[0].tolist()
    response = returned[0, 6 if whole else 2 :].tolist()
    judge(model, [record.replace(input_ids=ids[0].tolist())], [(ids[0].tolist(), response)])


def test_padding_in_a_prefix_that_was_never_run_here_moves_no_position(tokenizer):
    model, inputs = tiny_model("gpt2"), encode(tokenizer)
    cache = model(**inputs, position_ids=_positions(inputs["attention_mask"])).past_key_values
    mask = torch.cat([inputs["attention_mask"], torch.ones((3, 1), dtype=torch.long)], dim=1)
    with ActivationRecorder(model, SITES) as recorder:
        model(torch.tensor([[1], [2], [3]]), past_key_values=cache, attention_mask=mask,
              position_ids=_positions(mask)[:, -1:])  # fmt: skip
    for row, record in enumerate(recorder.records):
        before = len(unpadded(inputs, row))
        assert (record.positions, record.computed_before) == ([before], before)
        assert record.input_ids == [row + 1]
        assert torch.equal(record.activations["embeddings"][0], _embedding(model, row + 1, before))


def _positions(mask):
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _embedding(model, token, position):
    return model.transformer.wte.weight[token] + model.transformer.wpe.weight[position]


def test_ids_that_a_cache_leaves_nothing_of_are_refused_before_anything_runs(model):
    cache = model(torch.tensor([[5, 6, 7]])).past_key_values
    with ActivationRecorder(model, 0) as recorder:
        with pytest.raises(CaptureError, match="2 ids and a KV cache of 3 positions"):
            model.generate(torch.tensor([[1, 2]]), past_key_values=cache, max_new_tokens=2, **GREEDY)
        model(torch.tensor([[1, 2]]))
    assert len(recorder.records) == 1


def test_a_conversation_is_recorded_turn_by_turn_also_where_the_recording_begins_in_the_middle(model):
    cache, said, expected = DynamicCache(config=model.config), torch.tensor([[1, 2, 3]]), []
    said = model.generate(said, past_key_values=cache, max_new_tokens=3, **GREEDY)
    with ActivationRecorder(model, SITES) as recorder:
        for turn in ([7, 8], [9]):
            asked = torch.cat([said, torch.tensor([turn])], dim=1)
            said = model.generate(asked, past_key_values=cache, max_new_tokens=3, **GREEDY)
            expected.append((asked[0].tolist(), said[0, asked.shape[1] :].tolist()))
    judge(model, recorder.records, expected)
    # The last token of the first answer was never fed in it.
    assert [record.computed_before for record in recorder.records] == [5, 5]
    assert [record.positions[0] for record in recorder.records] == [5, 5]


# Drafts


class _Tempted(LogitsProcessor):
    """Makes answers of the model less sure, so that drafts are rejected."""

    def __call__(self, ids, scores):
        scores[:, (ids.shape[1] * 37) % 250] += 2.0
        return scores


@pytest.mark.parametrize("settings", [
    {"prompt_lookup_num_tokens": 3},
    {"assistant": 1},
    {"assistant": 0},
    {"assistant": "itself"},
    {"assistant_early_exit": 2},
], ids=str)  # fmt: skip
def test_drafts_are_not_recorded_whoever_makes_them(tokenizer, settings):
    model = tiny_model("llama", initializer_range=0.3)
    inputs = encode(tokenizer, ["one two one two one"])
    settings = dict(settings)
    drafter = settings.pop("assistant", None)
    if drafter is not None:
        settings["assistant_model"] = (
            model if drafter == "itself" else tiny_model("llama", seed=drafter, initializer_range=0.3)
        )
    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(
            **inputs, max_new_tokens=12, **GREEDY, logits_processor=LogitsProcessorList([_Tempted()]), **settings
        )
    judge(model, recorder.records, answers(inputs, returned))


def test_drafts_beyond_a_sliding_window_are_not_recorded(tokenizer):
    model = tiny_model("mistral", initializer_range=0.3, sliding_window=6)
    inputs = encode(tokenizer, ["one two one two one"])
    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(
            **inputs,
            max_new_tokens=12,
            prompt_lookup_num_tokens=3,
            logits_processor=LogitsProcessorList([_Tempted()]),
            **GREEDY,
        )
    judge(model, recorder.records, answers(inputs, returned))


def test_guidance_records_the_branch_that_has_the_prompt(model, tokenizer):
    inputs = encode(tokenizer, ["guided by this"])
    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(**inputs, guidance_scale=2.0, max_new_tokens=5, **GREEDY)
    judge(model, recorder.records, answers(inputs, returned))


# Decoding loops of people's own


def test_a_custom_loop_that_answers_row_by_row_gives_the_rows_in_order(model, tokenizer):
    inputs = encode(tokenizer)

    def one_by_one(model, input_ids, **given):
        rows, attention_mask = [], given["attention_mask"]
        for row in reversed(range(len(input_ids))):
            mask, cache, fed = (
                attention_mask[row : row + 1],
                DynamicCache(config=model.config),
                input_ids[row : row + 1],
            )
            whole = fed
            for _ in range(3):
                positions = _positions(mask)[:, -fed.shape[1] :]
                out = model(fed, attention_mask=mask, past_key_values=cache, position_ids=positions)
                fed = out.logits[:, -1:].argmax(-1)
                whole, mask = torch.cat([whole, fed], dim=1), torch.cat([mask, torch.ones_like(fed)], dim=1)
            rows.insert(0, whole)
        return torch.cat(rows)

    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(**inputs, custom_generate=one_by_one, max_new_tokens=3)
    judge(model, recorder.records, answers(inputs, returned))


def test_a_custom_loop_that_tries_copies_of_the_cache_records_the_path_taken(model):
    prompt = torch.tensor([[5, 6, 7]])

    def look_ahead(model, input_ids, **_):
        cache, whole, fed = DynamicCache(config=model.config), input_ids, input_ids
        for _ in range(3):
            logits = model(fed, past_key_values=cache).logits[:, -1]
            tried = []
            for token in logits.topk(3).indices[0]:
                branch = copy.deepcopy(cache)
                out = model(token.view(1, 1), past_key_values=branch)
                tried.append((out.logits.max().item(), token, branch))
            _, token, _ = max(tried, key=lambda each: each[0])
            fed = token.view(1, 1)
            whole = torch.cat([whole, fed], dim=1)
        return whole

    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(prompt, custom_generate=look_ahead, max_new_tokens=3)
    judge(model, recorder.records, [(prompt[0].tolist(), returned[0, 3:].tolist())])


def test_a_static_cache_of_sliding_layers_is_recorded_with_padding(tokenizer):
    model, inputs = tiny_model("gemma3_text", initializer_range=0.3, sliding_window=8), encode(tokenizer)
    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(**inputs, cache_implementation="static", max_new_tokens=6, **GREEDY)
    judge(model, recorder.records, answers(inputs, returned))


# Threads


def test_two_threads_record_one_model_each_its_own_calls(model, tokenizer):
    started, results = threading.Barrier(2), {}

    def work(name, prompts):
        inputs = encode(tokenizer, prompts)
        with torch.no_grad(), ActivationRecorder(model, SITES) as recorder:
            started.wait(timeout=30)
            returned = model.generate(**inputs, max_new_tokens=12, **GREEDY)
            model(torch.tensor([[len(name), 2]]))
        results[name] = recorder.records, [*answers(inputs, returned), ([len(name), 2], [])]

    workers = [threading.Thread(target=work, args=each) for each in [("one", PROMPTS), ("three", ["else", "and more"])]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    for records, expected in results.values():
        judge(model, records[:-1], expected[:-1])
        judge(model, records[-1:], expected[-1:], by_hand=True)
    assert len(results) == 2


def test_a_thread_without_a_recorder_is_refused_while_two_others_record(model):
    both, done, failures = threading.Barrier(3), threading.Event(), []

    def record():
        with torch.no_grad(), ActivationRecorder(model, 0):
            model(torch.tensor([[1, 2]]))
            both.wait(timeout=30)
            done.wait(timeout=30)

    workers = [threading.Thread(target=record) for _ in range(2)]
    for worker in workers:
        worker.start()
    both.wait(timeout=30)
    try:
        with pytest.raises(CaptureError, match="without a recorder of its own while 2 other threads"):
            model(torch.tensor([[1, 2]]))
    finally:
        done.set()
        for worker in workers:
            worker.join()
    assert failures == []


def test_a_model_is_as_it_was_when_every_recording_has_ended(model):
    from transformers.cache_utils import Cache

    before = dict(vars(Cache))
    with ActivationRecorder(model, 0), ActivationRecorder(model, 1):
        assert dict(vars(Cache)) != before
        model(torch.tensor([[1, 2]]))
    assert dict(vars(Cache)) == before
    assert "generate" not in vars(model)


# Recurrent states


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon_mamba"])
def test_recurrent_models_are_recorded_step_by_step(family, tokenizer):
    sizes = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8} if family == "mamba2" else {}
    model = tiny_model(family, num_hidden_layers=4, state_size=4, initializer_range=0.3, **sizes)
    inputs = encode(tokenizer, ["recurrent", "states it"])
    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(**inputs, max_new_tokens=5, **GREEDY)
    for record, (prompt, response) in zip(recorder.records, answers(inputs, returned), strict=True):
        assert (record.input_ids, record.output_ids) == (prompt, response)
        fed = torch.tensor([[*prompt, *response[:-1]]])
        with ActivationRecorder(model, SITES) as alone:
            model(fed)
        for site in SITES:
            torch.testing.assert_close(record.activations[site], alone.activations[site][0], rtol=1e-3, atol=1e-4)


def test_hidden_states_that_are_shifted_are_refused():
    model = tiny_model("mamba", num_hidden_layers=2, state_size=4)
    with pytest.raises(CaptureError, match="hidden state 0 that .* is not its embeddings"):
        with ActivationRecorder(model, strategy="output_hidden_states"):
            model(torch.tensor([[1, 2, 3]]))


def test_a_recurrent_state_from_before_the_recording_is_refused(tokenizer):
    model = tiny_model("mamba", num_hidden_layers=2, state_size=4)
    out = model(torch.tensor([[1, 2, 3]]), use_cache=True)
    with pytest.raises(CaptureError, match="recurrent state that was computed before"), ActivationRecorder(model, 0):
        model(torch.tensor([[4]]), cache_params=out.cache_params, use_cache=True)


def test_settings_may_come_in_a_generation_config(model, tokenizer):
    inputs = encode(tokenizer)
    config = GenerationConfig(num_beams=3, num_return_sequences=2, max_new_tokens=4, do_sample=False, pad_token_id=258)
    with ActivationRecorder(model, SITES) as recorder:
        returned = model.generate(**inputs, generation_config=config, eos_token_id=None)
    judge(model, recorder.records, answers(inputs, returned, each=2))
