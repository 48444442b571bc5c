"""The stack of blocks: which list it is, in what order its blocks run, and what is refused."""

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    BigBirdConfig,
    BigBirdModel,
    FunnelConfig,
    FunnelModel,
    XLMConfig,
    XLMModel,
)
from zoo.outcome import build

from actframe import ActivationRecorder
from actframe.capture.layout import find_layout
from actframe.errors import CaptureError, LayoutError

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def albert(**sizes):
    sizes = {"vocab_size": 50, "embedding_size": 16, "hidden_size": 32, "intermediate_size": 48, **sizes}
    return AlbertModel(AlbertConfig(num_attention_heads=4, num_hidden_layers=4, **sizes)).eval()


def test_a_layer_is_a_call_where_one_block_serves_as_all_layers():
    model = albert()
    calls = []
    block = model.encoder.albert_layer_groups[0]
    block.register_forward_hook(lambda module, args, output: calls.append((args[0].clone(), output.clone())))
    with ActivationRecorder(model, ["embeddings", "layer_*", "layer_2.resid_pre"]) as recorder, torch.no_grad():
        model(IDS)
        model(IDS + 1)
    assert len(calls) == 8
    for start, record in ((0, recorder.records[0]), (4, recorder.records[2])):
        found = record.activations
        assert torch.equal(found["embeddings"], calls[start][0][0])
        assert torch.equal(found["layer_2.resid_pre"], calls[start + 2][0][0])
        for number in range(4):
            assert torch.equal(found[f"layer_{number}"], calls[start + number][1][0])


def test_a_shared_block_that_runs_more_often_than_its_configuration_says_is_refused():
    model = albert()
    recorder = ActivationRecorder(model)
    model.config.num_hidden_layers = 6
    with pytest.raises(CaptureError, match="ran more than 4 times in one forward pass"), recorder, torch.no_grad():
        model(IDS)


def test_a_shared_block_that_runs_less_often_is_never_a_hole():
    model = albert()
    recorder = ActivationRecorder(model)
    model.config.num_hidden_layers = 3
    with pytest.raises(CaptureError, match="layer_3 did not run"), recorder, torch.no_grad():
        model(IDS)


def test_several_shared_blocks_are_refused_because_nothing_tells_their_order():
    model = albert(num_hidden_groups=2)
    with pytest.raises(CaptureError, match="ran more than once"), ActivationRecorder(model), torch.no_grad():
        model(IDS)


def test_stages_of_the_same_blocks_in_a_list_of_lists_are_a_choice_to_make():
    model = FunnelModel(FunnelConfig(vocab_size=50, d_model=32, n_head=4, d_head=8, d_inner=48, block_sizes=[1, 2]))
    with pytest.raises(LayoutError, match="decoder.layers, encoder.blocks.0, encoder.blocks.1; name the right one"):
        find_layout(model)
    layout = find_layout(model, {"": "encoder.blocks.1"})
    assert layout.towers[0].blocks == ("encoder.blocks.1.0", "encoder.blocks.1.1")


def test_a_model_whose_layers_have_no_module_is_refused_before_it_runs_and_its_parts_can_be_recorded():
    model = XLMModel(XLMConfig(vocab_size=50, emb_dim=32, n_layers=2, n_heads=4)).eval()
    with pytest.raises(LayoutError, match="may well be the parts of its blocks"):
        ActivationRecorder(model)
    with pytest.raises(LayoutError, match="could be its blocks"):
        ActivationRecorder(model, ["module:ffns.1", "layer_0"])
    with ActivationRecorder(model, "module:ffns.1") as recorder, torch.no_grad():
        model(IDS)
    assert recorder.activations["module:ffns.1"].shape == (2, 3, 32)


def test_the_stack_of_one_tower_is_never_taken_for_the_other():
    layout = find_layout(build("parakeet_rnnt", "ParakeetForRNNT"))
    assert [(tower.prefix, tower.blocks[0]) for tower in layout.towers] == [("encoder.", "encoder.layers.0")]


def test_a_model_without_blocks_asks_what_to_record():
    with pytest.raises(LayoutError, match="no list of blocks was found in Linear.*blocks='path.to.the.list'"):
        ActivationRecorder(nn.Linear(2, 2))
    assert ActivationRecorder(nn.Linear(2, 2), "module:").sites == ["module:"]


def test_what_a_model_pads_within_itself_is_left_out():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    sparse = {"attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1}
    model = BigBirdModel(BigBirdConfig(vocab_size=70, max_position_embeddings=64, **sizes, **sparse)).eval()
    passed = []
    model.encoder.layer[1].register_forward_hook(lambda module, args, output: passed.append(output.clone()))
    ids = torch.randint(5, 50, (2, 17))
    with ActivationRecorder(model, ["layer_1", "layer_1.attn_out"]) as recorder, torch.no_grad():
        model(ids)
    assert passed[0].shape[1] == 18
    assert torch.equal(recorder.activations["layer_1"], passed[0][:, :17])
    assert recorder.activations["layer_1.attn_out"].shape == (2, 17, 32)


def test_the_input_of_a_block_that_is_called_with_keywords_is_its_first_parameter_in_any_order():
    class Block(nn.Module):
        def forward(self, state, mask=None):
            return state + 1

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Block(), Block()])

        def forward(self, input_ids):
            state = input_ids[..., None].float()
            for block in self.layers:
                state = block(mask=torch.zeros_like(state), state=state)
            return state

    with ActivationRecorder(Model()) as recorder:
        recorder.model(IDS)
    for number, site in enumerate(["embeddings", "layer_0", "layer_1"]):
        assert torch.equal(recorder.activations[site], IDS[..., None] + number)
