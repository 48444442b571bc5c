"""Stores made of stores: what is kept, how it is said, and that being killed costs nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from actframe import ActivationStore, Selection, SelectionError, SiteError, StorageError, UnknownNameError
from actframe.errors import FormatError
from actframe.storage.folders import store_folder
from actframe.storage.health import verify_store
from actframe.storage.merging import merge_stores
from actframe.storage.repair import repair_store
from actframe.storage.rewriting import convert_store
from actframe.testing import assert_same_record, random_record

RUN = {"model": {"name": "tiny"}, "seed": 1}


def fill(path, records, run=RUN, **settings):
    settings = {"shard_bytes": 2000, **settings}
    with ActivationStore(path, run=run, **settings) as store:
        for record in records:
            store.append(record)
    return store


def some_records(numbers=range(12)):
    return [random_record(number, 3 + number % 4) for number in numbers]


def assert_holds(path, records, in_order=True):
    """The store holds these records, in this order, and is sound."""
    store = ActivationStore(path, create=False)
    assert len(store) == len(records)
    ordered = store if in_order else sorted(store, key=lambda record: record.question_id)
    for found, expected in zip(ordered, records, strict=True):
        # A shard has its sites in the order in which they first came.
        tensors = {site: expected["activations"][site] for site in found["activations"]}
        assert_same_record(found, {**expected, "activations": tensors})
        assert len(tensors) == len(expected["activations"])
    report = store.verify()
    assert report.ok, str(report)


def names(path, below="shards"):
    return sorted(store_folder(path).sizes(below))


@pytest.fixture
def records():
    return some_records()


@pytest.fixture
def path(tmp_path, records):
    fill(tmp_path / "run", records)
    return tmp_path / "run"


@pytest.mark.parametrize("storage", ["safetensors", "zstd", "pickle", "npz"])
def test_a_store_in_another_format_is_the_same_store(path, tmp_path, records, storage):
    done = convert_store(path, tmp_path / "new", storage=storage)
    assert_holds(tmp_path / "new", records)
    store = ActivationStore(tmp_path / "new")
    assert store.backend == storage
    assert store.run == RUN
    assert [name.partition(".")[0] for name in names(tmp_path / "new")] == [n.partition(".")[0] for n in names(path)]
    assert (done.records, done.shards, done.written) == (12, len(names(path)), len(names(path)))
    assert done.bytes_before == sum(store_folder(path).sizes("shards").values())
    assert done.bytes_after == sum(store_folder(tmp_path / "new").sizes("shards").values())
    origin = json.loads((tmp_path / "new" / "run.json").read_text())["origin"]
    assert origin["converted"]["from"] == str(path)


def cut(record, sites=None, keep=lambda position, record: True, dtype=None):
    """A record as it would have been recorded with less."""
    sites = sites or record.sites
    places = [place for place, position in enumerate(record.positions) if keep(position, record)]
    tensors = {site: record.activations[site][places] for site in sites}
    return record.replace(
        sites=list(sites),
        positions=[record.positions[place] for place in places],
        activations={site: tensor if dtype is None else tensor.to(dtype) for site, tensor in tensors.items()},
    )


POSITIONS = {
    "prompt": lambda position, record: position < record.prompt_length,
    "response": lambda position, record: position >= record.prompt_length,
    "last_prompt": lambda position, record: position == record.prompt_length - 1,
    "last": lambda position, record: position == record.positions[-1],
}


@pytest.mark.parametrize("positions", [*POSITIONS, slice(1, 3), slice(2, None), [0, 4], 0], ids=str)
@pytest.mark.parametrize("storage", ["safetensors", "zstd"])
def test_positions_are_cut(path, tmp_path, records, positions, storage):
    convert_store(path, tmp_path / "new", positions=positions, storage=storage)

    def keep(position, record):
        if isinstance(positions, str):
            return POSITIONS[positions](position, record)
        if isinstance(positions, slice):
            return position in range(100)[positions]
        return position in (positions if isinstance(positions, list) else [positions])

    assert_holds(tmp_path / "new", [cut(record, keep=keep) for record in records])
    stacked = ActivationStore(tmp_path / "new").stack("layer_0")
    assert torch.equal(stacked.values, torch.cat([cut(each, keep=keep).activations["layer_0"] for each in records]))


def test_sites_are_chosen_by_name_pattern_and_number(path, tmp_path, records):
    for number, (sites, expected) in enumerate(
        [
            ("layer_*", ["layer_0", "layer_1"]),
            (["embeddings", -1], ["embeddings", "layer_1"]),
            (0, ["layer_0"]),
            (["resid_post.1"], ["layer_1"]),
        ]
    ):
        convert_store(path, tmp_path / f"new{number}", sites=sites)
        assert_holds(tmp_path / f"new{number}", [cut(record, expected) for record in records])
    with pytest.raises(SiteError, match=r"holds no site 'layer_7'.*it holds embeddings, layer_0 .. layer_1"):
        convert_store(path, tmp_path / "none", sites="layer_7")
    assert not (tmp_path / "none").exists()


def test_a_dtype_is_cast_as_a_selection_casts_it(path, tmp_path, records):
    convert_store(path, tmp_path / "new", dtype="float32")
    assert_holds(tmp_path / "new", [cut(record, dtype=torch.float32) for record in records])
    assert ActivationStore(tmp_path / "new")[0].dtype == "bfloat16"


def test_values_that_do_not_fit_are_warned_about_once(tmp_path):
    records = [random_record(number).replace(activations={"layer_0": torch.full((5, 2), 1e6)}) for number in range(6)]
    fill(tmp_path / "run", records, shard_bytes=1)
    with pytest.warns(RuntimeWarning, match=r"60 values of layer_0 do not fit torch.float16") as caught:
        convert_store(tmp_path / "run", tmp_path / "new", dtype="float16")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert ActivationStore(tmp_path / "new").stack("layer_0").values.isinf().all()


def test_a_run_that_was_cut_is_another_run(path, tmp_path):
    convert_store(path, tmp_path / "new", sites="layer_*", positions="last")
    convert_store(tmp_path / "new", tmp_path / "newer", dtype="float32")
    run = ActivationStore(tmp_path / "newer").run
    assert run == {
        **RUN,
        "converted": [
            {"sites": "layer_*", "positions": "last", "dtype": None},
            {"sites": None, "positions": "all", "dtype": "float32"},
        ],
    }


def odd_records():
    """Records of which hardly two are alike."""
    plain = random_record(0, 4)
    patterns = {f"layer_{n}.attn_probs": torch.rand(4, 4, 4) for n in range(2)}
    longer = {"layer_0.attn_probs": torch.rand(4, 6, 6), "layer_0": torch.rand(6, 16)}
    late = {"logits": torch.rand(1, 8), "layer_0": torch.rand(5, 16)}
    return [
        plain,
        random_record(1, 4).replace(activations=patterns, sites=list(patterns)),
        random_record(2, 6).replace(activations=longer, sites=list(longer)),
        random_record(3, 5).replace(activations=late, sites=list(late), site_positions={"logits": [2]}),
        random_record(4, 5).replace(activations={}, sites=[]),
        random_record(5, 0),
        random_record(6, 4).replace(activations={"layer_0": torch.rand(1, 16)}, sites=["layer_0"]),
        {"prompt": "nothing else", "activations": {"layer_0": torch.rand(2, 16), "layer_9": torch.tensor(3.0)}},
    ]


@pytest.mark.parametrize("shard_bytes", [1, 10**9])
def test_records_of_every_shape_are_kept(tmp_path, shard_bytes):
    fill(tmp_path / "run", odd_records_once, shard_bytes=shard_bytes)
    convert_store(tmp_path / "run", tmp_path / "new", storage="zstd")
    assert_holds(tmp_path / "new", odd_records_once)


odd_records_once = odd_records()


@pytest.mark.parametrize("shard_bytes", [1, 10**9])
def test_patterns_and_late_sites_are_cut_at_their_own_positions(tmp_path, shard_bytes):
    fill(tmp_path / "run", odd_records_once[1:4], shard_bytes=shard_bytes)
    convert_store(tmp_path / "run", tmp_path / "new", positions=[0, 2])
    patterns, longer, late = odd_records_once[1:4]
    expected = [
        patterns.replace(
            positions=[0, 2],
            activations={site: tensor[:, [0, 2]] for site, tensor in patterns.activations.items()},
        ),
        longer.replace(
            positions=[0, 2],
            activations={
                "layer_0.attn_probs": longer.activations["layer_0.attn_probs"][:, [0, 2]],
                "layer_0": longer.activations["layer_0"][[0, 2]],
            },
        ),
        late.replace(
            positions=[0, 2],
            activations={"logits": late.activations["logits"], "layer_0": late.activations["layer_0"][[0, 2]]},
        ),
    ]
    assert_holds(tmp_path / "new", expected)
    convert_store(tmp_path / "new", tmp_path / "newer", positions=[2])
    assert ActivationStore(tmp_path / "newer")[2]["site_positions"] == {}
    # Of records that have none of the positions, no rows are left.
    convert_store(tmp_path / "run", tmp_path / "few", positions=[5])
    few = ActivationStore(tmp_path / "few")
    assert [record.positions for record in few] == [[], [5], []]
    assert [few[n].activations["layer_0.attn_probs"].shape for n in range(2)] == [(4, 0, 4), (4, 1, 6)]


def test_a_cut_is_what_a_recorder_with_that_selection_records(tmp_path, tiny_llama):
    from actframe import ActivationRecorder

    model, tokenizer = tiny_llama
    inputs = tokenizer(["one", "two and more", "x"], return_tensors="pt", padding=True)
    everything = ["embeddings", "layer_*", "layer_1.attn_out", "logits"]

    def record(name, selection):
        with (
            ActivationStore(tmp_path / name) as store,
            ActivationRecorder(model, selection, tokenizer=tokenizer, into=store),
        ):
            model.generate(**inputs, max_new_tokens=4, do_sample=False)
        return store

    record("run", Selection(everything))
    for number, (sites, positions, dtype) in enumerate(
        [("layer_*", "response", None), (["logits", 0], "last_prompt", "bfloat16"), (None, "prompt", None)]
    ):
        convert_store(tmp_path / "run", tmp_path / f"cut{number}", sites=sites, positions=positions, dtype=dtype)
        expected = record(f"own{number}", Selection(sites or everything, positions, dtype=dtype))
        for found, own in zip(ActivationStore(tmp_path / f"cut{number}"), expected, strict=True):
            assert_same_record(found.replace(timestamp=""), own.replace(timestamp=""))


def test_what_cannot_be_cut_is_refused(tmp_path, path):
    fill(tmp_path / "reduced", odd_records_once[6:7])
    fill(tmp_path / "plain", odd_records_once[7:])
    for source, positions, complaint in [
        (path, "middle", "no positions 'middle'"),
        (path, -1, "count from 0"),
        (path, slice(-2, None), "counts from the beginning"),
        (path, slice("a", None), "counts from the beginning"),
        (path, slice(0, 4, 2), "has no step"),
        (path, 5, r"\d of \d records have no row of embeddings for position 5"),
        (tmp_path / "reduced", "last", "were reduced"),
        (tmp_path / "reduced", "prompt", "were reduced"),
        (tmp_path / "plain", "last", "do not say their positions"),
    ]:
        with pytest.raises(SelectionError, match=complaint):
            convert_store(source, tmp_path / "new", positions=positions)
    with pytest.raises(SelectionError, match="no dtype 'float99'"):
        convert_store(path, tmp_path / "new", dtype="float99")
    with pytest.raises(UnknownNameError, match="installed"):
        convert_store(path, tmp_path / "new", storage="zipn")
    # What failed before anything was made is not in the way of the next attempt.
    convert_store(path, tmp_path / "new", positions="last")
    with pytest.raises(StorageError, match=r"there -> asked for: positions: 'last' -> 'prompt'"):
        convert_store(path, tmp_path / "new", positions="prompt")
    with pytest.raises(StorageError, match="is a store already"):
        convert_store(path, path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match="holds other things"):
        convert_store(path, tmp_path / "thesis")


def test_a_damaged_shard_is_not_converted(path, tmp_path):
    victim = path / "shards" / names(path)[2]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    with pytest.raises(FormatError, match=f"{victim.name} of {path} is damaged; `actframe repair`"):
        convert_store(path, tmp_path / "new")
    repair_store(path)
    convert_store(path, tmp_path / "new")
    assert len(ActivationStore(tmp_path / "new")) == len(ActivationStore(path)) < 12


def test_converting_again_takes_what_was_added(path, tmp_path, records):
    first = convert_store(path, tmp_path / "new", storage="zstd")
    again = convert_store(path, tmp_path / "new", storage="zstd")
    assert (again.written, again.bytes_after) == (0, first.bytes_after)
    more = some_records(range(12, 15))
    fill(path, more)
    assert convert_store(path, tmp_path / "new", storage="zstd").written == len(names(path)) - first.shards
    assert_holds(tmp_path / "new", [*records, *more])


def test_progress_counts_bytes(path, tmp_path):
    seen = []
    convert_store(path, tmp_path / "new", progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == len(names(path))
    assert seen[-1][0] == seen[-1][1] == sum(store_folder(path).sizes("shards").values())


def test_a_store_of_nothing_is_converted(tmp_path):
    ActivationStore(tmp_path / "run", run=RUN)
    assert convert_store(tmp_path / "run", tmp_path / "new").records == 0
    assert ActivationStore(tmp_path / "new", create=False).run == RUN


KILLED = """
import os, signal, sys
from actframe.storage import local, target
from actframe.storage.rewriting import convert_store
from actframe.storage.merging import merge_stores
left = int(sys.argv[2])
def dying(owner, name):
    method = getattr(owner, name)
    def step(*arguments):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        if name == "append" and left == 0:
            # In the middle of a write.
            self, content = arguments
            os.write(self._open().fileno(), content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments)
    setattr(owner, name, step)
dying(local.LocalFolder, "publish")
dying(local.LocalLog, "append")
dying(local.LocalFolder, "create")
eval(sys.argv[1])
print("finished")
"""


def killed_at_each_step(call, folder):
    """Run a call in a process that is killed at one step after the other, each time in a new folder."""
    for step in range(100):
        target = folder / f"killed{step}"
        code = call.format(target=str(target))
        done = subprocess.run(
            [sys.executable, "-c", KILLED, code, str(step)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            assert step > 4
            return
        assert done.returncode == -signal.SIGKILL, done.stderr
        yield target


@pytest.mark.parametrize("opened", [False, True], ids=["untouched", "opened in between"])
def test_a_conversion_that_is_killed_goes_on(tmp_path, opened):
    records = some_records(range(6))
    fill(tmp_path / "run", records)
    call = f"convert_store({str(tmp_path / 'run')!r}, {{target!r}}, storage='zstd')"
    for target in killed_at_each_step(call, tmp_path):
        if opened and (target / "shards").is_dir():
            look(target)
        convert_store(tmp_path / "run", target, storage="zstd")
        look(target)
        assert not [name for name in os.listdir(target / "shards") if name.startswith(".")]
        # What opening it has committed may stand elsewhere in the ledger.
        assert_holds(target, records, in_order=not opened)


def look(path):
    """Open a store that may have to recover, which it says in a warning."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        ActivationStore(path, create=False)


# Merging.


@pytest.fixture
def halves(tmp_path):
    fill(tmp_path / "a", some_records(range(6)))
    fill(tmp_path / "b", some_records(range(6, 12)), backend="zstd")
    return tmp_path / "a", tmp_path / "b"


def test_parts_of_one_run_become_that_run(halves, tmp_path, records):
    done = merge_stores(halves, tmp_path / "c")
    assert_holds(tmp_path / "c", records)
    assert ActivationStore(tmp_path / "c").run == RUN
    assert done.records == 12
    assert done.written == done.shards == sum(len(names(half)) for half in halves)
    for half in halves:
        for name in names(half):
            copy, own = tmp_path / "c" / "shards" / name, half / "shards" / name
            assert copy.read_bytes() == own.read_bytes()
            assert copy.stat().st_ino != own.stat().st_ino
    sources = json.loads((tmp_path / "c" / "run.json").read_text())["origin"]["merged"]
    assert [source["from"] for source in sources] == [str(half) for half in halves]
    for name in names(tmp_path / "c"):
        (source,) = [source for source in sources if any(name.startswith(writer) for writer in source["writers"])]
        assert (tmp_path / source["from"] / "shards" / name).exists()
    assert_holds(halves[0], records[:6])


def test_answers_to_the_same_questions_are_refused(halves, tmp_path):
    fill(tmp_path / "d", some_records(range(4, 9)))
    with pytest.raises(StorageError, match=r"a and .*d hold 2 answers.*: sums/4 \(trial 0\), sums/5 \(trial 0\);"):
        merge_stores([*halves, tmp_path / "d"], tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("changed", ["model", "run", "trial"])
def test_answers_of_another_model_run_or_trial_are_others(tmp_path, changed):
    first = some_records(range(4))
    second = [
        each.replace(**({} if changed == "run" else {changed: "other" if changed == "model" else 1})) for each in first
    ]
    fill(tmp_path / "a", first)
    fill(tmp_path / "b", second, run={**RUN, "seed": 2} if changed == "run" else RUN)
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert_holds(tmp_path / "c", [*first, *second])
    # That stays so when the ledger has to be made anew, even without run.json.
    before = {name: (tmp_path / "c" / "ledger" / name).read_bytes() for name in names(tmp_path / "c", "ledger")}
    shutil.rmtree(tmp_path / "c" / "ledger")
    if changed == "run":
        (tmp_path / "c" / "run.json").unlink()
    repair_store(tmp_path / "c")
    assert_holds(tmp_path / "c", [*first, *second])
    assert sum(map(len, before.values())) == sum(store_folder(tmp_path / "c").sizes("ledger").values())
    expected = {"merged": [RUN, {**RUN, "seed": 2}]} if changed == "run" else RUN
    assert ActivationStore(tmp_path / "c").run == expected


@pytest.mark.parametrize("lost", [False, True], ids=["run.json there", "run.json lost"])
def test_what_is_made_of_a_merged_store_knows_its_runs(tmp_path, lost):
    records = some_records(range(4))
    for number, name in enumerate("abd"):
        fill(tmp_path / name, records, run={**RUN, "seed": number})
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    convert_store(tmp_path / "ab", tmp_path / "zstd", storage="zstd")
    convert_store(tmp_path / "ab", tmp_path / "cut", sites=[0])
    merge_stores([tmp_path / "ab", tmp_path / "d"], tmp_path / "abd")
    runs = [{**RUN, "seed": number} for number in range(3)]
    cuts = [{**run, "converted": [{"sites": [0], "positions": "all", "dtype": None}]} for run in runs]
    for name, expected in {"zstd": runs[:2], "cut": cuts[:2], "abd": runs}.items():
        assert ActivationStore(tmp_path / name).run == {"merged": expected}
        # Answers of different runs stay different ones, also when the ledger is made anew.
        shutil.rmtree(tmp_path / name / "ledger")
        if lost:
            (tmp_path / name / "run.json").unlink()
        repair_store(tmp_path / name)
        sites = ["layer_0"] if name == "cut" else None
        assert_holds(tmp_path / name, [cut(record, sites) for record in records] * len(expected))
        assert ActivationStore(tmp_path / name).run == {"merged": expected}
    fill(tmp_path / "again", records, run=runs[1])
    with pytest.raises(StorageError, match="hold 4 answers of one model, in one run"):
        merge_stores([tmp_path / "ab", tmp_path / "again"], tmp_path / "c")
    if not lost:
        assert convert_store(tmp_path / "ab", tmp_path / "zstd", storage="zstd").written == 0


def test_a_store_and_what_was_made_of_it_are_not_merged(tmp_path):
    anonymous = [{"prompt": str(n), "activations": {"layer_0": torch.rand(2, 3)}} for n in range(3)]
    fill(tmp_path / "a", anonymous, run=None)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    convert_store(tmp_path / "a", tmp_path / "zstd", storage="zstd")
    for other in ("copy", "zstd"):
        with pytest.raises(StorageError, match="one is made of the other"):
            merge_stores([tmp_path / "a", tmp_path / other], tmp_path / "c")
    store = ActivationStore(tmp_path / "a")
    for twice in ([tmp_path / "a", tmp_path / "a"], [store, store]):
        with pytest.raises(StorageError, match="a is given twice"):
            merge_stores(twice, tmp_path / "c")
    with pytest.raises(StorageError, match="two stores or more"):
        merge_stores([tmp_path / "a"], tmp_path / "c")


def test_a_merge_that_is_killed_goes_on(tmp_path):
    fill(tmp_path / "a", some_records(range(4)))
    fill(tmp_path / "b", some_records(range(4, 6)))
    call = f"merge_stores([{str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}], {{target!r}})"
    for target in killed_at_each_step(call, tmp_path):
        merge_stores([tmp_path / "a", tmp_path / "b"], target)
        look(target)
        assert_holds(target, some_records(range(6)))
        assert merge_stores([tmp_path / "a", tmp_path / "b"], target).written == 0


def test_a_source_that_changed_since_the_merge_began_is_refused(halves, tmp_path):
    merge_stores(halves, tmp_path / "c")
    fill(halves[0], some_records([20]))
    with pytest.raises(StorageError, match="is a store already"):
        merge_stores(halves, tmp_path / "c")


def test_a_damaged_shard_is_not_merged(halves, tmp_path):
    victim = halves[1] / "shards" / names(halves[1])[0]
    os.truncate(victim, victim.stat().st_size - 1)
    with pytest.raises(FormatError, match="it is damaged; `actframe repair"):
        merge_stores(halves, tmp_path / "c")
    assert not [name for name in os.listdir(tmp_path / "c" / "shards") if name.startswith(".")]
    repair_store(halves[1])


def test_a_merge_that_would_not_fit_is_not_begun(halves, tmp_path, monkeypatch):
    from actframe.storage.local import LocalFolder

    monkeypatch.setattr(LocalFolder, "free_bytes", lambda folder: 100)
    with pytest.raises(StorageError, match=r"take \d+ bytes more in .*c, and 100 are free"):
        merge_stores(halves, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_records_that_a_source_does_not_commit_are_not_merged(tmp_path):
    """Of a shard whose records were partly recorded again, the others alone count."""
    fill(tmp_path / "a", some_records(range(4)), shard_bytes=10**9)
    (ledger,) = (tmp_path / "a" / "ledger").iterdir()
    lines = ledger.read_bytes().splitlines(keepends=True)
    fill(tmp_path / "a", some_records([2]))
    ledger.write_bytes(b"".join(lines[:2] + lines[3:]))
    fill(tmp_path / "b", some_records(range(4, 6)))
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert_holds(tmp_path / "c", some_records([0, 1, 3, 2, 4, 5]))
    assert merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c").written == 0
    convert_store(tmp_path / "a", tmp_path / "d")
    assert_holds(tmp_path / "d", some_records([0, 1, 3, 2]))


# Elsewhere.


@pytest.fixture(params=["memory", "s3"])
def url(request):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_url')}/rewriting-{random.random()}"
    return f"memory://rewriting-{random.random()}"


def test_stores_elsewhere_are_converted_and_merged(url, tmp_path, records):
    fill(f"{url}/a", records[:6])
    fill(tmp_path / "b", records[6:])
    convert_store(f"{url}/a", f"{url}/z", storage="zstd")
    assert_holds(f"{url}/z", records[:6])
    # A shard that arrived, and whose lines did not.
    folder = store_folder(f"{url}/z")
    (ledger,) = folder.sizes("ledger")
    text = folder.read(f"ledger/{ledger}")
    last = names(f"{url}/z")[-1]
    folder.write(
        f"ledger/{ledger}", b"".join(line for line in text.splitlines(keepends=True) if last.encode() not in line)
    )
    convert_store(f"{url}/a", f"{url}/z", storage="zstd")
    assert_holds(f"{url}/z", records[:6])
    merge_stores([f"{url}/z", tmp_path / "b"], f"{url}/c")
    assert_holds(f"{url}/c", records)
    merge_stores([f"{url}/z", tmp_path / "b"], tmp_path / "c")
    assert_holds(tmp_path / "c", records)
    assert verify_store(store_folder(f"{url}/c")).ok
