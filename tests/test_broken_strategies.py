"""The suite of strategies finds each way in which a strategy can break its contract, and says which it is."""

from contextlib import contextmanager
from typing import ClassVar

import pytest
from mutants import Mutant, assert_found, assert_found_by_nothing_else, checks_of

from actframe.capture.forward_hooks import ForwardHooks
from actframe.capture.sites import INPUT
from actframe.testing import CaptureStrategyTests

GENERATION = frozenset(
    {
        "test_generation_with_padding_is_recorded_as_plain_hooks_see_it",
        "test_generation_with_padding_is_recorded_as_the_strategy_hooks_does",
    }
)


class Hooks(ForwardHooks):
    """Keeps its contract, as it is the built-in one; the others break one promise each."""

    name = "their_hooks"


class TwoWords(Hooks):
    name = "two words"


class Reversed(Hooks):
    def available(self, model, layout):
        return super().available(model, layout)[::-1]


class WithoutReason(Hooks):
    def available(self, model, layout):
        return Hooks().available(model, layout)[:-1]

    def refusal(self, site, model, layout):
        return True


class ChangesHiddenStates(Hooks):
    @contextmanager
    def attach(self, model, layout, sites, emit):
        def hook(module, args, output):
            states = output.get("hidden_states") if isinstance(output, dict) else None
            if states is not None:
                output["hidden_states"] = (*states[:-1], states[-1] * 1.000001)

        with super().attach(model, layout, sites, emit), model.register_forward_hook(hook):
            yield


class ChangesSteps(Hooks):
    @contextmanager
    def attach(self, model, layout, sites, emit):
        def hook(module, args, output):
            if isinstance(output, dict) and output["logits"].shape[0] == 3:
                output["logits"] = output["logits"].neg()

        with super().attach(model, layout, sites, emit), model.register_forward_hook(hook):
            yield


class Twice(Hooks):
    def attach(self, model, layout, sites, emit):
        def again(site, tensor):
            emit(site, tensor)
            if tensor.shape[0] == 2:
                emit(site, tensor)

        return super().attach(model, layout, sites, again)


class MoreThanAsked(Hooks):
    def attach(self, model, layout, sites, emit):
        return super().attach(model, layout, list({"layer_1": None, **dict.fromkeys(sites)}), emit)


class Rounded(Hooks):
    def attach(self, model, layout, sites, emit):
        def rounded(site, tensor):
            emit(site, tensor.bfloat16().float() if tensor.shape[0] == 2 and site == "layer_1" else tensor)

        return super().attach(model, layout, sites, rounded)


class Detached(Hooks):
    def attach(self, model, layout, sites, emit):
        return super().attach(model, layout, sites, lambda site, tensor: emit(site, tensor.detach()))


class OutputForInput(Hooks):
    def attach(self, model, layout, sites, emit):
        real = {site.removesuffix(INPUT): site for site in sites}
        return super().attach(model, layout, list(real), lambda site, tensor: emit(real[site], tensor))


class LeavesANote(Hooks):
    @contextmanager
    def attach(self, model, layout, sites, emit):
        with super().attach(model, layout, sites, emit):
            yield
        model.was_observed = True


class StaysAfterAnError(Hooks):
    @contextmanager
    def attach(self, model, layout, sites, emit):
        attached = super().attach(model, layout, sites, emit)
        attached.__enter__()
        try:
            yield
        except ZeroDivisionError:
            raise
        except Exception:
            model.failed_once = True
            attached.__exit__(None, None, None)
            raise
        attached.__exit__(None, None, None)


class SwallowsErrors(Hooks):
    def attach(self, model, layout, sites, emit):
        def quietly(site, tensor):
            try:
                emit(site, tensor)
            except Exception:
                return

        return super().attach(model, layout, sites, quietly)


class ThinksItIsNested(Hooks):
    @contextmanager
    def attach(self, model, layout, sites, emit):
        running = []

        def begin(*_):
            running.append(True)

        def end(*_):
            running.clear()

        def outermost(site, tensor):
            if len(running) < 2:
                emit(site, tensor)

        with super().attach(model, layout, sites, outermost):
            with model.register_forward_pre_hook(begin), model.register_forward_hook(end):
                yield


class OnlyOneAtATime(Hooks):
    current: ClassVar[dict] = {}

    @contextmanager
    def attach(self, model, layout, sites, emit):
        def latest(site, tensor):
            self.current[id(model)](site, tensor)

        self.current[id(model)] = emit
        with super().attach(model, layout, sites, latest):
            yield


class ForgetsPadding(Hooks):
    def attach(self, model, layout, sites, emit):
        def shifted(site, tensor):
            residual = tensor.ndim == 3 and tensor.shape[0] == 3 and site == "layer_2"
            emit(site, tensor.flip(1) if residual else tensor)

        return super().attach(model, layout, sites, shifted)


class OtherLogits(Hooks):
    def attach(self, model, layout, sites, emit):
        def shifted(site, tensor):
            emit(site, tensor * 2 if tensor.shape[0] == 3 and site == "logits" else tensor)

        return super().attach(model, layout, sites, shifted)


MUTANTS = [
    Mutant(TwoWords, "test_it_is_found_by_its_name_and_made_without_arguments", "leave out blanks"),
    Mutant(Reversed, "test_it_offers_sites_of_the_layout_in_its_order", "in the order of the layout"),
    Mutant(WithoutReason, "test_a_refusal_is_a_reason_in_words", "') gave True"),
    Mutant(ChangesHiddenStates, "test_outputs_are_unchanged_bit_for_bit", "changes while it is observed"),
    Mutant(
        ChangesSteps,
        "test_what_is_generated_is_unchanged",
        "other tokens while it is observed",
        frozenset({"test_generation_with_padding_is_recorded_as_the_strategy_hooks_does"}),
    ),
    Mutant(Twice, "test_each_site_is_emitted_once_in_each_forward_pass", "embeddings 2 times"),
    Mutant(MoreThanAsked, "test_only_the_sites_asked_for_are_emitted", "were asked for, and"),
    Mutant(
        Rounded,
        "test_what_is_emitted_is_what_plain_hooks_see_bit_for_bit",
        "layer_1 is not bit for bit what",
        frozenset({"test_what_is_emitted_is_the_tensor_of_the_model_with_its_graph"}),
    ),
    Mutant(
        Detached,
        "test_what_is_emitted_is_the_tensor_of_the_model_with_its_graph",
        "emitted without its graph; emit the model's tensor",
    ),
    Mutant(OutputForInput, "test_module_sites_are_what_plain_hooks_see_where_it_takes_them", "what a hook on it sees"),
    Mutant(
        LeavesANote,
        "test_nothing_stays_on_the_model_when_the_block_ends",
        "(LlamaForCausalLM) is not as it was when the block ended: was_observed changed",
    ),
    Mutant(
        StaysAfterAnError,
        "test_nothing_stays_on_the_model_when_it_raises",
        "is not as it was when the model raised: failed_once changed",
        frozenset({"test_what_emit_raises_reaches_the_caller_and_nothing_stays"}),
    ),
    Mutant(
        SwallowsErrors,
        "test_what_emit_raises_reaches_the_caller_and_nothing_stays",
        "the forward pass went on as if nothing had happened",
    ),
    Mutant(ThinksItIsNested, "test_a_pass_after_one_that_failed_is_whole", "embeddings was asked for and not emitted"),
    Mutant(OnlyOneAtATime, "test_two_may_be_attached_at_once_and_end_in_any_order", "not emitted"),
    Mutant(
        ForgetsPadding,
        "test_generation_with_padding_is_recorded_as_plain_hooks_see_it",
        "layer_2 of row 0 of a padded batch",
        GENERATION,
    ),
    Mutant(
        OtherLogits,
        "test_generation_with_padding_is_recorded_as_the_strategy_hooks_does",
        "logits is not bit for bit what strategy 'hooks' records",
    ),
]


def test_there_is_a_broken_strategy_for_every_check():
    assert {mutant.check for mutant in MUTANTS} == checks_of(CaptureStrategyTests)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_strategy_is_found_by_the_check_for_it(mutant):
    assert_found(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_strategy_is_found_by_nothing_else(mutant):
    assert_found_by_nothing_else(mutant)
