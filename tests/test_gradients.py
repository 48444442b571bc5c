"""Training: records whose tensors stay attached to the graph, and gradients beside the sites."""

import gc
import threading
import weakref

import pytest
import torch
from toys import hooks_of
from transformers import ContinuousBatchingConfig, GenerationConfig

from actframe import (
    ActivationRecorder,
    ActivationStore,
    CaptureError,
    Selection,
    SiteError,
    load_activations,
    save_activations,
)
from actframe.testing import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

of_peft = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPTS = ["one", "and the second one", "three!"]


@pytest.fixture
def model():
    return tiny_model("llama").train()


@pytest.fixture
def batch():
    return batch_of(PROMPTS)


def batch_of(prompts, side="left"):
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    inputs = dict(tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False))
    return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}


def by_hand(model, batch, layers=range(4), backward=None):
    """What tensor hooks on the blocks' own outputs get, by layer: unpadded rows."""
    taken = {}

    def watch(layer):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            output.register_hook(lambda gradient: taken.__setitem__(layer, taken.get(layer, 0) + gradient.clone()))

        return hook

    handles = [model.model.layers[layer].register_forward_hook(watch(layer)) for layer in layers]
    loss = model(**batch).loss
    backward(loss) if backward else loss.backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    real = batch["attention_mask"].bool()
    return {layer: [rows[mask] for rows, mask in zip(taken[layer], real, strict=True)] for layer in layers}


# Gradients


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_gradient_is_what_a_tensor_hook_on_the_block_gets_bit_for_bit(model, side):
    batch = batch_of(PROMPTS, side)
    expected = by_hand(model, batch)
    with ActivationRecorder(model, "layer_*", gradients=True) as recorder:
        model(**batch).loss.backward()
    assert len(recorder.records) == 3
    for row, record in enumerate(recorder.records):
        assert record.sites == recorder.sites == [f"layer_{n}{end}" for n in range(4) for end in ("", "@grad")]
        assert list(record.activations) == record.sites
        for layer in range(4):
            found = record.activations[f"layer_{layer}@grad"]
            assert torch.equal(found, expected[layer][row])
            assert found.shape == record.activations[f"layer_{layer}"].shape
            assert found.any()
            assert not found.requires_grad


def test_every_kind_of_site_has_its_gradient():
    model = tiny_model("llama", attn_implementation="eager").train()
    batch = batch_of(["the same length"] * 2)
    sites = ["embeddings", "layer_2.resid_pre", "layer_1", "layer_1.attn_out", "layer_1.mlp_act", "layer_1.attn_probs"]
    sites += ["logits", "final_norm", "module:model.layers.3.mlp@input"]
    taken = {}

    def keep(name, tensor):
        tensor.register_hook(lambda gradient: taken.__setitem__(name, gradient))

    layers = model.model.layers
    watched = [
        layers[0].register_forward_pre_hook(lambda m, args: keep("embeddings", args[0])),
        layers[1].register_forward_hook(lambda m, args, out: keep("layer_1", out)),
        layers[1].self_attn.register_forward_hook(lambda m, args, out: keep("layer_1.attn_out", out[0])),
        layers[1].self_attn.register_forward_hook(lambda m, args, out: keep("layer_1.attn_probs", out[1])),
        layers[1].mlp.down_proj.register_forward_pre_hook(lambda m, args: keep("layer_1.mlp_act", args[0])),
        layers[3].mlp.register_forward_pre_hook(lambda m, args: keep("module:model.layers.3.mlp@input", args[0])),
        model.model.norm.register_forward_hook(lambda m, args, out: keep("final_norm", out)),
        model.lm_head.register_forward_hook(lambda m, args, out: keep("logits", out)),
    ]
    with ActivationRecorder(model, sites, gradients=True) as recorder:
        model(**batch).loss.backward()
    taken["layer_2.resid_pre"] = taken["layer_1"]
    for handle in watched:
        handle.remove()
    for row, record in enumerate(recorder.records):
        for site in sites:
            assert torch.equal(record.activations[f"{site}@grad"], taken[site][row]), site
    assert record.place_of("layer_1.attn_out@grad") == "model.layers.1.self_attn"
    assert record.place_of("module:model.layers.3.mlp@input@grad") == "model.layers.3.mlp@input"


@pytest.mark.parametrize(
    "selection",
    [
        Selection("layer_1", positions="last"),
        Selection("layer_1", positions=[0, 2, -1]),
        Selection("layer_1", positions=slice(1, 3), dtype="float16"),
        Selection("layer_1", reduce="mean"),
        Selection(["layer_1", "logits"], positions="last_prompt", reduce="max", dtype="bfloat16"),
    ],
    ids=str,
)
def test_a_selection_takes_the_same_part_of_a_gradient_as_of_its_site(model, batch, selection):
    with ActivationRecorder(model, selection.sites, gradients=True) as recorder:
        model(**batch).loss.backward()
    with ActivationRecorder(model, selection, gradients=True) as chosen:
        model(**batch).loss.backward()
    for whole, part in zip(recorder.records, chosen.records, strict=True):
        positions = selection.choose(len(whole.positions), whole.prompt_length)
        assert part.positions == part.positions_of("layer_1@grad") == positions
        for site, tensor in whole.activations.items():
            assert torch.equal(part.activations[site], selection.finish(tensor[positions], site))


def test_several_backward_passes_add_up_as_grad_does(model, batch):
    def twice(loss):
        loss.backward(retain_graph=True)
        (3 * loss).backward()

    expected = by_hand(model, batch, backward=twice)
    with ActivationRecorder(model, "layer_*", gradients=True) as recorder:
        twice(model(**batch).loss)
    for row, record in enumerate(recorder.records):
        for layer in range(4):
            assert torch.equal(record.activations[f"layer_{layer}@grad"], expected[layer][row])


def test_sequences_wait_for_a_backward_pass_over_several_forward_passes(model):
    pairs = [batch_of(["chosen", "also chosen"]), batch_of(["rejected", "no"])]
    expected = [by_hand(model, batch, backward=lambda loss: (loss * 2).backward()) for batch in pairs]
    with ActivationRecorder(model, "layer_*", gradients=True) as recorder:
        for _ in range(2):
            good, bad = (model(**batch, use_cache=False).loss for batch in pairs)
            (2 * good + 2 * bad).backward()
    assert len(recorder.records) == 8
    for number, record in enumerate(recorder.records):
        for layer in range(4):
            own = expected[number // 2 % 2][layer][number % 2]
            assert torch.equal(record.activations[f"layer_{layer}@grad"], own)


def test_calls_that_share_a_cache_have_their_gradients_in_their_own_places(model):
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    expected = by_hand(model, {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)})
    with ActivationRecorder(model, "layer_*", gradients=True) as recorder:
        first = model(ids[:, :4])
        second = model(ids[:, 4:], past_key_values=first.past_key_values)
        logits = torch.cat([first.logits, second.logits], dim=1)
        model.loss_function(logits, ids, vocab_size=model.config.vocab_size).backward()
    (record,) = recorder.records
    for layer in range(4):
        found = record.activations[f"layer_{layer}@grad"]
        assert record.positions_of(f"layer_{layer}@grad") == list(range(6))
        torch.testing.assert_close(found, expected[layer][0], rtol=1e-4, atol=1e-6)


def test_logits_of_the_last_positions_only_have_their_gradients_there(model, batch):
    del batch["labels"]
    with ActivationRecorder(model, ["layer_0", "logits"], gradients=True) as recorder:
        model(**batch, logits_to_keep=2).logits.sum().backward()
    for record in recorder.records:
        assert record.positions_of("logits@grad") == record.positions_of("logits") == record.positions[-2:]
        assert record.activations["logits@grad"].eq(1).all()


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("options", [{"gradients": True}, {"gradients": True, "keep_graph": True}], ids=str)
def test_gradient_checkpointing_gives_the_same_gradients(model, batch, inner, options):
    select = ["layer_1", "layer_1.attn_out", "layer_2.mlp_act"] if inner else "layer_*"
    selection = Selection(select, positions=[0, 2])
    with ActivationRecorder(model, selection, gradients=True) as plain:
        model(**batch).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    with ActivationRecorder(model, selection, **options) as recorder:
        model(**batch).loss.backward()
    assert len(recorder.records) == 3
    for record, other in zip(recorder.records, plain.records, strict=True):
        for site, tensor in record.activations.items():
            assert torch.equal(tensor, other.activations[site]), site
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name])


def test_a_checkpoint_around_the_whole_model_is_recorded_once(model, batch):
    expected = by_hand(model, batch)

    def run(input_ids):
        return model(**{**batch, "input_ids": input_ids}).loss

    with ActivationRecorder(model, "layer_*", gradients=True) as recorder:
        torch.utils.checkpoint.checkpoint(run, batch["input_ids"], use_reentrant=False).backward()
    assert len(recorder.records) == 3
    for row, record in enumerate(recorder.records):
        assert torch.equal(record.activations["layer_2@grad"], expected[2][row])


def test_a_reentrant_checkpoint_is_refused_with_the_way_out(model, batch):
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(CaptureError, match="use_reentrant=False"):
        with ActivationRecorder(model, "layer_1.attn_out", gradients=True):
            model(**batch).loss.backward()


def test_backward_may_run_in_another_thread(model, batch):
    expected = by_hand(model, batch)
    with ActivationRecorder(model, "layer_*", gradients=True) as recorder:
        worker = threading.Thread(target=model(**batch).loss.backward)
        worker.start()
        worker.join()
    assert torch.equal(recorder.records[1].activations["layer_0@grad"], expected[0][1])


def test_both_strategies_give_the_same_gradients(model, batch):
    found = []
    for strategy in ("hooks", "output_hidden_states"):
        with ActivationRecorder(model, ["embeddings", 0, 2], strategy=strategy, gradients=True) as recorder:
            model(**batch).loss.backward()
        found.append(recorder.records)
    for one, other in zip(*found, strict=True):
        for site, tensor in one.activations.items():
            assert torch.equal(tensor, other.activations[site]), site


def test_both_towers_have_their_gradients():
    t5 = tiny_model("t5").train()
    t5.config.dropout_rate = 0.0
    batch = {"input_ids": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), "labels": torch.tensor([[3, 4], [5, 6]])}
    taken = {}
    handle = t5.encoder.block[1].register_forward_hook(
        lambda m, args, out: out[0].register_hook(lambda gradient: taken.__setitem__(0, gradient)) and None
    )
    with ActivationRecorder(t5, ["encoder.layer_1", "decoder.layer_0"], gradients=True) as recorder:
        for _ in range(2):
            t5(**batch).loss.backward()
    handle.remove()
    assert len(recorder.records) == 4
    for row, record in enumerate(recorder.records[2:]):
        assert torch.equal(record.activations["encoder.layer_1@grad"], taken[0][row])
        assert record.positions_of("encoder.layer_1@grad") == [0, 1, 2, 3]
        assert record.activations["decoder.layer_0@grad"].shape == (2, 32)


def test_inputs_that_require_grad_are_enough_as_saliency_has_it(model, batch):
    model.eval().requires_grad_(False)
    embeds = model.model.embed_tokens(batch["input_ids"]).requires_grad_()
    with ActivationRecorder(model, ["embeddings", 2], gradients=True, keep_graph=True) as recorder:
        out = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
        out.logits[:, -1].logsumexp(-1).sum().backward()
    real = batch["attention_mask"].bool()
    for record, rows, mask in zip(recorder.records, embeds.grad, real, strict=True):
        assert torch.equal(record.activations["embeddings@grad"], rows[mask])
        assert record.activations["layer_2@grad"][-1].any()
    assert not embeds._backward_hooks


def test_an_input_that_is_trained_has_in_each_record_the_gradient_of_that_pass_alone(model, batch):
    model.eval().requires_grad_(False)
    mask = batch["attention_mask"]
    prompt = torch.nn.Parameter(model.model.embed_tokens(batch["input_ids"]))
    expected = []
    with ActivationRecorder(model, ["embeddings", 1], gradients=True) as recorder:
        for _ in range(3):
            # Its cache lives until the next pass is over, and so do these sequences.
            out = model(inputs_embeds=prompt, attention_mask=mask)
            out.logits[:, -1].logsumexp(-1).sum().backward()
            expected.append(prompt.grad.clone())
            with torch.no_grad():
                prompt -= prompt.grad
            prompt.grad = None
    assert not prompt._backward_hooks
    assert len(recorder.records) == 9
    for number, record in enumerate(recorder.records):
        row = number % 3
        assert torch.equal(record.activations["embeddings@grad"], expected[number // 3][row, mask[row].bool()])


@pytest.mark.parametrize("is_leaf", [True, False])
def test_one_tensor_that_enters_two_passes_before_their_backward_is_refused(model, batch, is_leaf):
    embeds = model.model.embed_tokens(batch["input_ids"])
    embeds = embeds.detach().requires_grad_() if is_leaf else embeds
    with pytest.raises(CaptureError, match="embeddings is the very tensor of an earlier forward pass"):
        with ActivationRecorder(model, "embeddings", gradients=True):
            one, other = (model(inputs_embeds=embeds).logits.sum() for _ in range(2))
            (one + other).backward()
    with ActivationRecorder(model, "embeddings", gradients=True) as recorder:
        one, other = (model(inputs_embeds=embeds.clone()).logits.sum() for _ in range(2))
        (one + 2 * other).backward()
    first, second = recorder.records[0], recorder.records[3]
    torch.testing.assert_close(second.activations["embeddings@grad"], 2 * first.activations["embeddings@grad"])


def test_an_output_that_is_not_used_beside_one_that_is_has_no_gradient():
    class Halves(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).chunk(2, dim=-1)

    class First(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.halves = Halves(4, 8)
            self.after = torch.nn.Identity()

        def forward(self, inputs_embeds):
            one, other = self.halves(inputs_embeds)
            self.after(other)
            return one

    first = First()
    with pytest.raises(CaptureError, match="gave no gradient to module:after|no gradient has come"):
        with ActivationRecorder(first, ["module:halves", "module:after"], gradients=True):
            first(torch.randn(2, 3, 4)).sum().backward()


def test_recording_gradients_changes_nothing_that_is_trained(model, batch):
    def train(**options):
        trained = tiny_model("llama").train()
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
        losses = []
        for _ in range(3):
            with ActivationRecorder(trained, **options) if options else torch.enable_grad():
                loss = trained(**batch).loss
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses, [parameter.detach().clone() for parameter in trained.parameters()]

    plain_losses, plain = train()
    losses, parameters = train(gradients=True, keep_graph=True)
    assert losses == plain_losses
    assert all(map(torch.equal, parameters, plain))


@of_peft
def test_lora_fine_tuning_into_a_store_gives_the_losses_that_it_gives_without(tmp_path):
    peft = pytest.importorskip("peft")
    batches = [batch_of([f"question {n}", f"and {n} more"]) for n in range(3)]

    def train(record_into=None):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(tiny_model("llama"), config).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        losses = []

        def steps():
            for batch in batches:
                loss = model(**batch).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())

        if record_into is None:
            steps()
        else:
            with ActivationRecorder(model, "layer_*", gradients=True, into=record_into):
                steps()
        return losses

    with ActivationStore(tmp_path / "store") as store:
        recorded = train(store)
    assert recorded == train()
    store = ActivationStore(tmp_path / "store")
    assert len(store) == 6
    gradients = store.stack("layer_3@grad", positions=0)
    assert gradients.shape == (6, 32)
    assert gradients.any(dim=1).all()
    assert store[5].sites[:2] == ["layer_0", "layer_0@grad"]


@of_peft
def test_frozen_embeddings_of_a_lora_model_are_refused_with_what_to_do(batch):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(target_modules=["q_proj"])).train()
    with pytest.raises(CaptureError, match="embeddings does not require grad.*enable_input_require_grads"):
        with ActivationRecorder(model, gradients=True):
            model(**batch).loss.backward()
    model.enable_input_require_grads()
    with ActivationRecorder(model, gradients=True) as recorder:
        model(**batch).loss.backward()
    assert recorder.records[0].activations["embeddings@grad"].any()


# Gradients: what is refused


def test_a_forward_pass_without_a_backward_pass_is_an_error(model, batch):
    with pytest.raises(CaptureError, match=r"no gradient has come for layer_0 .. layer_3: call backward\(\) inside"):
        with ActivationRecorder(model, "layer_*", gradients=True) as recorder:
            model(**batch)
    assert recorder.records == []


def test_a_graph_that_was_given_up_is_noticed_at_the_next_forward_pass(model, batch):
    with ActivationRecorder(model, 0, gradients=True) as recorder:
        model(**batch, use_cache=False).loss.backward()
        model(**batch, use_cache=False)
        with pytest.raises(CaptureError, match="no gradient has come for layer_0"):
            model(**batch, use_cache=False)
    assert len(recorder.records) == 3


def test_continuous_batching_is_refused(model):
    with pytest.raises(CaptureError, match="generate_batch computes without a graph"):
        with ActivationRecorder(model, 0, gradients=True):
            model.generate_batch(
                [[1, 2, 3]],
                GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=-1),
                continuous_batching_config=ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64),
            )


def test_a_site_that_the_loss_does_not_depend_on_is_an_error(model, batch):
    with pytest.raises(CaptureError, match="backward.. gave no gradient to layer_2, layer_3|layer_2 .. layer_3"):
        with ActivationRecorder(model, "layer_*", gradients=True):
            model(**batch, output_hidden_states=True).hidden_states[2].sum().backward()


@pytest.mark.parametrize("options", [{"gradients": True}, {"keep_graph": True}], ids=str)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_pass_without_a_graph_is_refused(model, batch, mode, options):
    with pytest.raises(CaptureError, match=r"computed without a graph: under torch.no_grad\(\)"):
        with mode(), ActivationRecorder(model, 0, **options):
            model(**batch)
    with pytest.raises(CaptureError, match=r"as generate\(\) always is"):
        with ActivationRecorder(model, 0, **options):
            model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=2)


@pytest.mark.parametrize("options", [{"gradients": True}, {"keep_graph": True}], ids=str)
def test_a_frozen_model_is_refused(model, batch, options):
    model.requires_grad_(False)
    with pytest.raises(CaptureError, match="layer_0 does not require grad"):
        with ActivationRecorder(model, 0, **options):
            model(**batch)


def test_a_tensor_of_whole_numbers_has_no_gradient(model, batch):
    with pytest.raises(CaptureError, match="torch.int64, which has no gradient"):
        with ActivationRecorder(model, "module:model.embed_tokens@input", gradients=True):
            model(**batch)


def test_a_gradient_cannot_be_selected_by_itself(model):
    with pytest.raises(SiteError, match="gradients=True"):
        ActivationRecorder(model, "layer_1@grad")


def test_a_misspelt_argument_is_an_error_of_the_recorder(model):
    with pytest.raises(TypeError, match="ActivationRecorder got an unexpected keyword argument 'gradient'"):
        ActivationRecorder(model, gradient=True)


# Gradients: saved and loaded


@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.zst", ".pkl"])
def test_gradients_are_saved_and_loaded_beside_their_sites(model, batch, tmp_path, suffix):
    with ActivationRecorder(model, ["layer_*", "logits"], gradients=True, keep_graph=True) as recorder:
        model(**batch).loss.backward()
    record = recorder.records[1]
    path = save_activations(record, tmp_path / f"one{suffix}")
    loaded = load_activations(path)["activations"]
    assert list(loaded) == record.sites
    for site, tensor in record.activations.items():
        assert torch.equal(loaded[site], tensor.detach())
        assert not loaded[site].requires_grad
    assert list(load_activations(path, sites="layer_*")["activations"]) == [f"layer_{n}" for n in range(4)]
    assert list(load_activations(path, sites="blocks.1.hook_resid_post@grad")["activations"]) == ["layer_1@grad"]
    assert list(load_activations(path, sites="layer_*@grad")["activations"]) == [f"layer_{n}@grad" for n in range(4)]


def test_gradients_of_attention_patterns_are_stored_as_the_patterns_are(batch, tmp_path):
    model = tiny_model("llama", attn_implementation="eager").train()
    with ActivationStore(tmp_path / "store") as store:
        with ActivationRecorder(model, ["layer_1.attn_probs"], gradients=True, into=store) as recorder:
            model(**batch).loss.backward()
    (stored,) = (record for record in ActivationStore(tmp_path / "store") if len(record.positions) == 3)
    gradient = stored.activations["layer_1.attn_probs@grad"]
    assert gradient.shape == stored.activations["layer_1.attn_probs"].shape == (4, 3, 3)
    assert torch.equal(gradient, recorder.activations["layer_1.attn_probs@grad"][0, :, :3, :3])


# The graph


@pytest.mark.parametrize("strategy", ["hooks", "output_hidden_states"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_loss_on_the_record_has_the_gradients_of_one_on_the_blocks_own_output(model, batch, strategy, inside):
    real = batch["attention_mask"].bool()
    own = model(**batch, output_hidden_states=True).hidden_states[3]
    own.masked_fill(~real[..., None], 0).pow(3).sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()

    def loss():
        return sum(record.activations["layer_2"].pow(3).sum() for record in recorder.records)

    with ActivationRecorder(model, [0, 2], strategy=strategy, keep_graph=True) as recorder:
        model(**batch)
        if inside:
            loss().backward()
    if not inside:
        loss().backward()
    reached = {name for name, gradient in expected.items() if gradient is not None}
    assert "model.layers.2.mlp.down_proj.weight" in reached
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in reached), name
        assert parameter.grad is None or torch.equal(parameter.grad, expected[name]), name


def test_the_padded_batch_of_a_recorder_is_attached_as_well(model, batch):
    with ActivationRecorder(model, 2, keep_graph=True) as recorder:
        model(**batch)
        recorder.activations["layer_2"].pow(3).sum().backward()
    whole = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with ActivationRecorder(model, 2, keep_graph=True) as recorder:
        model(**batch)
    with torch.no_grad():
        padded = recorder.activations["layer_2"]
    padded.pow(3).sum().backward()
    for gradient, parameter in zip(whole, model.parameters(), strict=True):
        assert gradient is parameter.grad is None or torch.equal(gradient, parameter.grad)


@pytest.mark.parametrize(
    "selection",
    [
        Selection("layer_1", positions=[0, -1]),
        Selection("layer_1", positions="last", dtype="float64"),
        Selection("layer_1", reduce="mean"),
        Selection("layer_1.attn_probs", positions=slice(1, 3)),
    ],
    ids=str,
)
def test_selections_of_an_attached_record_are_part_of_the_graph(batch, selection):
    model = tiny_model("llama", attn_implementation="eager").train()
    with ActivationRecorder(model, selection.sites, keep_graph=True) as whole:
        model(**batch)
    axis = int(selection.sites.endswith("attn_probs"))
    total = 0
    for record in whole.records:
        positions = selection.choose(len(record.positions), record.prompt_length)
        rows = record.activations[selection.sites].index_select(axis, torch.tensor(positions))
        total = total + selection.finish(rows, selection.sites).pow(2).sum()
    total.backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with ActivationRecorder(model, selection, keep_graph=True) as chosen:
        model(**batch)
    sum(record.activations[selection.sites].pow(2).sum() for record in chosen.records).backward()
    for gradient, parameter in zip(expected, model.parameters(), strict=True):
        assert gradient is parameter.grad is None or torch.allclose(gradient, parameter.grad, rtol=1e-5, atol=1e-7)
    assert any(gradient is not None and gradient.any() for gradient in expected)


def test_a_record_of_several_calls_on_one_cache_reaches_back_through_all_of_them(model):
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with ActivationRecorder(model, 3, keep_graph=True) as recorder:
        cache = model(ids[:, :3]).past_key_values
        for position in (3, 4):
            model(ids[:, position : position + 1], past_key_values=cache)
        recorder.activations["layer_3"].pow(2).sum().backward()
    found = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    model(ids, output_hidden_states=True)
    with ActivationRecorder(model, 3, keep_graph=True) as whole:
        model(ids)
    whole.activations["layer_3"].pow(2).sum().backward()
    torch.testing.assert_close(found, model.model.embed_tokens.weight.grad, rtol=1e-4, atol=1e-5)
    assert found[ids[0]].any(dim=1).all()


def test_what_the_model_does_in_place_later_changes_no_attached_record(model, batch):
    plain = model(**batch, output_hidden_states=True).hidden_states[2]
    with ActivationRecorder(model, 1, keep_graph=True) as recorder:
        handle = model.model.layers[1].register_forward_hook(lambda m, args, out: out.mul_(0))
        model(**batch)
    handle.remove()
    for record, rows, mask in zip(recorder.records, plain, batch["attention_mask"].bool(), strict=True):
        assert torch.equal(record.activations["layer_1"], rows[mask])
        assert record.activations["layer_1"].grad_fn is not None


def test_what_comes_before_all_that_is_trained_is_a_constant(batch):
    model = tiny_model("llama").train()
    model.model.embed_tokens.requires_grad_(False)
    model.lm_head.requires_grad_(False)
    with ActivationRecorder(model, ["embeddings", 0], keep_graph=True) as recorder:
        model(**batch)
    record = recorder.records[0]
    assert (record.activations["embeddings"].requires_grad, record.activations["layer_0"].requires_grad) == (
        False,
        True,
    )


def test_a_store_gets_attached_records_as_plain_tensors(model, batch, tmp_path):
    with ActivationStore(tmp_path / "store") as store:
        with ActivationRecorder(model, 1, keep_graph=True, into=store) as recorder:
            for _ in range(2):
                model(**batch, use_cache=False)
                recorder.activations["layer_1"].sum().backward()
    assert recorder.activations["layer_1"].requires_grad
    stored = ActivationStore(tmp_path / "store")
    assert len(stored) == 6
    assert not stored[0].activations["layer_1"].requires_grad
    assert torch.equal(stored[5].activations["layer_1"], recorder.activations["layer_1"][2, : len(stored[5].positions)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_graph_stays_there_and_gradients_come_to_the_cpu(model, batch):
    batch = {name: values.cuda() for name, values in batch.items()}
    model = model.cuda()
    expected = by_hand(model, batch)
    with ActivationRecorder(model, "layer_*", gradients=True, keep_graph=True) as recorder:
        model(**batch).loss.backward()
    for row, record in enumerate(recorder.records):
        for layer in range(4):
            assert record.activations[f"layer_{layer}"].is_cuda
            assert torch.equal(record.activations[f"layer_{layer}@grad"], expected[layer][row].cpu())
    assert recorder.activations["layer_1"].is_cuda


# Nothing stays


def test_after_the_block_nothing_more_is_taken_and_nothing_kept_alive(batch):
    model = tiny_model("llama").train()
    before = hooks_of(model)
    with ActivationRecorder(model, gradients=True) as recorder:
        loss = model(**batch).loss
        assert "layer_1@grad" not in recorder.records[0].activations
        loss.backward(retain_graph=True)
        early = recorder.records[0].activations["layer_1@grad"]
    loss.backward()
    assert torch.equal(recorder.records[0].activations["layer_1@grad"], early)
    assert hooks_of(model) == before
    del recorder
    gone = weakref.ref(model)
    del model, loss
    gc.collect()
    assert gone() is None


def test_the_graph_dies_with_the_loss_though_the_block_goes_on(model, batch):
    alive = []

    class Marker:
        def __call__(self, gradient):
            pass

    def mark(module, args, output):
        marker = Marker()
        output.register_hook(marker)
        alive.append(weakref.ref(marker))

    handle = model.model.layers[1].register_forward_hook(mark)
    with ActivationRecorder(model, gradients=True):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        assert alive[0]() is not None
        del loss
        assert alive[0]() is None
    handle.remove()
