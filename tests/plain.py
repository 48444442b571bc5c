"""Hooks written by hand, to compare records with: they know nothing of actframe."""

import contextlib

import torch


@contextlib.contextmanager
def plain_hooks(blocks):
    """Inside the block, what each block gives in each call: `seen[layer]` is a list of `(batch, pos, d_model)`."""
    seen = [[] for _ in blocks]

    def keep(layer):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple | list) else output
            seen[layer].append(output.detach().cpu().clone())

        return hook

    handles = [block.register_forward_hook(keep(layer)) for layer, block in enumerate(blocks)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def rows_of(calls, record, row):
    """The positions of one left-padded row of the calls of one `generate`, or of one forward pass."""
    whole = torch.cat(calls, dim=1)[row]
    return whole[len(whole) - len(record.positions) :]


def assert_plain(records, seen, prefix="layer_"):
    """Every layer of every record is, bit for bit, what the plain hooks saw."""
    assert len(records) == len(seen[0][0])
    for row, record in enumerate(records):
        for layer, calls in enumerate(seen):
            kept = record.activations[f"{prefix}{layer}"]
            expected = rows_of(calls, record, row)
            assert kept.dtype == expected.dtype
            assert torch.equal(kept, expected), (row, layer)
