"""Models that look at images and write: both towers by the prefix of their sites, without a word from the user."""

import json

import pytest
import torch
import transformers
from plain import assert_plain, plain_hooks
from typer.testing import CliRunner
from zoo.configs import tiny_configs
from zoo.outcome import accepted_inputs, build, run
from zoo.truth import same

from actframe import ActivationRecorder, CaptureError, Selection, SiteError
from actframe.capture.layout import find_layout
from actframe.cli.main import app
from actframe.testing import tiny_tokenizer
from actframe.testing.proofs.selftest import selftest

LAYERS = 4
TOKENS = 4


def llava_like(kind, name):
    model = build(kind, name)
    return model, accepted_inputs(kind, model)


def gemma(kind, name):
    config = next(tiny_configs(kind, name))
    config.mm_tokens_per_image = TOKENS
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # of zeros, no image is seen
    ids, types = prompts(model)
    return model, {"input_ids": ids, "token_type_ids": types, "pixel_values": torch.randn(3, 3, 64, 64)}


def idefics(kind, name):
    model = build(kind, name)
    ids, _ = prompts(model)
    return model, {"input_ids": ids, "pixel_values": torch.randn(3, 1, 3, 64, 64)}


def prompts(model):
    """Three prompts with one image each."""
    ids = torch.randint(4, 90, (3, 7 + TOKENS), generator=torch.Generator().manual_seed(1))
    ids[:, 2 : 2 + TOKENS] = model.config.image_token_id
    return ids, (ids == model.config.image_token_id).long()


MODELS = {
    "llava": (llava_like, "LlavaForConditionalGeneration", "model.vision_tower.encoder.layers", 3),
    "qwen2_vl": (llava_like, "Qwen2VLForConditionalGeneration", "model.visual.blocks", 1),
    "gemma3": (gemma, "Gemma3ForConditionalGeneration", "model.vision_tower.encoder.layers", 3),
    "idefics3": (idefics, "Idefics3ForConditionalGeneration", "model.vision_model.encoder.layers", 3),
}
"""How each is made, the list of blocks that looks at the images, and how many records three images are."""

TEXT = "model.language_model.layers", "model.text_model.layers"


@pytest.fixture(params=MODELS)
def seeing(request):
    make, name, path, records = MODELS[request.param]
    torch.manual_seed(3)
    model, inputs = make(request.param, name)
    return model, inputs, model.get_submodule(path), records


def language(model):
    return next(module for path, module in model.named_modules() if path in TEXT)


def assert_seen(records, seen):
    """Every layer of all records together is what the blocks that look at images gave in all their calls."""
    for layer in range(LAYERS):
        ours = torch.cat([record.activations[f"vision.layer_{layer}"] for record in records])
        theirs = torch.cat([call.reshape(-1, call.shape[-1]) for call in seen[layer]])
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), layer


def hooks(tower):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in tower.modules())


def parted(records):
    images = [each for each in records if each.sites[0].startswith("vision.")]
    return images, [each for each in records if each not in images]


def test_sites_of_the_tower_alone_are_recorded_and_nothing_of_the_text(seeing):
    model, inputs, blocks, count = seeing
    expected = run(model, inputs).logits
    with plain_hooks(blocks) as seen, ActivationRecorder(model, "vision.layer_*") as recorder:
        assert same(run(model, inputs).logits, expected)
    assert recorder.sites == [f"vision.layer_{layer}" for layer in range(LAYERS)]
    assert len(recorder.records) == count
    assert_seen(recorder.records, seen)
    for record in recorder.records:
        assert (record.input_ids, record.output_ids) == ([], [])
        assert record.positions == list(range(len(record.activations["vision.layer_0"])))
    assert recorder.activations["vision.layer_3"].shape[0] == count


def test_what_enters_the_tower_is_what_its_first_block_takes(seeing):
    model, inputs, blocks, _ = seeing
    entered = []
    with blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    ):
        with ActivationRecorder(model, "vision.embeddings") as recorder:
            run(model, inputs)
    ours = torch.cat([record.activations["vision.embeddings"] for record in recorder.records])
    assert torch.equal(ours, torch.cat([each.reshape(-1, each.shape[-1]) for each in entered]))


def test_both_towers_are_recorded_together_and_the_images_come_before_their_text(seeing):
    model, inputs, blocks, count = seeing
    kept = []
    with plain_hooks(blocks) as seen, plain_hooks(language(model)) as written:
        with ActivationRecorder(model, ["layer_*", "vision.layer_*"]) as recorder:
            run(model, inputs)
        with ActivationRecorder(model, ["layer_*", "vision.layer_*"], into=kept):
            run(model, inputs)
    for records in (recorder.records, kept):
        images, texts = parted(records)
        assert (len(images), len(texts)) == (count, 3)
        assert records == [*images, *texts]
        assert_seen(images, [calls[: len(calls) // 2] for calls in seen])
        assert_plain(texts, [calls[:1] for calls in written])
        assert [each.input_ids for each in texts] == inputs["input_ids"].tolist()
    assert list(recorder.activations) == [f"layer_{layer}" for layer in range(LAYERS)]


def test_the_default_a_number_and_a_plain_pattern_mean_the_language_model(seeing):
    model, inputs, _, _ = seeing
    text = [f"layer_{layer}" for layer in range(LAYERS)]
    assert ActivationRecorder(model).sites == ["embeddings", *text]
    assert ActivationRecorder(model, "layer_*").sites == text
    assert ActivationRecorder(model, -1).sites == ["layer_3"]
    assert {"vision.layer_0", "layer_0"} <= set(ActivationRecorder(model, "**").sites)
    tower = model.get_submodule(find_layout(model).towers[0].root)
    before = hooks(tower)
    with ActivationRecorder(model) as recorder:
        assert hooks(tower) == before
        run(model, inputs)
    assert len(recorder.records) == 3


def test_generate_with_images_gives_the_answers_and_what_was_seen_once(seeing):
    model, inputs, blocks, count = seeing
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        expected = model.generate(**inputs, **settings)
        kept = []
        with plain_hooks(blocks) as seen, plain_hooks(language(model)) as written:
            with ActivationRecorder(model, ["vision.layer_*", "layer_*"]) as recorder:
                assert torch.equal(model.generate(**inputs, **settings), expected)
                assert [each.sites[0] for each in recorder.records] == ["vision.layer_0"] * count + ["layer_0"] * 3
        with ActivationRecorder(model, ["vision.layer_0", "layer_0"], into=kept):
            model.generate(**inputs, **{**settings, "max_new_tokens": 1})
            model.generate(**inputs, **settings)
    images, texts = parted(recorder.records)
    assert_seen(images, seen)
    assert_plain(texts, written)
    assert [each.output_ids for each in texts] == expected[:, inputs["input_ids"].shape[1] :].tolist()
    assert [each.sites[0] for each in kept] == (["vision.layer_0"] * count + ["layer_0"] * 3) * 2


def test_generate_with_the_tower_alone_gives_what_was_seen(seeing):
    model, inputs, blocks, count = seeing
    with torch.no_grad(), plain_hooks(blocks) as seen, ActivationRecorder(model, "vision.**") as recorder:
        model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert len(recorder.records) == count
    assert_seen(recorder.records, seen)


def test_of_patches_too_the_first_the_last_or_their_mean_are_kept():
    model, inputs = llava_like("llava", "LlavaForConditionalGeneration")
    with ActivationRecorder(model, "vision.layer_2") as whole:
        run(model, inputs)
    with ActivationRecorder(model, Selection("vision.layer_2", positions=[0, -1])) as ends:
        run(model, inputs)
    with ActivationRecorder(model, Selection("vision.layer_2", reduce="mean")) as pooled:
        run(model, inputs)
    for each, two, one in zip(whole.records, ends.records, pooled.records, strict=True):
        patches = each.activations["vision.layer_2"]
        assert torch.equal(two.activations["vision.layer_2"], patches[[0, -1]])
        assert torch.equal(one.activations["vision.layer_2"], patches.mean(0, keepdim=True))


def test_gradients_come_to_both_towers_with_one_backward(seeing):
    model, inputs, _, count = seeing
    with ActivationRecorder(model, ["vision.layer_1", "layer_1"], gradients=True) as recorder:
        for _ in range(2):
            model(**inputs).logits.pow(2).sum().backward()
    images, texts = parted(recorder.records)
    assert (len(images), len(texts)) == (2 * count, 6)
    assert all(each.activations["vision.layer_1@grad"].any() for each in images)
    assert all(each.activations["layer_1@grad"].any() for each in texts)


def test_a_pass_that_fails_after_the_image_was_seen_leaves_no_record_of_it():
    model, inputs = llava_like("llava", "LlavaForConditionalGeneration")

    def fail(*_):
        raise RuntimeError("out of memory")

    with ActivationRecorder(model, ["vision.layer_0", "layer_0"]) as recorder:
        with language(model)[2].register_forward_hook(fail), pytest.raises(RuntimeError, match="out of memory"):
            run(model, inputs)
        run(model, inputs)
    assert len(recorder.records) == 6


def test_a_generate_that_fails_leaves_no_record_of_what_it_saw(seeing):
    model, inputs, blocks, count = seeing
    settings = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def give_up(ids, scores, **_):
        raise RuntimeError("no answer in time")

    with torch.no_grad(), ActivationRecorder(model, ["vision.layer_*", "layer_*"]) as recorder:
        with pytest.raises(RuntimeError, match="no answer in time"):
            model.generate(**inputs, **settings, stopping_criteria=[give_up])
        assert recorder.records == []
        with plain_hooks(blocks) as seen, plain_hooks(language(model)) as written:
            model.generate(**inputs, **settings)
    images, texts = parted(recorder.records)
    assert (len(images), len(texts)) == (count, 3)
    assert_seen(images, seen)
    assert_plain(texts, written)


def test_text_alone_has_no_image_and_is_recorded_all_the_same():
    model, _ = llava_like("llava", "LlavaForConditionalGeneration")
    ids = {"input_ids": torch.tensor([[5, 6, 7]])}
    with ActivationRecorder(model, ["vision.layer_0", "layer_0"]) as recorder:
        run(model, ids)
    assert [each.sites for each in recorder.records] == [["layer_0"]]
    with pytest.raises(CaptureError, match="none of the selected sites fired"):
        with ActivationRecorder(model, "vision.layer_0"):
            run(model, ids)


def test_a_layer_that_only_the_tower_has_is_no_number_of_a_layer():
    model, _ = llava_like("llava", "LlavaForConditionalGeneration")
    with pytest.raises(SiteError, match="no layer 4: the number of layers is 4;"):
        ActivationRecorder(model, 4)
    with pytest.raises(SiteError, match=r"no site 'vision.layer_4' in this model"):
        ActivationRecorder(model, "vision.layer_4")


def test_sound_has_a_tower_of_its_own_too():
    model = build("qwen2_audio", "Qwen2AudioForConditionalGeneration")
    (side, _) = find_layout(model).towers
    assert (side.prefix, side.root, len(side.blocks)) == ("audio.", "model.audio_tower", LAYERS)
    features = torch.randn(2, 16, 32)
    with plain_hooks(model.get_submodule("model.audio_tower.layers")) as seen, torch.no_grad():
        with ActivationRecorder(model, "audio.layer_*") as recorder:
            model.get_submodule(side.root)(features)
    for row, record in enumerate(recorder.records):
        for layer in range(LAYERS):
            assert torch.equal(record.activations[f"audio.layer_{layer}"], seen[layer][0][row])


def test_the_self_test_holds_the_language_model_against_plain_hooks_as_before():
    report = selftest(build("llava", "LlavaForConditionalGeneration"), ways=False)
    assert report.ok, report
    assert not any(site.startswith("vision.") for site in report.sites)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llava"
    build("llava", "LlavaForConditionalGeneration").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def sites(*arguments):
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["sites", *arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_list_of_sites_has_those_of_the_tower_without_a_shape(checkpoint):
    lines = [" ".join(line.split()) for line in sites(checkpoint).splitlines()]
    assert "vision.layer_0 .. vision.layer_3 (4)" in lines
    assert "layer_0 .. layer_3 (4) (pos, 128) float32" in lines
    listed = json.loads(sites(checkpoint, "--json"))["sites"]
    assert {"site": "vision.layer_2", "shape": None, "dtype": None} in listed


def test_the_tree_has_a_branch_for_the_tower(checkpoint):
    towers = json.loads(sites(checkpoint, "--tree", "--json"))["towers"]
    assert [(each["prefix"], each["root"]["path"]) for each in towers] == [("vision.", "model.vision_tower"), ("", "")]
    assert "vision.layer_0 .. vision.layer_3" in sites(checkpoint, "--tree")
