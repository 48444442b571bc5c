"""Records in a shard: what goes in comes out, and rows are found by position."""

import numpy
import pytest
import torch

from actframe.errors import FormatError, SelectionError, SiteError
from actframe.records.bundle import Bundle, LazyTensors
from actframe.records.columns import LINES, ShardColumns, per_group
from actframe.records.shard import Shard


def record(length, *, sites=("layer_0", "layer_1"), prompt_length=2, width=4, **more):
    tensors = {site: torch.randn(length, width) for site in sites}
    return {"positions": list(range(length)), "prompt_length": prompt_length, **more, "activations": tensors}


def bundle_of(records):
    columns = ShardColumns()
    for each in records:
        columns.add(each["activations"], each)
    index = columns.index()
    tensors = dict(index.tensors)
    for site in columns.sites:
        dtype, shape = columns.facts(site)
        pieces = [each["activations"][site].reshape(-1) for each in records if site in each["activations"]]
        tensors[site] = torch.cat(pieces).reshape(shape)
        assert tensors[site].dtype == dtype
    lines = b"".join(b'{"number":%d}\n' % number for number in range(len(records)))
    tensors[LINES] = torch.frombuffer(bytearray(lines), dtype=torch.uint8)
    return Bundle(tensors, index.metadata)


def numbers(*values):
    return numpy.array(values)


def test_every_record_comes_back_as_it_went_in():
    records = [record(3), record(5), record(1)]
    shard = Shard(bundle_of(records))
    assert len(shard) == 3
    assert shard.lines() == [b'{"number":0}', b'{"number":1}', b'{"number":2}']
    for number, each in enumerate(records):
        found = shard.activations(number)
        assert list(found) == list(each["activations"])
        for site, tensor in each["activations"].items():
            assert torch.equal(found[site], tensor)


def test_sites_with_the_same_rows_share_their_offsets_and_positions():
    tensors = bundle_of([record(3), record(5)]).tensors
    assert [name for name in tensors if name.startswith("actframe.offsets")] == ["actframe.offsets.0"]
    assert tensors["actframe.offsets.0"].tolist() == [0, 3, 8]
    assert tensors["actframe.positions.0"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert tensors["actframe.prompt_lengths"].tolist() == [2, 2]


def test_a_site_with_rows_of_its_own_keeps_its_own_positions():
    odd = record(4, site_positions={"logits": [3]})
    odd["activations"]["logits"] = torch.randn(1, 7)
    plain = record(2, site_positions={"logits": [1]})
    plain["activations"]["logits"] = torch.randn(1, 7)
    shard = Shard(bundle_of([odd, plain]))
    rows = shard.find("logits", numbers(0, 1), "last_prompt")
    assert rows.counts.tolist() == [0, 1]
    assert rows.numbers.tolist() == [1]
    assert shard.find("logits", numbers(0, 1), "all").numbers.tolist() == [0, 1]


def test_records_may_lack_a_site():
    both, one = record(3), record(2, sites=("layer_0",))
    shard = Shard(bundle_of([both, one, both]))
    assert list(shard.activations(0)) == ["layer_0", "layer_1"]
    assert list(shard.activations(1)) == ["layer_0"]
    assert torch.equal(shard.activations(2)["layer_1"], both["activations"]["layer_1"])
    assert shard.find("layer_1", numbers(0, 1, 2), "all").counts.tolist() == [3, 0, 3]


def test_tensors_that_differ_in_more_than_rows_are_stored_flat():
    records = [record(2), record(3)]
    for each, length in zip(records, (2, 3), strict=True):
        each["activations"]["layer_0.attn_probs"] = torch.randn(4, length, length)
    bundle = bundle_of(records)
    assert bundle.tensors["layer_0.attn_probs"].shape == (4 * 4 + 4 * 9,)
    shard = Shard(bundle)
    for number, each in enumerate(records):
        pattern = each["activations"]["layer_0.attn_probs"]
        assert torch.equal(shard.activations(number)["layer_0.attn_probs"], pattern)
    with pytest.raises(SelectionError, match="another shape in each record"):
        shard.find("layer_0.attn_probs", numbers(0), "all")


def test_empty_and_scalar_tensors_survive():
    first, second = record(0, prompt_length=0), record(2)
    second["activations"]["score"] = torch.tensor(3.5)
    shard = Shard(bundle_of([first, second]))
    assert shard.activations(0)["layer_0"].shape == (0, 4)
    assert shard.activations(1)["score"] == 3.5
    assert shard.activations(1)["score"].shape == ()


def test_a_record_of_no_sites_is_one_too():
    shard = Shard(bundle_of([{"activations": {}}, {"activations": {}}]))
    assert len(shard) == 2
    assert list(shard.activations(1)) == []


@pytest.mark.parametrize(
    ("positions", "rows", "counts"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6, 7], [3, 5]),
        ("prompt", [0, 1, 3, 4], [2, 2]),
        ("response", [2, 5, 6, 7], [1, 3]),
        ("last_prompt", [1, 4], [1, 1]),
        ("last", [2, 7], [1, 1]),
        (1, [1, 4], [1, 1]),
        (3, [6], [0, 1]),
        (slice(1, 3), [1, 2, 4, 5], [2, 2]),
        (slice(3, None), [6, 7], [0, 2]),
        ([0, 4], [0, 3, 7], [1, 2]),
    ],
)
def test_rows_are_found_by_their_positions(positions, rows, counts):
    found = Shard(bundle_of([record(3), record(5)])).find("layer_0", numbers(0, 1), positions)
    assert found.numbers.tolist() == rows
    assert found.counts.tolist() == counts


def test_records_may_be_asked_for_in_any_order():
    found = Shard(bundle_of([record(3), record(5), record(1)])).find("layer_0", numbers(2, 0), "all")
    assert found.numbers.tolist() == [8, 0, 1, 2]
    assert found.counts.tolist() == [1, 3]


def test_reduced_rows_have_no_position():
    each = record(6)
    each["activations"] = {"layer_0": torch.randn(1, 4)}
    shard = Shard(bundle_of([each]))
    assert shard.find("layer_0", numbers(0), "all").counts.tolist() == [1]
    assert shard.find("layer_0", numbers(0), "last").counts.tolist() == [1]
    with pytest.raises(SelectionError, match="reduced"):
        shard.find("layer_0", numbers(0), "last_prompt")


def test_a_record_that_does_not_say_where_its_prompt_ends_has_no_last_prompt():
    shard = Shard(bundle_of([record(3, prompt_length=None)]))
    assert shard.find("layer_0", numbers(0), "last").numbers.tolist() == [2]
    with pytest.raises(SelectionError, match="prompt ends"):
        shard.find("layer_0", numbers(0), "last_prompt")


def test_an_unknown_site_is_an_error_with_the_nearest():
    with pytest.raises(SiteError, match=r"no site 'layers_1' \(did you mean 'layer_1'\?\)"):
        Shard(bundle_of([record(1)])).find("layers_1", numbers(0), "all")


def test_what_is_no_shard_is_refused():
    with pytest.raises(FormatError, match="shard/1"):
        Shard(Bundle({}, {"format": "record/1"}))
    with pytest.raises(FormatError, match="does not say"):
        Shard(Bundle({}, {"format": "shard/1"}))


def test_a_column_without_views_is_read_whole_once():
    bundle = bundle_of([record(3), record(5), record(2)])
    loads = []

    def load(name):
        loads.append(name)
        return bundle.tensors[name]

    shard = Shard(
        Bundle(
            LazyTensors(bundle.tensors, load, rows=lambda *at: bundle.tensors[at[0]][at[1] : at[2]]), bundle.metadata
        )
    )
    for number in range(3):
        shard.activations(number)["layer_0"]
    assert loads.count("layer_0") == 1
    assert loads.count(per_group("actframe.offsets", 0)) == 1


def test_dtypes_that_differ_do_not_share_a_shard():
    columns = ShardColumns()
    columns.add({"layer_0": torch.zeros(1, 2)}, {})
    assert columns.accepts({"layer_0": torch.zeros(1, 2), "layer_1": torch.zeros(1, 2, dtype=torch.int8)})
    assert not columns.accepts({"layer_0": torch.zeros(1, 2, dtype=torch.float16)})
