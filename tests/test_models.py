"""Names, folders and files to models; what is kept, and what is refused."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from actframe.errors import ModelError
from actframe.runs import models
from actframe.runs.models import KEPT_MODELS, LoadedModel, forget_models, load_model
from actframe.testing import tiny_model, tiny_tokenizer


@pytest.fixture
def no_kept_models(monkeypatch):
    """Start with nothing kept, and give back what other tests have loaded."""
    monkeypatch.setattr(models, "_kept", type(models._kept)())


@pytest.fixture
def tiny_folder(tmp_path, tiny_llama):
    folder = tmp_path / "tiny"
    for part in tiny_llama:
        part.save_pretrained(folder)
    return folder


def write_gguf(path, model):
    """A GGUF file of a tiny Llama and the byte tokenizer, as llama.cpp lays it out."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = [token for token, _ in sorted(tiny_tokenizer().get_vocab().items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*tokens, "ab"])
    writer.add_token_types([1] * 256 + [3, 3, 3, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(258)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = array.shape[0] // config.head_dim
            array = array.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_local_folder_loads_with_its_tokenizer_and_its_own_dtype(tiny_folder, tiny_llama, no_kept_models):
    loaded = load_model(tiny_folder, device="cpu")
    assert loaded.name == loaded.model.name_or_path == str(tiny_folder)
    assert loaded.tokenizer("hi").input_ids == tiny_llama[1]("hi").input_ids
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.device == torch.device("cpu")
    assert loaded.context_length == 128
    assert not loaded.is_chat
    for ours, theirs in zip(loaded.model.parameters(), tiny_llama[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_dtype_can_be_asked_for_by_name_or_as_it_is(tiny_folder, no_kept_models):
    assert load_model(tiny_folder, dtype="bfloat16").model.dtype == torch.bfloat16
    assert load_model(tiny_folder, dtype=torch.float64).model.dtype == torch.float64


def test_a_model_is_kept_for_the_next_call_with_the_same_device_and_dtype(tiny_folder, no_kept_models, monkeypatch):
    first = load_model(str(tiny_folder))
    assert load_model(str(tiny_folder)) is first
    monkeypatch.chdir(tiny_folder.parent)
    assert load_model("tiny") is first
    assert load_model("tiny", dtype="bfloat16") is not first


def test_only_the_latest_models_are_kept(tiny_folder, no_kept_models):
    kinds = ["auto", "bfloat16", "float64"]
    assert len(kinds) == KEPT_MODELS + 1
    oldest, *latest = [load_model(tiny_folder, dtype=kind) for kind in kinds]
    assert [load_model(tiny_folder, dtype=kind) for kind in kinds[1:]] == latest
    assert load_model(tiny_folder, dtype=kinds[0]) is not oldest


def test_forgotten_models_are_loaded_anew(tiny_folder, no_kept_models):
    first = load_model(tiny_folder)
    forget_models()
    assert load_model(tiny_folder) is not first


def test_threads_that_ask_at_once_share_one_loading(tiny_folder, no_kept_models):
    barrier = threading.Barrier(6)

    def ask(_):
        barrier.wait()
        return load_model(tiny_folder)

    with ThreadPoolExecutor(6) as pool:
        loaded = list(pool.map(ask, range(6)))
    assert all(each is loaded[0] for each in loaded)


def test_a_loaded_model_is_taken_as_it_is(tiny_llama):
    model, tokenizer = tiny_llama
    loaded = load_model(model, tokenizer)
    assert loaded.model is model
    assert loaded.tokenizer is tokenizer
    assert load_model(loaded) is loaded


def test_a_given_tokenizer_takes_the_place_of_the_checkpoint_s(tiny_folder, no_kept_models):
    other = tiny_tokenizer()
    assert load_model(tiny_folder, other).tokenizer is other
    assert load_model(tiny_folder).tokenizer is not other


def test_loading_prints_nothing(tiny_folder, no_kept_models, capfd):
    load_model(tiny_folder)
    assert capfd.readouterr() == ("", "")


def test_a_gguf_file_gives_the_same_model_bit_for_bit(tmp_path, tiny_llama, no_kept_models):
    model, tokenizer = tiny_llama
    write_gguf(tmp_path / "tiny.gguf", model)
    loaded = load_model(tmp_path / "tiny.gguf")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    assert loaded.tokenizer("a GGUF").input_ids == tokenizer("a GGUF").input_ids
    assert loaded.name == loaded.model.name_or_path == str(tmp_path / "tiny.gguf")


def test_a_damaged_gguf_file_is_refused_by_name(tmp_path):
    (tmp_path / "some.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelError, match=r"cannot load model '.*some\.gguf'"):
        load_model(tmp_path / "some.gguf")


def test_an_encoder_without_a_head_loads_but_does_not_generate(tmp_path, no_kept_models):
    tiny_model("bert").save_pretrained(tmp_path / "bert")
    loaded = load_model(tmp_path / "bert")
    assert type(loaded.model).__name__ == "BertModel"
    with pytest.raises(ModelError, match="is a BertModel, which does not generate text"):
        loaded.require_generation()


@pytest.mark.parametrize(
    ("family", "padding", "length"),
    [("bert", 1, 40), ("roberta", 1, 38), ("xlm-roberta", 3, 36), ("mpnet", 1, 38), ("camembert", 0, 39)],
)
def test_a_context_is_as_long_as_positions_are_left_beside_that_of_padding(family, padding, length):
    sizes = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 40, "pad_token_id": padding}
    model = AutoModel.from_config(AutoConfig.for_model(family, **sizes)).eval()
    assert LoadedModel(family, model).context_length == length
    model(torch.full((1, length), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, length + 1), 7))


def test_positions_that_only_their_table_pads_are_all_used():
    sizes = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = AutoConfig.for_model("lxmert", **sizes, max_position_embeddings=40, l_layers=1, x_layers=1, r_layers=1)
    assert LoadedModel("lxmert", AutoModel.from_config(config)).context_length == 40


def test_an_encoder_decoder_model_loads_with_its_head(tmp_path, no_kept_models):
    tiny_model("t5").save_pretrained(tmp_path / "t5")
    loaded = load_model(tmp_path / "t5")
    assert loaded.is_encoder_decoder
    assert loaded.context_length is None
    loaded.require_generation()


def test_a_model_without_a_tokenizer_loads_and_says_so_when_text_is_needed(tmp_path, tiny_llama, no_kept_models):
    tiny_llama[0].save_pretrained(tmp_path / "bare")
    loaded = load_model(tmp_path / "bare")
    with pytest.raises(ModelError, match=r"'.*bare' has no tokenizer \(.+\); pass tokenizer="):
        loaded.require_tokenizer()
    with pytest.raises(ModelError, match="'LlamaForCausalLM' has no tokenizer \\(none was given\\)"):
        load_model(tiny_llama[0]).require_tokenizer()


def test_a_model_in_training_mode_is_not_used(tiny_llama):
    model = tiny_model("llama").train()
    with pytest.raises(ModelError, match=r"training mode.*model\.eval\(\)"):
        load_model(model).require_generation()


def test_a_folder_without_weights_is_refused_by_name(tiny_folder, no_kept_models):
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot load model '.*tiny': .*model\.safetensors"):
        load_model(tiny_folder)


def test_damaged_weights_are_refused_by_name(tiny_folder, no_kept_models):
    (tiny_folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match=r"cannot load model '.*tiny': SafetensorError"):
        load_model(tiny_folder)


def test_a_checkpoint_that_brings_code_is_not_run(tiny_folder, no_kept_models):
    config = tiny_folder / "config.json"
    text = config.read_text().replace(
        '"model_type": "llama"', '"model_type": "own", "auto_map": {"AutoConfig": "x.Own"}'
    )
    config.write_text(text)
    (tiny_folder / "x.py").write_text("raise SystemExit('code of the checkpoint was run')")
    with pytest.raises(ModelError, match="it brings code of its own, which actframe does not run; load it yourself"):
        load_model(tiny_folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "no device 'gpu' here; available: auto, cpu"),
        ({"dtype": "float12"}, "no dtype 'float12' to compute in; use float32"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
    ],
)
def test_a_device_or_dtype_that_does_not_exist_is_an_error(options, message, tiny_folder):
    with pytest.raises(ModelError, match=message):
        load_model(tiny_folder, **options)


def test_device_and_dtype_are_not_for_loaded_models(tiny_llama):
    with pytest.raises(ModelError, match=r"move a loaded one with model\.to"):
        load_model(tiny_llama[0], device="cpu")


def test_what_is_no_model_is_refused():
    with pytest.raises(ModelError, match="not list"):
        load_model(["smollm2"])


def test_accelerate_places_a_model_where_it_is_asked_to(tiny_folder, no_kept_models):
    """Here that is the CPU; with GPUs, layer by layer."""
    ids = torch.tensor([[1, 2, 3]])
    placed = load_model(tiny_folder, device="auto")
    assert placed.device == torch.device("cpu")
    whole = load_model(tiny_folder, device="cpu")
    assert whole is not placed
    assert torch.equal(placed.model(ids).logits, whole.model(ids).logits)


def test_without_accelerate_it_is_said_what_to_install(tiny_folder, no_kept_models, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModelError, match="pip install accelerate"):
        load_model(tiny_folder, device="auto")


def test_a_model_in_the_local_hub_cache_loads_without_a_network(tiny_llama, tmp_path):
    """In a process of its own: huggingface_hub reads the cache's place once."""
    snapshot = tmp_path / "hub" / "models--me--tiny" / "snapshots" / ("0" * 40)
    for part in tiny_llama:
        part.save_pretrained(snapshot)
    (tmp_path / "hub" / "models--me--tiny" / "refs").mkdir()
    (tmp_path / "hub" / "models--me--tiny" / "refs" / "main").write_text("0" * 40)
    code = "from actframe.runs.models import *; m = load_model('me/tiny'); print(m.name, m.tokenizer.eos_token_id)"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "me/tiny 257\n"
    assert done.stderr == ""


def test_a_loaded_model_is_read_only_and_says_what_it_is_in_one_line(tiny_llama):
    loaded = LoadedModel("tiny", *tiny_llama)
    with pytest.raises(AttributeError):
        loaded.name = "other"
    assert repr(loaded) == "<LoadedModel 'tiny', LlamaForCausalLM on cpu>"
