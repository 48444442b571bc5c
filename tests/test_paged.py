"""Continuous batching: every request of `generate_batch` becomes a record, bit for bit what was computed for it."""

import gc
import random
import threading
import time

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState

from actframe import ActivationRecorder, Selection
from actframe.capture.calls import Call
from actframe.capture.kept import Arrivals
from actframe.capture.packed import RowsInAnyOrder
from actframe.capture.parts import Place
from actframe.capture.selection import Scratch
from actframe.errors import CaptureError
from actframe.testing import tiny_model, tiny_tokenizer

SITE = "layer_2"
BLOCKS = {"gpt2": "transformer.h.2"}


def prompts_of(*lengths, seed=0):
    drawn = random.Random(seed)
    return [[drawn.randrange(250) for _ in range(length)] for length in lengths]


def mixed_prompts():
    """Short and long ones, some that begin alike, two that are the same."""
    prompts = prompts_of(5, 9, 20, 3, 31)
    long = prompts[2]
    return [*prompts, [*long[:16], 7, 8, 9], [*long[:8], 1, 2], long, long[:17]]


def config_of(**settings):
    return ContinuousBatchingConfig(**{"page_size": 4, "num_blocks": 16, "max_batch_tokens": 24, **settings})


def generation_of(new=6, **settings):
    return GenerationConfig(**{"max_new_tokens": new, "do_sample": False, "eos_token_id": -1, **settings})


def run(model, prompts, new=6, config=None, **settings):
    return model.generate_batch(
        prompts, generation_config=generation_of(new, **settings), continuous_batching_config=config or config_of()
    )


class Witness:
    """Sees by itself what was computed for whom: from the slots that are written and read, not from blocks.

    A request that begins past position 0 has what its slots hold. A fork has what its parent had. What is computed
    again counts where nothing had been answered yet.
    """

    def __init__(self, model):
        self.rows, self.slots, self.states, self.forked = {}, {}, {}, {}
        self.calls = self.again = self.shared = 0
        self._block = model.get_submodule(BLOCKS.get(model.config.model_type, "model.layers.2"))
        self._model = model

    def __enter__(self):
        witness, self._fork = self, RequestState.fork

        def fork(state, name):
            witness.rows[name] = dict(witness.rows[state.request_id])
            witness.forked[name] = witness._fork(state, name)
            return witness.forked[name]

        RequestState.fork = fork
        self._hooks = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._block.register_forward_hook(self._end),
        ]
        return self

    def __exit__(self, *_):
        RequestState.fork = self._fork
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module, args, given):
        self.calls += 1
        kinds = list(given["cache"].cache_allocators)
        self._kind = kinds.index("full_attention") if "full_attention" in kinds else None
        self._given = {name: given[name].clone() for name in ("cu_seq_lens_q", "position_ids")}
        self._write, self._read = [[each.tolist() for each in given[name]] for name in ("write_index", "read_index")]
        self._keys = {kind: lengths.tolist() for kind, lengths in given["cu_seq_lens_k"].items()}
        # Of whom the scheduler says that they are in this batch.
        (self._owner,) = [
            each for each in MANAGERS if each.batch_processor and each.batch_processor.cache is given["cache"]
        ]

    def _end(self, module, args, output):
        rows = (output[0] if isinstance(output, tuple) else output)[0].clone()
        bounds, positions = (self._given[name].flatten().tolist() for name in ("cu_seq_lens_q", "position_ids"))
        for number, request in enumerate(self._owner.batch_processor.inputs_and_outputs.requests_in_batch):
            self._see(number, request, rows[bounds[number] : bounds[number + 1]], positions[bounds[number] :])
        if self._kind is not None:
            self.slots.update(zip(self._write[self._kind], rows, strict=True))

    def _see(self, number, request, rows, positions):
        state = request.state
        known = self.rows.setdefault(state.request_id, {})
        begun_again = state._true_initial_tokens == len(state.initial_tokens)
        is_new = self.states.get(state.request_id) is not state and self.forked.get(state.request_id) is not state
        if is_new and begun_again:
            known.clear()
        self.states[state.request_id] = state
        first = state.position_offset - request.query_length
        if first and not known:
            self.shared += 1
            start = self._keys["full_attention"][number]
            known.update(enumerate(self.slots[slot] for slot in self._read[self._kind][start : start + first]))
        for position, row in zip(positions, rows, strict=False):
            self.again += position in known
            known.setdefault(position, row)


MANAGERS = []


@pytest.fixture(autouse=True)
def managers(monkeypatch):
    """Keeps the managers that are made, for the witness."""
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

    original = ContinuousBatchingManager.__init__

    def made(self, *args, **kwargs):
        original(self, *args, **kwargs)
        MANAGERS.append(self)

    monkeypatch.setattr(ContinuousBatchingManager, "__init__", made)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the manager's thread would have a pool of its own
    gc.freeze()  # a manager that stops collects garbage twice, which takes a second where much is imported
    yield MANAGERS
    gc.unfreeze()
    torch.set_num_threads(threads)
    MANAGERS.clear()


def states_alone(model, ids):
    """What a hook on the block sees when a sequence runs by itself."""
    seen = []
    block = model.get_submodule(BLOCKS.get(model.config.model_type, "model.layers.2"))
    hook = block.register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        model(torch.tensor([ids]))
    hook.remove()
    return (seen[0][0] if isinstance(seen[0], tuple) else seen[0])[0]


def check(model, prompts, outputs, records, witness, selection=Selection()):  # noqa: B008
    """Records are those of the outputs, in their order; each row is what the witness saw, and near what runs alone."""
    assert len(outputs) == len(records)
    for (name, output), record in zip(outputs.items(), records, strict=True):
        assert output.error is None
        whole = [*output.prompt_ids, *output.generated_tokens]
        assert record.input_ids == output.prompt_ids
        assert record.output_ids == output.generated_tokens
        assert record.prompt_length == len(output.prompt_ids)
        assert record.positions == selection.choose(len(whole) - 1, record.prompt_length)
        alone = states_alone(model, whole[:-1])
        assert record.activations[SITE].shape[0] == len(record.positions)
        for position, row in zip(record.positions, record.activations[SITE], strict=True):
            assert torch.equal(row, witness.rows[name][position]), (name, position)
            torch.testing.assert_close(row, alone[position], rtol=1e-4, atol=1e-5)


def record_and_check(model, prompts, select=None, **settings):
    selection = select or Selection()
    with Witness(model) as witness, ActivationRecorder(model, selection) as recorder:
        outputs = run(model, prompts, **settings)
    check(model, prompts, outputs, recorder.records, witness, selection)
    return witness, recorder


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_every_request_is_a_record_in_the_order_of_the_inputs(kernel):
    model = tiny_model("llama", attn_implementation=kernel)
    prompts = mixed_prompts()
    witness, recorder = record_and_check(model, prompts)
    assert [record.input_ids for record in recorder.records] == prompts
    assert witness.shared, "no prompt began with the blocks of another"
    assert recorder.records[0].attn_implementation == {"sdpa": "sdpa", "eager": "paged|eager"}[kernel]
    assert model.config._attn_implementation == kernel


def test_a_request_that_is_evicted_and_computed_once_more_has_one_record():
    model = tiny_model("llama")
    for settings in ({"num_blocks": 18, "max_batch_tokens": 40}, {"num_blocks": 20, "scheduler_type": "prefill_first"}):
        witness, _ = record_and_check(model, mixed_prompts(), new=20, config=config_of(**settings))
        assert witness.again
        assert witness.shared
    unshared = config_of(num_blocks=14, max_batch_tokens=60, safety_margin=0.0, allow_block_sharing=False)
    witness, _ = record_and_check(model, mixed_prompts(), new=20, config=unshared)
    assert witness.again
    assert not witness.shared


@pytest.mark.parametrize("share", [True, False])
def test_several_answers_to_one_prompt_are_forks_of_it(share):
    model = tiny_model("llama")
    config = config_of(num_blocks=30, allow_block_sharing=share)
    torch.manual_seed(0)
    _, recorder = record_and_check(model, mixed_prompts(), config=config, num_return_sequences=3, do_sample=True)
    assert [record.input_ids for record in recorder.records] == [each for each in mixed_prompts() for _ in range(3)]
    assert len({tuple(record.output_ids) for record in recorder.records}) > len(mixed_prompts())


def test_forks_that_are_evicted_or_did_not_fit_are_recorded_too():
    torch.manual_seed(0)
    config = config_of(num_blocks=18, safety_margin=0.0)
    settings = {"num_return_sequences": 3, "do_sample": True}
    witness, _ = record_and_check(tiny_model("llama"), mixed_prompts(), new=12, config=config, **settings)
    assert witness.again
    assert witness.shared


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gpt2", {}),
        ("mixtral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 8}),
        ("gemma2", {"sliding_window": 8, "attn_implementation": "eager"}),
        ("gemma3_text", {"sliding_window": 8}),
    ],
)
def test_families_whose_attention_is_full_sliding_or_both(family, settings):
    record_and_check(tiny_model(family, **settings), mixed_prompts(), config=config_of(num_blocks=40))


@pytest.mark.parametrize(
    "positions",
    [
        "prompt",
        "response",
        slice(-3, None),
        [0, -2],
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("last_prompt", "last", slice(2, 6))),
    ],
)
def test_a_selection_keeps_what_it_does_of_any_sequence_though_prompts_are_shared(positions):
    prompts = mixed_prompts()
    with Witness(model := tiny_model("llama")) as witness, ActivationRecorder(model) as whole:
        first = run(model, prompts)
    # The answer of the first becomes part of a prompt: what was response there is prompt here.
    prompts = [*prompts, [*prompts[1], *list(first.values())[1].generated_tokens, 5]]
    config = config_of(num_blocks=24, max_batch_tokens=40, max_requests_per_batch=2)
    witness, _ = record_and_check(model, prompts, Selection(positions=positions), config=config)
    assert witness.shared
    assert len(whole.records) == len(prompts) - 1


def test_every_site_is_recorded_where_it_ran():
    model, prompts = tiny_model("mixtral", sliding_window=None), mixed_prompts()
    sites = [
        "embeddings",
        "layer_0",
        "layer_1.attn_out",
        "layer_1.mlp_out",
        "layer_3.router_logits",
        "final_norm",
        "logits",
    ]
    with ActivationRecorder(model, sites) as recorder:
        run(model, prompts)
    for record in recorder.records:
        with ActivationRecorder(model, sites) as alone, torch.no_grad():
            model(torch.tensor([[*record.input_ids, *record.output_ids[:-1]]]))
        (other,) = alone.records
        for site in sites:
            there = record.positions_of(site)
            torch.testing.assert_close(record.activations[site], other.activations[site][there], rtol=1e-4, atol=1e-5)
        # The head was applied only where a token followed.
        assert record.positions_of("logits") == list(range(record.prompt_length - 1, len(record.positions)))
        assert record.activations["logits"].argmax(-1).tolist() == record.output_ids


def test_recording_changes_no_answer_and_leaves_nothing_behind():
    from transformers.generation.continuous_batching import continuous_api

    model, prompts = tiny_model("llama"), mixed_prompts()
    methods = {name: vars(continuous_api.ContinuousBatchingManager)[name] for name in ("start", "stop", "add_requests")}
    plain = [each.generated_tokens for each in run(model, prompts).values()]
    with ActivationRecorder(model, into=[]):
        recorded = [each.generated_tokens for each in run(model, prompts).values()]
    assert plain == recorded
    for name, method in methods.items():
        assert vars(continuous_api.ContinuousBatchingManager)[name] is method
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


def test_both_strategies_agree():
    model, prompts = tiny_model("llama"), mixed_prompts()
    with ActivationRecorder(model, ["layer_0", "layer_2"]) as one:
        with ActivationRecorder(model, ["layer_0", "layer_2"], strategy="output_hidden_states") as other:
            run(model, prompts)
    assert len(one.records) == len(other.records) == len(prompts)
    for first, second in zip(one.records, other.records, strict=True):
        for site in ("layer_0", "layer_2"):
            assert torch.equal(first.activations[site], second.activations[site])


def test_prompts_and_answers_are_decoded():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    prompts = [tokenizer(text)["input_ids"] for text in ("one", "and two")]
    with ActivationRecorder(model, 1, tokenizer=tokenizer) as recorder:
        run(model, prompts)
    assert [record.prompt for record in recorder.records] == ["one", "and two"]
    assert all(record.recorded == "live" for record in recorder.records)


def test_a_manager_that_is_fed_by_hand_gives_records_when_it_stops():
    model, prompts = tiny_model("llama"), mixed_prompts()
    with Witness(model) as witness, ActivationRecorder(model) as recorder:
        outputs = {}
        with model.continuous_batching_context_manager(
            generation_config=generation_of(), continuous_batching_config=config_of()
        ) as manager:
            for number, prompt in enumerate(prompts):
                manager.add_request(prompt, request_id=f"mine-{9 - number}", max_new_tokens=3 + number)
            while len(outputs) < len(prompts):
                if (output := manager.get_result(timeout=1)) is not None:
                    outputs[output.request_id] = output
            assert recorder.records == []
        assert len(recorder.records) == len(prompts)
    outputs = {f"mine-{9 - number}": outputs[f"mine-{9 - number}"] for number in range(len(prompts))}
    check(model, prompts, outputs, recorder.records, witness)


def test_a_manager_that_is_kept_goes_on_from_prompts_that_were_computed_before():
    model, prompts = tiny_model("llama"), mixed_prompts()
    kept = {"generation_config": generation_of(), "continuous_batching_config": config_of(num_blocks=40)}
    model.generate_batch(prompts[:3], persistent_manager=True, **kept)
    with ActivationRecorder(model) as recorder:
        outputs = model.generate_batch(prompts, persistent_manager=True, **kept)
        again = model.generate_batch(prompts[-1:], persistent_manager=True, **kept)
    model.destroy_cached_continuous_batching_manager()
    before = [record.get("computed_before", 0) for record in recorder.records]
    assert before[2] == 16
    assert before[3] == 0
    assert before[-1] == 16
    assert len(recorder.records) == len(prompts) + 1
    for output, record in zip([*outputs.values(), *again.values()], recorder.records, strict=True):
        assert record.input_ids == output.prompt_ids
        assert record.output_ids == output.generated_tokens
        length = len(output.prompt_ids) + len(output.generated_tokens) - 1
        assert record.positions == list(range(record.get("computed_before", 0), length))
        with ActivationRecorder(model, SITE) as alone, torch.no_grad():
            model(torch.tensor([[*record.input_ids, *record.output_ids[:-1]]]))
        whole = alone.records[0].activations[SITE]
        torch.testing.assert_close(record.activations[SITE], whole[record.positions], rtol=1e-4, atol=1e-5)


def test_other_calls_inside_the_block_have_records_of_their_own():
    model, prompts = tiny_model("llama"), mixed_prompts()
    with ActivationRecorder(model, SITE) as recorder:
        model(torch.tensor(prompts[:1]))
        run(model, prompts[:2])
        model.generate(torch.tensor(prompts[1:2]), generation_config=generation_of(3))
        run(model, prompts[2:4])
    wanted = [prompts[number] for number in (0, 0, 1, 1, 2, 3)]
    assert [record.input_ids for record in recorder.records] == wanted


def test_each_thread_records_what_its_own_manager_computes():
    model, prompts = tiny_model("llama"), mixed_prompts()
    recorders = {}

    def batch(name, own):
        with ActivationRecorder(model, SITE) as recorder:
            run(model, own)
        recorders[name] = recorder

    def alone():
        with ActivationRecorder(model, SITE) as recorder, torch.no_grad():
            for prompt in prompts:
                model(torch.tensor([prompt]))
        recorders["alone"] = recorder

    threads = [threading.Thread(target=batch, args=given) for given in (("one", prompts[:5]), ("two", prompts[3:]))]
    threads.append(threading.Thread(target=alone))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    given = {name: [record.input_ids for record in recorder.records] for name, recorder in recorders.items()}
    assert given == {"one": prompts[:5], "two": prompts[3:], "alone": prompts}
    # Threads that run one model beside a manager may leave its configuration with `is_causal=False`: transformers sets
    # and restores it there around each forward pass. So another model of the same weights is asked.
    other = tiny_model("llama")
    for record in recorders["two"].records:
        whole = states_alone(other, [*record.input_ids, *record.output_ids[:-1]])
        torch.testing.assert_close(record.activations[SITE], whole, rtol=1e-4, atol=1e-5)


def test_a_thread_without_a_recorder_and_the_model_within_are_recorded_too():
    model, prompts = tiny_model("llama"), mixed_prompts()
    with ActivationRecorder(model.model, SITE) as recorder:
        thread = threading.Thread(target=run, args=(model, prompts))
        thread.start()
        thread.join(60)
        run(tiny_model("gpt2"), prompts)  # another model's
    assert [record.input_ids for record in recorder.records] == prompts


def test_rows_are_given_in_the_order_in_which_they_are_asked_for():
    kept = RowsInAnyOrder(Scratch())
    states, logits = torch.randn(1, 6, 8), torch.randn(1, 3, 5)
    call = Call(1, 6, logits_columns=[1, 3, 5])
    kept.take("layer_0", Place("block", axes="residual"), states, call, Arrivals(0, 6, None))
    kept.take("logits", Place("head", axes="logits"), logits, call, Arrivals(0, 6, None))
    rows, present = kept.of("layer_0", [4, 5, 0, 1])
    assert present is None
    assert torch.equal(rows, states[0, [4, 5, 0, 1]])
    rows, present = kept.of("logits", [4, 5, 0, 1])
    assert present == [1, 3]
    assert torch.equal(rows, logits[0, [2, 0]])


# What cannot be followed is refused before anything runs; what fails in the manager's thread reaches the caller.


def refusal_of(model, config, match, select=None):
    calls = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    kernel = model.config._attn_implementation
    with pytest.raises(CaptureError, match=match), ActivationRecorder(model, select):
        run(model, mixed_prompts(), config=config)
    hook.remove()
    assert not calls
    assert model.config._attn_implementation == kernel
    assert not [thread for thread in threading.enumerate() if "_run_generation_loop" in thread.name]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"default_compile_level": 1}, "compiles the model"),
        ({"use_async_batching": True}, "use_async_batching=False"),
        ({"cpu_offload_space": 0.001}, "cpu_offload_space=0"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_anything_runs(settings, match):
    refusal_of(tiny_model("llama", attn_implementation="eager"), config_of(**settings), match)


def test_cuda_graphs_are_refused(monkeypatch):
    # Where there is no GPU, transformers switches them off by itself.
    monkeypatch.setattr(ContinuousBatchingConfig, "cuda_graph_booleans", property(lambda self: (True, False)))
    refusal_of(tiny_model("llama"), config_of(), "use_cuda_graph=False")


def test_attention_patterns_of_packed_rows_are_refused():
    refusal_of(tiny_model("llama", attn_implementation="eager"), config_of(), "attn_probs", "layer_1.attn_probs")


def test_a_release_that_is_laid_out_otherwise_is_refused(monkeypatch):
    from transformers.generation.continuous_batching import continuous_api

    def lose_the_batch(module, args):
        del MANAGERS[-1].batch_processor.inputs_and_outputs.requests_in_batch

    model = tiny_model("llama")
    with monkeypatch.context() as patch:
        patch.delattr(continuous_api.ContinuousBatchingManager, "pause")
        refusal_of(model, config_of(), "no pause")
    model.register_forward_pre_hook(lose_the_batch)
    with pytest.raises(CaptureError, match="not laid out as in 5.23"), ActivationRecorder(model):
        run(model, mixed_prompts())


def test_generate_with_a_paged_cache_is_refused_because_it_takes_padding_for_tokens():
    model = tiny_model("llama")
    with pytest.raises(CaptureError, match="generate_batch"), ActivationRecorder(model):
        model.generate(torch.tensor([[1, 2, 3]]), cache_implementation="paged", max_new_tokens=2)


def test_a_generate_that_is_refused_while_a_manager_computes_does_not_disturb_it():
    model, (prompt, *_) = tiny_model("llama"), mixed_prompts()
    computing, go_on = threading.Event(), threading.Event()

    def pause(module, args):
        computing.set()
        assert go_on.wait(20)

    with Witness(model) as witness, ActivationRecorder(model, SITE) as recorder:
        manager = model.init_continuous_batching(
            generation_config=generation_of(), continuous_batching_config=config_of()
        )
        with model.model.layers[1].register_forward_pre_hook(pause):
            manager.start()
            name = manager.add_request(prompt)
            assert computing.wait(20)
            with pytest.raises(CaptureError, match="generate_batch"):
                model.generate(torch.tensor([[1, 2, 3]]), cache_implementation="paged", max_new_tokens=2)
            go_on.set()
            output = manager.get_result(timeout=20)
        manager.stop()
    check(model, [prompt], {name: output}, recorder.records, witness)


def test_an_error_of_ours_in_the_thread_of_the_manager_reaches_the_caller():
    model = tiny_model("llama")

    def run_it_again(module, args, kwargs):
        model.model.layers[0](*args, **kwargs)

    model.model.layers[1].register_forward_pre_hook(run_it_again, with_kwargs=True)
    with pytest.raises(CaptureError, match="ran more than once"), ActivationRecorder(model) as recorder:
        run(model, mixed_prompts())
    assert recorder.records == []


def test_an_error_of_the_model_leaves_the_records_of_what_was_answered():
    model, prompts = tiny_model("llama"), mixed_prompts()
    calls = []

    def fail(module, args):
        calls.append(1)
        if len(calls) == 12:
            raise RuntimeError("out of luck")

    model.model.layers[3].register_forward_pre_hook(fail)
    with ActivationRecorder(model) as recorder:
        outputs = run(model, prompts)
    answered = {name: output for name, output in outputs.items() if output.error is None}
    assert 0 < len(answered) < len(prompts)
    assert [record.output_ids for record in recorder.records] == [each.generated_tokens for each in answered.values()]


def test_a_manager_that_runs_before_the_block_is_refused():
    model = tiny_model("llama")
    manager = model.init_continuous_batching(generation_config=generation_of(), continuous_batching_config=config_of())
    manager.start()
    try:
        with pytest.raises(CaptureError, match="starts inside the block"), ActivationRecorder(model):
            name = manager.add_request([1, 2, 3], max_new_tokens=2)
            output = manager.get_result(timeout=20)
            assert output.request_id == name
            assert "starts inside the block" in output.error
    finally:
        manager.stop()


def test_a_manager_that_still_computes_when_the_block_ends_is_an_error():
    model = tiny_model("llama")
    manager = model.init_continuous_batching(generation_config=generation_of(), continuous_batching_config=config_of())

    def dawdle(module, args):
        time.sleep(0.2)

    handle = model.register_forward_pre_hook(dawdle)
    try:
        with pytest.raises(CaptureError, match="stop the manager inside the block"), ActivationRecorder(model):
            manager.start()
            manager.add_request([1, 2, 3], max_new_tokens=50)
            while not manager.batch_processor or not manager.batch_processor.scheduler.active_requests:
                time.sleep(0.05)
    finally:
        handle.remove()
        manager.stop(hard_stop=True)


def test_requests_that_are_cancelled_have_no_record():
    model, prompts = tiny_model("llama"), mixed_prompts()
    with ActivationRecorder(model) as recorder:
        manager = model.init_continuous_batching(
            generation_config=generation_of(), continuous_batching_config=config_of()
        )
        manager.start()
        manager.add_request(prompts[0], request_id="long", max_new_tokens=50)
        manager.add_request(prompts[1], request_id="short", max_new_tokens=2)
        output = manager.get_result(timeout=20)
        manager.cancel_request("long")
        manager.stop()
    assert output.request_id == "short"
    assert [record.input_ids for record in recorder.records] == [prompts[1]]
