"""Models of images and sound: the same recorder, by patches and frames."""

import pytest
import torch
import transformers
from plain import plain_hooks

from actframe import ActivationRecorder, CaptureError
from actframe.testing import tiny_model

pytestmark = pytest.mark.usefixtures("no_grad")
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
IMAGES = {**SIZES, "image_size": 32, "patch_size": 8}
SOUND = {
    **SIZES,
    "vocab_size": 30,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 99,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 20,
    "decoder_start_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(kind, config, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()


OF_IMAGES = [
    ("ViTModel", "ViTConfig", "layers", 17),
    ("ViTForImageClassification", "ViTConfig", "vit.layers", 17),
    ("Dinov2Model", "Dinov2Config", "encoder.layer", 17),
    ("CLIPVisionModel", "CLIPVisionConfig", "vision_model.encoder.layers", 17),
    ("SiglipVisionModel", "SiglipVisionConfig", "vision_model.encoder.layers", 16),
]


@pytest.mark.parametrize(("kind", "config", "path", "patches"), OF_IMAGES, ids=[kind for kind, *_ in OF_IMAGES])
def test_an_image_is_a_sequence_of_patches(kind, config, path, patches):
    model = build(kind, config, **IMAGES)
    images = torch.randn(2, 3, 32, 32)
    expected = model(pixel_values=images)[0]
    with plain_hooks(blocks_of(model, path)) as seen, ActivationRecorder(model) as recorder:
        assert torch.equal(model(pixel_values=images)[0], expected)
    assert recorder.sites == ["embeddings", "layer_0", "layer_1", "layer_2"]
    for row, record in enumerate(recorder.records):
        assert record.input_ids == []
        assert record.positions == list(range(patches))
        for layer in range(3):
            assert torch.equal(record.activations[f"layer_{layer}"], seen[layer][0][row])


def blocks_of(model, path):
    """The blocks at a path, or, as versions of transformers move them about, in the one list of three modules."""
    try:
        return list(model.get_submodule(path))
    except AttributeError:
        (only,) = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3]
        return list(only)


@pytest.mark.parametrize(
    ("kind", "config"),
    [("Wav2Vec2Model", "Wav2Vec2Config"), ("HubertModel", "HubertConfig"), ("Wav2Vec2ForCTC", "Wav2Vec2Config")],
)
def test_frames_of_padded_sound_are_those_of_the_sound_alone(kind, config):
    model = build(kind, config, **SOUND)
    sound = torch.randn(2, 800)
    mask = torch.ones(2, 800, dtype=torch.long)
    mask[1, 400:] = 0
    sound = sound * mask
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    with plain_hooks(list(blocks)) as seen, ActivationRecorder(model) as recorder:
        model(sound, attention_mask=mask)
    with ActivationRecorder(model) as alone:
        model(sound[1:, :400])
    assert [len(record.positions) for record in recorder.records] == [79, 39]
    for layer in range(3):
        padded = recorder.records[1].activations[f"layer_{layer}"]
        assert torch.equal(padded, seen[layer][0][1, :39])
        assert torch.allclose(padded, alone.records[0].activations[f"layer_{layer}"], atol=1e-5)


def test_a_mask_of_another_width_than_the_positions_is_refused():
    class Strided(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(8, 8)

        def forward(self, values, attention_mask):
            return self.layer(values[:, ::2])

    model, values = Strided(), torch.randn(2, 6, 8)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with pytest.raises(CaptureError, match="which of them are padding is not known"):
        with ActivationRecorder(model, "module:layer"):
            model(values, mask)
    with ActivationRecorder(model, "module:layer") as recorder:
        model(values, torch.ones_like(mask))
    assert [record.positions for record in recorder.records] == [[0, 1, 2], [0, 1, 2]]


def test_a_model_that_hears_and_writes_has_two_towers():
    model = build("WhisperForConditionalGeneration", "WhisperConfig", **WHISPER)
    sound = torch.randn(2, 8, 40)
    settings = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(sound, **settings)
    with plain_hooks(model.model.encoder.layers) as heard, plain_hooks(model.model.decoder.layers) as written:
        with ActivationRecorder(model) as recorder:
            assert torch.equal(model.generate(sound, **settings), expected)
    for row, record in enumerate(recorder.records):
        for layer in range(3):
            assert torch.equal(record.activations[f"encoder.layer_{layer}"], heard[layer][0][row])
            kept = record.activations[f"decoder.layer_{layer}"]
            assert torch.equal(kept, torch.cat(written[layer], dim=1)[row, : len(kept)])
        assert len(record.positions_of("encoder.layer_0")) == 20
        assert record.positions == list(range(len(record.positions)))


def test_text_of_an_encoder_with_the_same_name_for_its_mask_is_unpadded_as_before():
    bert = tiny_model("bert")
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with ActivationRecorder(bert, 0) as recorder:
        bert(inputs_embeds=torch.randn(2, 4, 32), attention_mask=mask)
    assert [len(record.positions) for record in recorder.records] == [3, 4]
