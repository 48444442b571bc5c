"""What each of two processes does in the test of tensor-parallel models; started by torchrun, not by pytest."""

import sys
from pathlib import Path

import pytest
import torch
from plain import assert_plain, plain_hooks
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from actframe import ActivationRecorder, ActivationStore, SiteError
from actframe.capture.available import available_sites

IDS = torch.tensor([[1, 2, 3, 4, 5]])
GREEDY = {"do_sample": False, "eos_token_id": None}


def main(folder):
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", distributed_config=DistributedConfig(tp_plan="auto"), attn_implementation="eager"
    )
    rank = torch.distributed.get_rank()
    assert model.tp_size == 2
    with torch.no_grad():
        with plain_hooks(model.model.layers) as seen:
            expected = model(IDS).logits
        with ActivationRecorder(model, "**") as recorder:
            assert torch.equal(model(IDS).logits, expected)
        assert_plain(recorder.records, seen)
        assert torch.equal(recorder.activations["logits"][0], expected[0])
    assert not [site for site in available_sites(model) if site.endswith(("mlp_act", "attn_probs"))]
    parts = ["layer_0.mlp_act", "layer_0.attn_probs"]
    parts += [f"module:model.layers.1.{inner}" for inner in ("mlp.up_proj", "mlp.act_fn", "self_attn.o_proj@input")]
    for part in parts:
        with pytest.raises(SiteError, match="split over the 2 processes"):
            ActivationRecorder(model, part)
    ActivationRecorder(model, ["module:model.layers.1", "module:model.layers.1.mlp", "module:model.norm"])
    kept = []
    with ActivationRecorder(model, into=kept):
        model.generate(IDS, max_new_tokens=4, **GREEDY)
    assert len(kept) == (1 if rank == 0 else 0)
    store = ActivationStore(folder / "store")
    with ActivationRecorder(model, into=store):
        model.generate(IDS, max_new_tokens=4, **GREEDY)
    store.close()
    torch.save(dict(recorder.records[0].activations), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
