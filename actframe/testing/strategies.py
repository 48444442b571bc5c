"""CaptureStrategyTests: what every capture strategy must do, for the tests of yours.

from actframe.testing import CaptureStrategyTests

class TestBlockOutputs(CaptureStrategyTests):
    @pytest.fixture
    def strategy(self):
        return BlockOutputs()
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actframe.capture.available import layout_of
from actframe.capture.base import CaptureStrategy
from actframe.capture.forward_hooks import ForwardHooks
from actframe.capture.layout import ModelLayout
from actframe.capture.sites import INPUT, LAYER, MODULE
from actframe.testing.installed import assert_usable
from actframe.testing.models import tiny_model
from actframe.testing.observing import (
    NEW_TOKENS,
    PROMPTS,
    PlannedError,
    assert_emitted,
    failing,
    generate,
    ignore,
    keep,
    no_trace,
    observe,
    recorded,
    some_ids,
    tensors_of,
)
from actframe.testing.proofs.reference import Reference, same_bits

__all__ = ["CaptureStrategyTests"]


class CaptureStrategyTests:
    """Subclass this in a test file, with a fixture `strategy` that returns yours; pytest runs the rest.

    Tests run on tiny models with random weights. A strategy that takes other models overrides the fixture `model`,
    which returns one that takes `input_ids` and generates.
    """

    @pytest.fixture
    def strategy(self) -> CaptureStrategy:
        """The strategy under test."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `strategy` that returns the one under test")

    @pytest.fixture(params=["llama", "gpt2"])
    def model(self, request: pytest.FixtureRequest) -> Any:
        """The model that it is attached to."""
        return tiny_model(request.param)

    @pytest.fixture
    def layout(self, model: Any) -> ModelLayout:
        """Where the parts of the model are."""
        with contextlib.suppress(TypeError):
            # Transformers hooks its own modules the first time that hidden states are asked for.
            model(some_ids(), output_hidden_states=True)
        return layout_of(model)

    @pytest.fixture
    def sites(self, strategy: CaptureStrategy, model: Any, layout: ModelLayout) -> list[str]:
        """What the strategy takes from the model."""
        return list(strategy.available(model, layout))

    def test_it_is_found_by_its_name_and_made_without_arguments(self, strategy: CaptureStrategy) -> None:
        kind = type(strategy)
        assert_usable(kind)
        assert isinstance(kind(), kind), "actframe makes a strategy without arguments"

    def test_it_offers_sites_of_the_layout_in_its_order(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        assert sites, f"available() offers no site of a {type(model).__name__}; it has {', '.join(layout.places)}"
        unknown = [site for site in sites if site not in layout.places]
        assert not unknown, f"available() offers {unknown}, which the layout of {type(model).__name__} does not have"
        assert sites == [site for site in layout.places if site in sites], (
            "available() gives sites in the order of the layout, each once"
        )
        assert sites == list(strategy.available(model, layout)), "available() gives other sites the second time"

    def test_a_refusal_is_a_reason_in_words(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        for site in [each for each in layout.places if each not in sites]:
            reason = strategy.refusal(site, model, layout)
            assert reason is None or (isinstance(reason, str) and reason), f"refusal({site!r}) gave {reason!r}"

    @pytest.mark.parametrize("grad", [False, True], ids=["without a graph", "with a graph"])
    def test_outputs_are_unchanged_bit_for_bit(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str], grad: bool
    ) -> None:
        with torch.set_grad_enabled(grad):
            for asked in ({}, {"output_hidden_states": True}, {"return_dict": False}):
                plain = model(some_ids(), **asked)
                with strategy.attach(model, layout, sites, ignore):
                    observed = model(some_ids(), **asked)
                assert type(observed) is type(plain), f"model(ids, {asked}) returns another type while it is observed"
                before, now = tensors_of(plain), tensors_of(observed)
                assert [*before] == [*now], (
                    f"model(ids, {asked}) returns {[*now]} while it is observed, not {[*before]}"
                )
                for name, tensor in before.items():
                    assert same_bits(tensor, now[name]), f"{name} of model(ids, {asked}) changes while it is observed"

    def test_what_is_generated_is_unchanged(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        plain = generate(model)
        with strategy.attach(model, layout, sites, ignore):
            observed = generate(model)
        assert torch.equal(plain, observed), "generate() gives other tokens while it is observed"

    def test_each_site_is_emitted_once_in_each_forward_pass(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        emitted: list[Counter[str]] = []

        def emit(site: str, tensor: Tensor) -> None:
            emitted[-1][site] += 1

        def begin(*_: Any) -> None:
            emitted.append(Counter())

        with strategy.attach(model, layout, sites, emit), model.register_forward_pre_hook(begin):
            model(some_ids())
            generate(model)
        assert len(emitted) == 1 + NEW_TOKENS, (
            f"{len(emitted)} forward passes ran, where one and {NEW_TOKENS} are expected"
        )
        for number, counts in enumerate(emitted):
            wrong = {site: counts[site] for site in {*sites, *counts} if counts[site] != 1}
            assert not wrong, f"forward pass {number} emitted {_counted(wrong)}; each site is emitted once in each"

    def test_only_the_sites_asked_for_are_emitted(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        for asked in (sites[:1], sites[-1:], sites[::2]):
            found = observe(strategy, model, layout, asked)
            assert set(found) == set(asked), f"{asked} were asked for, and {[*found]} came"

    def test_what_is_emitted_is_what_plain_hooks_see_bit_for_bit(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        with Reference(model, layout, sites) as reference:
            found = observe(strategy, model, layout, sites)
        for site in sites:
            (expected,) = reference.calls(site)
            assert_emitted(found, site, expected, f"what {layout.places[site].module} gives")

    def test_what_is_emitted_is_the_tensor_of_the_model_with_its_graph(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        kept: dict[str, Tensor] = {}
        with torch.enable_grad(), strategy.attach(model, layout, sites, kept.__setitem__):
            loss = model(some_ids()).logits.float().square().sum()
        for site, tensor in kept.items():
            assert tensor.requires_grad, f"{site} was emitted without its graph; emit the model's tensor, undetached"
        stream = [site for site in kept if LAYER.fullmatch(site)]
        gradients = torch.autograd.grad(loss, [kept[site] for site in stream], allow_unused=True)
        for site, gradient in zip(stream, gradients, strict=True):
            assert gradient is not None, (
                f"{site} is a copy that the loss does not depend on; emit the model's own tensor"
            )

    def test_module_sites_are_what_plain_hooks_see_where_it_takes_them(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout
    ) -> None:
        if not strategy.takes_modules:
            pytest.skip("the strategy does not declare takes_modules")
        path = layout.towers[-1].blocks[1]
        seen: dict[str, Tensor] = {}

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[f"{MODULE}{path}{INPUT}"] = args[0].clone()
            seen[f"{MODULE}{path}"] = (output[0] if isinstance(output, tuple) else output).clone()

        with model.get_submodule(path).register_forward_hook(hook):
            found = observe(strategy, model, layout, [f"{MODULE}{path}", f"{MODULE}{path}{INPUT}"])
        for site, expected in seen.items():
            assert_emitted(found, site, expected, "what a hook on it sees")

    def test_nothing_stays_on_the_model_when_the_block_ends(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        with no_trace(model, "when the block ended"):
            observe(strategy, model, layout, sites)
        with no_trace(model, "of a block in which the model never ran"), strategy.attach(model, layout, sites, ignore):
            pass

    def test_nothing_stays_on_the_model_when_it_raises(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        attached = strategy.attach(model, layout, sites, ignore)
        with no_trace(model, "when the model raised"), pytest.raises(PlannedError), attached, failing(model, layout):
            model(some_ids())

    def test_what_emit_raises_reaches_the_caller_and_nothing_stays(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        def emit(site: str, tensor: Tensor) -> None:
            raise PlannedError

        with no_trace(model, "when emit raised"):
            try:
                with strategy.attach(model, layout, sites, emit):
                    model(some_ids())
            except PlannedError:
                return
        pytest.fail("emit() raised, and the forward pass went on as if nothing had happened")

    def test_a_pass_after_one_that_failed_is_whole(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        expected = observe(strategy, model, layout, sites)
        found: dict[str, Tensor] = {}

        def emit(site: str, tensor: Tensor) -> None:
            found[site] = tensor.detach().clone()

        with strategy.attach(model, layout, sites, emit):
            with pytest.raises(PlannedError), failing(model, layout):
                model(some_ids(seed=1))
            found.clear()
            model(some_ids())
        for site in sites:
            assert_emitted(found, site, expected[site], "what it was without the pass before, which failed")

    def test_two_may_be_attached_at_once_and_end_in_any_order(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        expected = observe(strategy, model, layout, sites)
        found: list[dict[str, Tensor]] = [{}, {}]
        asked = [sites, sites[:1]]
        with no_trace(model, "when two blocks had ended"):
            both = [
                type(strategy)().attach(model, layout, each, keep(kept))
                for each, kept in zip(asked, found, strict=True)
            ]
            for block in both:
                block.__enter__()
            model(some_ids())
            both[0].__exit__(None, None, None)
            first, found[0] = found[0], {}
            model(some_ids())
            both[1].__exit__(None, None, None)
        assert not found[0], "it went on to emit after its block had ended"
        for kept, own in zip((first, found[1]), asked, strict=True):
            for site in own:
                assert_emitted(kept, site, expected[site], "what it is when it is observed once")

    def test_generation_with_padding_is_recorded_as_plain_hooks_see_it(
        self, strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: list[str]
    ) -> None:
        lengths = [len(each) for each in PROMPTS]
        stream = [site for site in sites if LAYER.fullmatch(site) or site.endswith("embeddings")]
        with Reference(model, layout, stream) as reference:
            records = recorded(strategy, model, sites)
        assert [record.prompt_length for record in records] == lengths, "padding was recorded, or prompts were cut"
        for row, record in enumerate(records):
            assert record.positions == list(range(lengths[row] + NEW_TOKENS - 1)), f"row {row}: {record.positions}"
            for site in stream:
                expected = torch.cat(reference.calls(site), 1)[row, max(lengths) - lengths[row] :]
                same = same_bits(record.activations[site], expected)
                assert same, f"{site} of row {row} of a padded batch is not what plain hooks see"

    def test_generation_with_padding_is_recorded_as_the_strategy_hooks_does(
        self, strategy: CaptureStrategy, model: Any, sites: list[str]
    ) -> None:
        for ours, theirs in zip(recorded(strategy, model, sites), recorded(ForwardHooks(), model, sites), strict=True):
            assert (ours.input_ids, ours.output_ids) == (theirs.input_ids, theirs.output_ids)
            for site in sites:
                assert ours.positions_of(site) == theirs.positions_of(site), (
                    f"{site} has other positions than with hooks"
                )
                same = same_bits(ours.activations[site], theirs.activations[site])
                assert same, f"{site} is not bit for bit what strategy 'hooks' records"


def _counted(wrong: dict[str, int]) -> str:
    return ", ".join(f"{site} {count} times" for site, count in sorted(wrong.items()))
