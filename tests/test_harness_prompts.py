"""What is ranked by log-likelihood reads as in the tasks of lm-evaluation-harness: their own files, our rows."""

import importlib.util
from pathlib import Path

import jinja2
import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

from actframe.benchmarks.base import BenchmarkOptions
from actframe.benchmarks.opening import open_benchmark
from actframe.benchmarks.prompting import Prompting
from actframe.benchmarks.rows import read_rows

DATA = Path(__file__).parent / "data" / "benchmarks"
TASKS = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"
FILES = {
    "arc_challenge": "arc/arc_challenge.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "commonsense_qa": "commonsense_qa/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "mmlu": "mmlu/default/mmlu_anatomy.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "truthfulqa": "truthfulqa/truthfulqa_mc1.yaml",
    "winogrande": "winogrande/default.yaml",
}


class Loader(yaml.SafeLoader):
    """Reads `!function module.name` as its text."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def task(name):
    """A task's settings with those of the files that it includes."""
    path = TASKS / FILES[name]
    settings = yaml.load(path.read_text(), Loader)
    if include := settings.get("include"):
        settings = yaml.load((path.parent / include).read_text(), Loader) | settings
    return settings


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Documents(list):
    """What a task's `process_docs` takes."""

    def map(self, function):
        return Documents(function(each) for each in self)


def evaluated(template, row):
    if "{" not in template:
        return row[template]
    environment = NativeEnvironment(undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(**row)


def put_by_the_harness(name, row):
    settings = task(name)
    if name == "winogrande":
        winogrande = module_of(TASKS / "winogrande/preprocess_winogrande.py")
        return [(context, f" {winogrande.doc_to_target(row)}") for context in winogrande.doc_to_choice(row)]
    if name == "hellaswag":
        (row,) = module_of(TASKS / "hellaswag/utils.py").process_docs(Documents([row]))
    choices = settings["doc_to_choice"]
    choices = choices if isinstance(choices, list) else evaluated(choices, row)
    template = settings["doc_to_text"]
    text = row[template] if template in row else jinja2.Template(template).render(**row)
    about = settings.get("description", "").replace("anatomy", row.get("subject", "").replace("_", " "))
    return [(about + text, f" {choice}") for choice in choices]


@pytest.mark.parametrize("name", FILES)
def test_contexts_and_continuations_are_those_of_the_harness(name):
    benchmark = open_benchmark(name, BenchmarkOptions(data=str(DATA / name)))
    rows = list(read_rows(DATA / name / f"{benchmark.split}.jsonl"))
    for row, question in zip(rows, benchmark.questions(), strict=True):
        ours = [(each.context, each.continuation) for each in benchmark.ranking(question, Prompting(chat=False))]
        theirs = put_by_the_harness(name, row)
        # Ours are shuffled where the right choice would always come first.
        assert (sorted(ours) if benchmark.shuffled else ours) == (sorted(theirs) if benchmark.shuffled else theirs)
