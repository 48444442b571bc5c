"""Choices -> token ids: what is scored, what stands before it, and what the choices of a question share."""

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from actframe import BenchmarkAdapter, BenchmarkError, ModelError, PromptError, Question
from actframe.benchmarks.prompting import Completion, Prompting
from actframe.runs.choices import make_ranking
from actframe.runs.models import LoadedModel
from actframe.testing import tiny_model, tiny_tokenizer

QUESTION = Question("q", "?", "A", choices=("x", "y"))
PLAIN = Prompting(chat=False)
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


class Given(BenchmarkAdapter):
    """One question with these completions."""

    name = "given"

    def __init__(self, *completions):
        self.pairs = completions

    def questions(self):
        return [QUESTION]

    def extract_answer(self, response, question):
        return None

    def completions(self, question):
        return [Completion(*pair) for pair in self.pairs]


def ranked(loaded, *completions, prompting=PLAIN):
    return make_ranking(loaded, Given(*completions), QUESTION, prompting)


def test_a_pair_is_encoded_whole_and_cut_where_its_context_ends(tiny):
    ranking = ranked(tiny, ("Q:", " A"), ("Q:", " BC"))
    assert ranking.prompt == "Q:"
    assert ranking.prompt_ids == tiny.tokenizer("Q:").input_ids
    assert [choice.context for choice in ranking.choices] == [ranking.prompt_ids] * 2
    assert [choice.continuation for choice in ranking.choices] == [
        tiny.tokenizer(" A").input_ids,
        tiny.tokenizer(" BC").input_ids,
    ]
    assert ranking.longest == len("Q: BC") - 1


PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "Paris"),
    ("The capital of France is\n\n", "Paris, of course"),
    ("The answer is un", "believable"),
    ("2 + 2 =", " 4"),
    ("<|im_start|>user\nHello", " there"),
    ("", "Paris is the capital"),
    ("naïve café", " ☕ 東京"),
]


@pytest.mark.parametrize("family", ["smollm2", "llama", "t5"])
def test_pairs_have_the_tokens_that_lm_evaluation_harness_gives_them(family, smollm2):
    loaded = smollm2 if family == "smollm2" else LoadedModel(family, tiny_model(family), tiny_tokenizer())
    harness = HFLM(
        pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="seq2seq" if family == "t5" else "causal"
    )
    harness._loglikelihood_tokens = lambda requests, **_: requests
    asked = [Instance("loglikelihood", {}, pair, 0, ("task", 0, 1)) for pair in PAIRS]
    theirs = [(before, after) for _, before, after in harness.loglikelihood(asked, disable_tqdm=True)]
    found = [ranked(loaded, pair).choices[0] for pair in PAIRS]
    assert [(choice.context, choice.continuation) for choice in found] == theirs


def test_a_tokenizer_that_begins_texts_with_a_token_does_it_once(tiny):
    tokenizer = tiny_tokenizer()
    tokenizer.add_bos_token = True
    loaded = LoadedModel("tiny", tiny.model, tokenizer)
    start = tokenizer.bos_token_id
    assert tokenizer("Q").input_ids == [start, *tiny.tokenizer("Q").input_ids]
    for context in ("Q:", "<bos>Q:"):
        (choice,) = ranked(loaded, (context, " A")).choices
        assert choice.context == [start, *tiny.tokenizer("Q:").input_ids]
        assert choice.continuation == tiny.tokenizer(" A").input_ids
    (alone,) = ranked(loaded, ("", "A")).choices
    assert (alone.context, alone.continuation) == ([start], tiny.tokenizer("A").input_ids)


def test_the_prompt_is_what_all_contexts_begin_with(tiny):
    ranking = ranked(tiny, ("Ann met Bob because Ann", " was late."), ("Ann met Bob because Bob", " was late."))
    assert ranking.prompt == "Ann met Bob because "
    assert ranking.prompt_ids == tiny.tokenizer("Ann met Bob because ").input_ids


def test_choices_that_begin_apart_share_no_prompt(tiny):
    ranking = ranked(tiny, ("Ann won", "."), ("Bob won", "."))
    assert (ranking.prompt, ranking.prompt_ids) == ("", [])


def test_a_choice_that_is_scored_by_itself_takes_no_part_in_the_prompt(tiny):
    ranking = ranked(tiny, ("Q:", " A"), ("Q:", " B"), ("", " A"), ("", " B"))
    assert ranking.prompt == "Q:"
    assert ranking.choices[2].context == [tiny.tokenizer.bos_token_id]


def test_in_a_chat_template_the_context_is_what_the_user_says_and_the_system_text_a_message(tiny):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    loaded = LoadedModel("tiny", tiny.model, tokenizer)
    prompting = Prompting(chat=True, system="Be short.")
    ranking = ranked(loaded, ("Q:", " A"), ("Q:", " BC"), prompting=prompting)
    assert ranking.prompt == "Q:"
    text = "[system] Be short.\n[user] Q:\n[assistant]\n"
    assert [tokenizer.decode(choice.ids) for choice in ranking.choices] == [f"{text}A", f"{text}BC"]
    # Without a template it stands before the question.
    assert ranked(loaded, ("Q:", " A"), prompting=Prompting(chat=False, system="Be short.")).prompt == "Be short.\n\nQ:"
    with pytest.raises(ModelError, match="'tiny' has no chat template"):
        ranked(tiny, ("Q:", " A"), prompting=Prompting(chat=True))


def test_choices_without_tokens_are_refused_by_the_name_of_their_question(tiny):
    with pytest.raises(PromptError, match="question 'q' of 'given': choice '' adds no token to 'Q:'"):
        ranked(tiny, ("Q:", " A"), ("Q:", ""))
    with pytest.raises(PromptError, match="question 'q' of 'given': choice '' has no tokens"):
        ranked(tiny, ("", ""))


def test_an_adapter_that_breaks_its_contract_is_named_with_the_question(tiny):
    with pytest.raises(
        BenchmarkError, match="'given' failed to make the choices of question 'q': TypeError: .*completions"
    ):
        ranked(tiny)

    class Broken(Given):
        name = "broken"

        def completions(self, question):
            raise ValueError("no such column")

    with pytest.raises(BenchmarkError, match="'broken' failed .* question 'q': ValueError: no such column"):
        make_ranking(tiny, Broken(), QUESTION, PLAIN)
