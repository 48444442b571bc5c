"""A benchmark and settings that keep a run short, for the tests of runs."""

import contextlib
import resource

import torch

from actframe import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import Message
from actframe.runs.generation import GenerationSettings
from actframe.runs.settings import RunSettings

TEXTS = ["one?", "the second question is long", "3", "four four four", "five?!", "a sixth", "7 7 7 7 7", "eight", "9?"]


class Toy(BenchmarkAdapter):
    """Nine questions; the answer is the letter of the response's length, and none for every fifth."""

    name = "toy"

    def questions(self):
        for number, text in enumerate(TEXTS):
            yield Question(f"toy/{number}", text, "A", choices=("w", "x", "y", "z"), subject=f"s{number % 2}")

    def prompt(self, question):
        return f"Q: {question.text}"

    def conversation(self, question, prompting):
        """Nothing but the question, so that prompts stay short."""
        return [Message("user", self.prompt(question))]

    def extract_answer(self, response, question):
        return None if len(response) % 5 == 0 else "ABCD"[len(response) % 4]


def settings(*, capture=None, num_trials=1, limit=None, layout="store", **more):
    """Batches of four and six new tokens; what `RunSettings` does not know goes to the generation."""
    own = {name: more.pop(name) for name in ("max_disk_bytes", "shard_bytes", "flush_every") if name in more}
    generation = GenerationSettings(**{"max_new_tokens": 6, "batch_size": 4, **more})
    return RunSettings(num_trials, limit, generation, capture, layout=layout, **own)


def hooks_of(model):
    """Every hook of every module, to see that none stays."""
    return [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()]


@contextlib.contextmanager
def interrupted_at_forward(model, number, layer=2):
    """Inside the block, Ctrl-C comes in the middle of a forward pass: the number-th, from 1."""
    ran = []

    def interrupt(*_):
        ran.append(True)
        if len(ran) == number:
            raise KeyboardInterrupt

    with model.model.layers[layer].register_forward_hook(interrupt):
        yield


@contextlib.contextmanager
def no_forward(model):
    """Inside the block the model must not run."""

    def refuse(*_):
        raise AssertionError("the model ran")

    with model.model.layers[0].register_forward_pre_hook(refuse):
        yield


@contextlib.contextmanager
def files_up_to(size):
    """Inside the block no file becomes larger: what a test can have of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_same_answers(found, expected):
    """Two stores hold the same answers, bit for bit, each once; only the time of writing may differ."""
    assert len(found) == len(expected)
    ours, theirs = ({(r.question_id, r.trial): r for r in store} for store in (found, expected))
    assert ours.keys() == theirs.keys()
    assert len(ours) == len(found)
    for key, record in ours.items():
        other = theirs[key]
        assert {**record, "timestamp": None, "activations": None} == {**other, "timestamp": None, "activations": None}
        assert list(record.activations) == list(other.activations)
        for site, tensor in record.activations.items():
            assert tensor.dtype == other.activations[site].dtype
            assert torch.equal(tensor, other.activations[site])
