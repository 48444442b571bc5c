"""What a user says of a model's parts."""

import pytest
import torch
from zoo.outcome import accepted_inputs, build, run

from actframe import ActivationRecorder, LayoutError
from actframe.capture.layout import ModelLayout, Place, Tower, find_layout
from actframe.testing import tiny_model

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


class Twins(torch.nn.Module):
    """Two lists of modules that could both be the blocks."""

    def __init__(self):
        super().__init__()
        self.left = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])
        self.right = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(3)])

    def forward(self, values):
        for block in [*self.left, *self.right]:
            values = block(values)
        return values


def test_the_path_of_the_blocks_decides_where_the_structure_does_not():
    model, values = Twins(), torch.randn(2, 5, 4)
    with pytest.raises(LayoutError, match="left, right"):
        ActivationRecorder(model)
    with torch.no_grad(), ActivationRecorder(model, blocks="right") as recorder:
        final = model(values)
    assert list(recorder.activations) == ["embeddings", "layer_0", "layer_1", "layer_2"]
    assert torch.equal(recorder.activations["layer_2"], final)


@pytest.mark.parametrize(
    ("family", "blocks"),
    [("llama", "model.layers"), ("t5", {"decoder.": "decoder.block", "encoder.": "encoder.block"})],
)
def test_blocks_named_by_hand_give_the_layout_that_would_have_been_found(family, blocks):
    model = tiny_model(family)
    found = find_layout(model)
    assert find_layout(model, {"": blocks} if isinstance(blocks, str) else blocks) == found
    assert ActivationRecorder(model, blocks=blocks).sites == ActivationRecorder(model).sites


def test_a_layout_by_hand_has_the_sites_that_it_names_and_no_others():
    model = tiny_model("llama")
    layout = ModelLayout((Tower("", ("model.layers.1",)),), {"layer_0": Place("model.layers.1")})
    with torch.no_grad(), ActivationRecorder(model, layout=layout) as recorder:
        states = model(IDS, output_hidden_states=True).hidden_states
    assert list(recorder.activations) == ["layer_0"]
    assert torch.equal(recorder.activations["layer_0"], states[2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"blocks": "model.layer"}, r"'model.layer' is not in the model; .*lengths: model.layers \(4\)"),
        ({"blocks": "model"}, "'model' is a LlamaModel, not a list of modules"),
        ({"blocks": {"x": "model.layers"}}, "a word with a dot, like 'vision.', or nothing; not 'x'"),
        ({"blocks": {}}, "or such paths by site prefix, not {}"),
        ({"blocks": "model.layers", "layout": ModelLayout()}, "and blocks= too; give one of them"),
        ({"layout": "model.layers"}, "takes a ModelLayout, not str; to name the list of blocks alone, use blocks="),
        (
            {"layout": ModelLayout((Tower("", ()),), {"layer_0": Place("model.layer.0")})},
            "names 'model.layer.0' as site layer_0, and LlamaForCausalLM has no such module "
            r"\(did you mean 'model.layers.0'\?\)",
        ),
        ({"layout": ModelLayout((Tower("", ("h.0",)),))}, "names 'h.0' as block 0 of tower ''"),
        (
            {"layout": ModelLayout((Tower("", ()),), {"x.layer_0": Place("model.layers.0", tower="x.")})},
            "x.layer_0 in tower 'x.', which it does not describe; its towers: ''",
        ),
    ],
)
def test_what_the_model_does_not_have_is_refused_before_anything_runs(arguments, words):
    with pytest.raises(LayoutError, match=words):
        ActivationRecorder(tiny_model("llama"), **arguments)


@pytest.mark.parametrize(
    ("kind", "name", "blocks", "records"),
    [
        (
            "llava",
            "LlavaForConditionalGeneration",
            {"vision.": "model.vision_tower.encoder.layers", "": "model.language_model.layers"},
            3,
        ),
        (
            "qwen2_vl",
            "Qwen2VLForConditionalGeneration",
            {"vision.": "model.visual.blocks", "": "model.language_model.layers"},
            1,
        ),
    ],
)
def test_images_that_a_tower_of_their_own_looks_at_are_records_of_their_own(kind, name, blocks, records):
    model = build(kind, name)
    inputs = accepted_inputs(kind, model)
    seen = []
    with model.get_submodule(blocks["vision."])[0].register_forward_hook(lambda _, args, output: seen.append(output)):
        run(model, inputs)
    with ActivationRecorder(model, ["vision.layer_0", "layer_0"], blocks=blocks) as recorder:
        run(model, inputs)
    images = [each for each in recorder.records if "vision.layer_0" in each.activations]
    texts = [each for each in recorder.records if "layer_0" in each.activations]
    assert (len(images), len(texts)) == (records, 3)
    assert not any("layer_0" in each.activations for each in images)
    ours = torch.cat([each.activations["vision.layer_0"] for each in images])
    assert torch.equal(ours, seen[0].reshape(ours.shape))
    assert [each.input_ids for each in texts] == inputs["input_ids"].tolist()
