"""Records of any batch, however it is padded, cached, sampled and cut, are those of its rows alone.

Two properties, over what is drawn:

- A record has exactly the tokens and positions of its sequence, and at each site what one pass over that sequence alone
  gives, but for rounding. The kernels sum in another order there, so bits differ; `tolerance` says by how much at most.
- What a selection keeps is bit for bit the slice of what a full recording has, whichever strategy took it.

The examples are the same each time; `ACTFRAME_HUNT=1000` in the environment looks at so many others.
"""

import functools
import os
import warnings
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from actframe import ActivationRecorder, Selection
from actframe.testing import tiny_model
from actframe.testing.proofs.agreement import apart, tolerance

PAD = 258
TOKENS = range(260)
WINDOW = 6
SIZES = {
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {"sliding_window": WINDOW},
    "gemma3_text": {"sliding_window": WINDOW},
}
FAMILIES = ["llama", "mistral", "gpt2", "gemma3_text", "mixtral", "opt", "gpt_neox"]
SITES = ["embeddings", "layer_*", "layer_*.mlp_out", "logits"]
LIMIT = tolerance("float32", 4, 32)
HALF = ["float16", "bfloat16"]


@functools.cache
def model_of(family):
    return tiny_model(family, **SIZES.get(family, {}))


@dataclass(frozen=True)
class Way:
    """A batch, and how `generate` is called."""

    prompts: tuple[tuple[int, ...], ...]
    more_padding: int
    options: tuple[tuple[str, object], ...]
    seed: int

    def inputs(self, side="left"):
        width = max(map(len, self.prompts)) + self.more_padding
        ids, mask = [], []
        for prompt in self.prompts:
            pads = width - len(prompt)
            ids.append([*prompt, *[PAD] * pads] if side == "right" else [*[PAD] * pads, *prompt])
            mask.append([*[1] * len(prompt), *[0] * pads] if side == "right" else [*[0] * pads, *[1] * len(prompt)])
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    def run(self, model):
        torch.manual_seed(self.seed)
        # A cast that overflows warns, as it should.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            inputs = self.inputs()
            returned = model.generate(**inputs, pad_token_id=PAD, **dict(self.options)).tolist()
        return [self.answer(row, sequence) for row, sequence in enumerate(returned)]

    def answer(self, row, sequence):
        """The prompt and the response of a returned row, which ends with its first end of sequence."""
        prompt = list(self.prompts[row // dict(self.options).get("num_return_sequences", 1)])
        response = sequence[max(map(len, self.prompts)) + self.more_padding :]
        ends = dict(self.options)["eos_token_id"] or []
        first = next((n for n, token in enumerate(response) if token in ends), len(response))
        return prompt, response[: first + 1]


def of_the_prompts(lengths, tokens=TOKENS):
    return st.tuples(*[st.lists(st.sampled_from(tokens), min_size=n, max_size=n).map(tuple) for n in lengths])


@st.composite
def ways(draw):
    lengths = draw(st.lists(st.integers(1, 13), min_size=1, max_size=4))
    prompts = draw(of_the_prompts(lengths))
    options = {
        "max_new_tokens": draw(st.integers(1, 6)),
        "do_sample": draw(st.booleans()),
        # Where a third of all tokens end a sequence, rows end at different steps.
        "eos_token_id": draw(st.sampled_from([None, list(TOKENS)[::3]])),
    }
    kind = draw(st.sampled_from(["one answer", "several answers", "beams", "drafts"]))
    cache = draw(st.sampled_from(["dynamic", "static", "none", "chunks"]))
    if kind == "drafts":
        prompts, cache = prompts[:1], "dynamic"
        options["prompt_lookup_num_tokens"] = draw(st.integers(1, 4))
    elif kind == "several answers":
        options |= {"do_sample": True, "num_return_sequences": draw(st.integers(2, 3))}
    elif kind == "beams":
        options["num_beams"] = draw(st.integers(2, 3))
        options["num_return_sequences"] = draw(st.integers(1, options["num_beams"]))
    if options["do_sample"]:
        options["top_k"] = 0
    if cache == "static":
        options |= {"cache_implementation": "static", "disable_compile": True}
    elif cache == "none":
        options["use_cache"] = False
    elif cache == "chunks":
        options["prefill_chunk_size"] = draw(st.integers(1, 8))
    event(f"{cache}, {kind}")
    return Way(prompts, draw(st.integers(0, 3)), tuple(options.items()), draw(st.integers(0, 2**16)))


@st.composite
def selections(draw):
    numbers = st.integers(-22, 22)
    positions = draw(
        st.one_of(
            st.sampled_from(["all", "prompt", "response", "last_prompt", "last"]),
            st.builds(slice, st.none() | numbers, st.none() | numbers),
            st.lists(numbers, min_size=1, max_size=5),
        )
    )
    sites = draw(st.sampled_from([None, "layer_*", ["embeddings", 2], "layer_*.mlp_out", ["layer_1", "logits"]]))
    return Selection(
        sites, positions, draw(st.sampled_from([None, None, "mean", "max"])), draw(st.sampled_from([None, *HALF]))
    )


def chosen(selection, length, prompt_length):
    """Which positions a selection means, said in another way than the recorder says it."""
    positions = selection.positions
    if positions == "last_prompt":
        return [prompt_length - 1]
    if positions == "last":
        return [length - 1]
    if isinstance(positions, str):
        kept = {"all": (0, length), "prompt": (0, prompt_length), "response": (prompt_length, length)}
        return list(range(*kept[positions]))
    if isinstance(positions, slice):
        return list(range(length)[positions])
    return [p for p in range(length) if p in positions or p - length in positions]


def cut(tensor, rows, selection):
    """A slice of a full recording, reduced and cast as a selection asks for."""
    tensor = tensor[rows]
    if selection.reduce == "mean" and rows:
        tensor = tensor.mean(0, keepdim=True)
    if selection.reduce == "max" and rows:
        tensor = tensor.amax(0, keepdim=True)
    return tensor if selection.dtype is None else tensor.to(selection.dtype)


def assert_right(model, record, prompt, response):
    """The record has the tokens and positions of its sequence, and what one pass over it alone gives."""
    fed = [*prompt, *response][: max(len(prompt) + len(response) - 1, len(prompt))]
    assert record.input_ids == prompt
    assert record.output_ids == response
    assert record.positions == list(range(len(fed)))
    assert record.prompt_length == len(prompt)
    with torch.no_grad(), ActivationRecorder(model, SITES) as recorder:
        model(torch.tensor([fed]))
    (alone,) = recorder.records
    assert list(alone.activations) == list(record.activations)
    for site, tensor in record.activations.items():
        # Of the prompt, generate computes the logits of the last position, or of the last one of each chunk.
        positions = record.positions_of(site)
        computed = record.positions[len(prompt) - 1 :] if site == "logits" else record.positions
        assert positions[-len(computed) :] == computed
        assert positions == sorted(set(positions) & set(record.positions))
        expected = alone.activations[site][positions]
        assert tensor.shape == expected.shape
        share = apart(tensor, expected)
        assert float(share.max()) <= LIMIT, f"{site}, position {positions[int(share.argmax())]}"


def assert_cut(whole, part, selection):
    """The part has exactly what the selection means of the whole, where the whole has it."""
    wanted = chosen(selection, len(whole.positions), whole.prompt_length)
    assert part.positions == wanted
    assert set(part.activations) & set(whole.activations)
    for site, tensor in part.activations.items():
        if site in whole.activations:
            there = whole.positions_of(site)
            positions = [position for position in wanted if position in there]
            assert part.positions_of(site) == positions
            rows = [there.index(position) for position in positions]
            assert torch.equal(tensor, cut(whole.activations[site], rows, selection)), site


def check_generation(family, way, selection, strategy):
    model = model_of(family)
    if strategy != "hooks":
        selection = replace(selection, sites=None)
    with ActivationRecorder(model, SITES) as full, ActivationRecorder(model, selection, strategy=strategy) as some:
        answers = way.run(model)
    assert len(full.records) == len(some.records) == len(answers)
    for whole, part, (prompt, response) in zip(full.records, some.records, answers, strict=True):
        assert_right(model, whole, prompt, response)
        assert_cut(whole, part, selection)


HUNT = int(os.environ.get("ACTFRAME_HUNT", "0"))


def drawn(count):
    return settings(
        max_examples=HUNT or count,
        derandomize=not HUNT,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@drawn(60)
@given(way=ways(), selection=selections(), strategy=st.sampled_from(["hooks", "output_hidden_states"]))
def test_however_it_generates_each_record_is_that_of_its_row_alone(way, selection, strategy):
    check_generation("llama", way, selection, strategy)


@drawn(60)
@given(way=ways(), selection=selections(), strategy=st.sampled_from(["hooks", "output_hidden_states"]))
def test_so_it_is_where_attention_slides(way, selection, strategy):
    check_generation("mistral", way, selection, strategy)


@drawn(60)
@given(way=ways(), selection=selections(), side=st.sampled_from(["left", "right"]))
def test_a_bare_forward_pass_of_a_batch_is_its_rows_alone(way, selection, side):
    model, inputs = model_of("llama"), way.inputs(side)
    with torch.no_grad(), ActivationRecorder(model, SITES) as full, ActivationRecorder(model, selection) as some:
        model(**inputs)
    assert len(full.records) == len(way.prompts)
    for whole, part, prompt in zip(full.records, some.records, way.prompts, strict=True):
        assert_right(model, whole, list(prompt), [])
        assert_cut(whole, part, selection)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_in_many_families(family):
    @drawn(120)
    @given(way=ways(), selection=selections(), strategy=st.sampled_from(["hooks", "output_hidden_states"]))
    def check(way, selection, strategy):
        check_generation(family, way, selection, strategy)

    check()
