"""Real damage: what verify says of it, and what repair leaves."""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest

from actframe import ActivationStore, StorageError
from actframe.errors import FormatError
from actframe.storage.folders import store_folder
from actframe.storage.health import verify_store
from actframe.storage.repair import repair_store
from actframe.testing import assert_same_record, random_record

RUN = {"model": {"name": "tiny"}, "seed": 1}
NUMBERS = range(12)


def fill(path, numbers=NUMBERS, run=RUN, **settings):
    settings = {"shard_bytes": 2000, **settings}
    with ActivationStore(path, run=run, **settings) as store:
        for number in numbers:
            store.append(random_record(number, 3 + number % 4))
    return store


def verify(path):
    return verify_store(store_folder(path))


def keys(path):
    store = ActivationStore(path, create=False)
    return [(record["question_id"], record["trial"]) for record in store.entries()]


def files(path, below):
    return sorted((path / below).iterdir()) if (path / below).is_dir() else []


def shards(path):
    return files(path, "shards")


def content(path):
    """Every file of a store."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def numbers_of(path):
    return sorted(int(question.removeprefix("sums/")) for question, _ in keys(path))


def assert_sound(path, numbers=NUMBERS):
    """The store holds these records, each once and bit for bit, and nothing is wrong; repairing changes nothing."""
    report = verify(path)
    assert report.ok, str(report)
    assert not ActivationStore(path).ledger.problems
    assert numbers_of(path) == sorted(numbers)
    for record in ActivationStore(path):
        number = int(record.question_id.removeprefix("sums/"))
        assert_same_record(record, random_record(number, 3 + number % 4))
    before = content(path)
    again = repair_store(path)
    assert not again.changed, again
    assert not again.left
    assert content(path) == before


def rerun(path, numbers=NUMBERS):
    """What a run does that goes on: it appends the records whose keys are not there."""
    there = set(keys(path))
    missing = [number for number in numbers if (f"sums/{number}", 0) not in there]
    with ActivationStore(path, shard_bytes=2000) as store:
        for number in missing:
            store.append(random_record(number, 3 + number % 4))
    return missing


def kinds(report):
    return sorted({problem.kind for problem in report.problems})


def flip(file, offset, bit=1):
    data = bytearray(file.read_bytes())
    data[offset] ^= bit
    file.write_bytes(data)


@pytest.fixture
def path(tmp_path):
    fill(tmp_path / "run")
    return tmp_path / "run"


def test_a_sound_store_is_sound(path):
    report = ActivationStore(path).verify()
    assert report.ok
    assert (report.records, report.shards) == (12, len(shards(path)))
    assert report.bytes == sum(file.stat().st_size for file in shards(path))
    assert str(report).endswith(": sound")
    assert_sound(path)


def test_progress_counts_bytes(path):
    seen = []
    verify_store(store_folder(path), lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == sum(file.stat().st_size for file in shards(path))


DAMAGE = {
    "deleted": lambda file: file.unlink(),
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "flipped": lambda file: flip(file, file.stat().st_size - 3),
    "flipped in its header": lambda file: flip(file, 20),
}


@pytest.mark.parametrize("backend", ["safetensors", "zstd", "pickle"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_costs_its_own_records_and_a_rerun_fills_the_gap(tmp_path, damage, backend):
    path = tmp_path / "run"
    fill(path, backend=backend)
    victim = shards(path)[1]
    ledger = ActivationStore(path).ledger
    number = ledger.shards.index(victim.name)
    hurt = [ledger.entry(at)["question_id"] for at in range(12) if ledger.shard_numbers[at] == number]
    DAMAGE[damage](victim)

    report = verify(path)
    (problem,) = report.problems
    assert (problem.file, problem.kind) == (f"shards/{victim.name}", "missing" if damage == "deleted" else "damaged")
    assert [record.question_id for record in problem.records] == hurt
    assert report.records == 12 - len(hurt)
    assert f"{len(hurt)} records: {hurt[0]} (trial 0)" in str(report)

    repaired = repair_store(path)
    assert [record.question_id for record in repaired.lost] == hurt
    if damage == "deleted":
        assert repaired.missing == [victim.name]
    else:
        assert list(repaired.quarantined) == [victim.name]
        assert (path / "quarantine" / victim.name).is_file()
    assert_sound(path, [number for number in NUMBERS if f"sums/{number}" not in hurt])
    assert [f"sums/{number}" for number in rerun(path)] == hurt
    assert_sound(path)


def test_bits_flipped_anywhere_in_a_shard_are_found(path, tmp_path):
    size = shards(path)[0].stat().st_size
    for offset in [*range(0, size, max(1, size // 25)), size - 1]:
        copy = shutil.copytree(path, tmp_path / f"copy{offset}")
        flip(shards(copy)[0], offset, 1 << (offset % 8))
        assert kinds(verify(copy)) == ["damaged"]
        repair_store(copy)
        rerun(copy)
        assert_sound(copy)


@pytest.mark.parametrize("shard_bytes", [1, 2000, 10**9])
def test_bits_flipped_anywhere_in_a_ledger_lose_nothing(tmp_path, shard_bytes):
    fill(tmp_path / "run", range(4), shard_bytes=shard_bytes)
    (ledger,) = files(tmp_path / "run", "ledger")
    size = ledger.stat().st_size
    draw = random.Random(0)
    line = ledger.read_bytes().find(b"\n") + 1
    # Most of them at the end of the first line, which says where the record is; elsewhere here and there.
    offsets = [*range(line - 230, line, 5), *draw.sample(range(size), 15), 0, size - 1]
    for number, offset in enumerate(offsets):
        copy = shutil.copytree(tmp_path / "run", tmp_path / f"copy{number}")
        (ledger,) = files(copy, "ledger")
        flip(ledger, offset, 1 << draw.randrange(8))
        assert not verify(copy).ok, offset
        report = repair_store(copy)
        assert report.changed, offset
        assert not report.quarantined, (offset, report)
        assert not report.lost, (offset, report)
        assert_sound(copy, range(4))
        assert (copy / "quarantine" / ledger.name).is_file()
        shutil.rmtree(copy)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.5, 0.77, 0.999])
def test_a_ledger_cut_anywhere_is_made_whole_again(path, share):
    (ledger,) = files(path, "ledger")
    os.truncate(ledger, int(ledger.stat().st_size * share))
    assert "uncommitted" in kinds(verify(path))
    report = repair_store(path)
    assert report.restored == 12 - report_lines_before(share, path)
    assert_sound(path)


def report_lines_before(share, path):
    """How many whole lines the cut left: those of the copy that repair kept."""
    kept = files(path, "quarantine")
    return kept[0].read_bytes().count(b"\n") if kept else 0


def test_a_lost_ledger_is_made_anew_as_it_was(path):
    (ledger,) = files(path, "ledger")
    before = ledger.read_bytes()
    ledger.unlink()
    assert kinds(verify(path)) == ["uncommitted"]
    report = repair_store(path)
    assert (report.restored, report.rewritten) == (12, [f"ledger/{ledger.name}"])
    assert ledger.read_bytes() == before
    assert_sound(path)


def test_the_ledgers_of_several_writers_are_made_anew(path):
    fill(path, range(12, 20))
    assert len(files(path, "ledger")) == 2
    before = content(path)
    shutil.rmtree(path / "ledger")
    assert repair_store(path).restored == 20
    assert content(path) == before
    assert_sound(path, range(20))


def test_a_line_that_contradicts_its_shard_is_put_right_from_the_shard(path):
    (ledger,) = files(path, "ledger")
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[5] = lines[5].replace(b'"response":" 10"', b'"response":" 11"')
    ledger.write_bytes(b"".join(lines))
    report = verify(path)
    assert kinds(report) == ["line", "uncommitted"]
    assert [str(record) for problem in report.problems for record in problem.records] == ["sums/5 (trial 0)"]
    assert repair_store(path).restored == 1
    assert_sound(path)


def test_a_line_that_says_the_same_in_other_words_is_sound(path):
    (ledger,) = files(path, "ledger")
    lines = [json.loads(line) for line in ledger.read_bytes().splitlines()]
    text = "\n".join(json.dumps(dict(reversed(line.items()))) for line in lines) + "\n"
    ledger.write_text(text)
    assert_sound(path)


def test_lines_that_are_there_twice_are_counted_once(path):
    (ledger,) = files(path, "ledger")
    ledger.write_bytes(2 * ledger.read_bytes())
    report = verify(path)
    assert report.ok
    assert report.records == 12
    assert repair_store(path).dropped == 12
    assert_sound(path)


def test_lines_of_two_records_swapped_are_put_right(path):
    (ledger,) = files(path, "ledger")
    lines = [json.loads(line) for line in ledger.read_bytes().splitlines()]
    lines[0]["stored"], lines[1]["stored"] = lines[1]["stored"], lines[0]["stored"]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert repair_store(path).restored == 2
    assert_sound(path)


def test_garbage_between_lines_is_taken_out_and_kept_in_quarantine(path):
    (ledger,) = files(path, "ledger")
    lines = ledger.read_bytes().splitlines(keepends=True)
    odd = [b"\xff\xfe\n", b"[1, 2]\n", b"\n", b'{"prompt": "no place"}\n', b'{"stored": {"shard": "../x"}}\n']
    garbled = b"".join([*lines[:3], *odd, *lines[3:]])
    ledger.write_bytes(garbled)
    (problem,) = verify(path).problems
    assert problem.why.startswith("4 lines cannot be read: line 4: ")
    repair_store(path)
    assert (path / "quarantine" / ledger.name).read_bytes() == garbled
    assert_sound(path)


def test_a_whole_ledger_of_another_store_names_missing_shards(path, tmp_path):
    other = fill(tmp_path / "other", range(20, 24))
    (stray,) = files(tmp_path / "other", "ledger")
    shutil.copy(stray, path / "ledger")
    report = verify(path)
    assert kinds(report) == ["missing"]
    assert sum(len(problem.records) for problem in report.problems) == len(other)
    assert {record.question_id for record in repair_store(path).lost} == {f"sums/{number}" for number in range(20, 24)}
    assert_sound(path)


# Records that were recorded twice.


def test_a_shard_whose_records_were_all_recorded_again_goes_to_quarantine(path):
    """A writer was killed between its shard and its lines, and the run went on without them."""
    ledger, *_ = files(path, "ledger")
    last = shards(path)[-1].name.encode()
    kept = [line for line in ledger.read_bytes().splitlines(keepends=True) if last not in line]
    ledger.write_bytes(b"".join(kept))
    # Opening would commit the shard; a run on another machine did not see it.
    os.rename(path / "shards" / last.decode(), path / "aside")
    again = [number for number in NUMBERS if number >= len(kept)]
    fill(path, again)
    os.rename(path / "aside", path / "shards" / last.decode())
    assert kinds(verify(path)) == ["uncommitted"]
    report = repair_store(path)
    assert report.quarantined == {last.decode(): "all it holds was recorded again"}
    assert not report.lost
    assert_sound(path)


def test_an_orphan_of_which_some_records_were_recorded_again_gives_the_others(tmp_path):
    path = tmp_path / "run"
    fill(path, range(4), shard_bytes=10**9)
    (ledger,) = files(path, "ledger")
    ledger.unlink()
    (orphan,) = shards(path)
    os.rename(orphan, path / "aside")
    fill(path, [2], shard_bytes=10**9)
    os.rename(path / "aside", orphan)
    report = repair_store(path)
    assert report.restored == 3
    assert not report.quarantined
    assert_sound(path, range(4))


def test_answers_that_a_run_gave_twice_are_left_once(path):
    fill(path, [3, 4])
    report = verify(path)
    assert kinds(report) == ["repeated"]
    assert [record.question_id for record in report.problems[0].records] == ["sums/3", "sums/4"]
    assert repair_store(path).dropped == 2
    assert_sound(path)


def test_records_of_no_run_may_say_the_same_twice(tmp_path):
    fill(tmp_path / "run", [1, 1, 2], run=None)
    assert verify(tmp_path / "run").ok
    assert not repair_store(tmp_path / "run").changed
    assert numbers_of(tmp_path / "run") == [1, 1, 2]


def test_two_models_answer_the_same_question(tmp_path):
    with ActivationStore(tmp_path / "run", run=RUN) as store:
        for model in ("one", "two"):
            store.append(random_record(0, model=model))
    assert verify(tmp_path / "run").ok
    (ledger,) = files(tmp_path / "run", "ledger")
    ledger.unlink()
    assert repair_store(tmp_path / "run").restored == 2


# The identity.


@pytest.mark.parametrize("damage", ["lost", "cut", "empty", "another"])
def test_a_lost_run_file_is_made_anew_from_the_shards(tmp_path, damage):
    path = tmp_path / "run"
    fill(path, backend="zstd")
    file = path / "run.json"
    before = json.loads(file.read_text())
    if damage == "lost":
        file.unlink()
    else:
        file.write_text({"cut": file.read_text()[:40], "empty": "", "another": '{"format": "album/2"}'}[damage])
    assert kinds(verify(path)) == ["identity"]
    report = repair_store(path)
    assert "what the shards say of their run" in report.identity
    after = json.loads(file.read_text())
    assert {**after, "created": None} == {**before, "created": None}
    assert after["created"][:16] == before["created"][:16]
    assert (path / "quarantine" / "run.json").exists() == (damage != "lost")
    assert_sound(path)
    assert ActivationStore(path).backend == "zstd"


def test_a_lost_run_file_of_no_run_is_made_anew_and_says_what_is_lost(tmp_path):
    path = tmp_path / "run"
    fill(path, run=None)
    (path / "run.json").unlink()
    assert "no run can go on" in repair_store(path).identity
    assert_sound(path)


def test_a_store_of_a_newer_version_is_left_alone(path):
    file = path / "run.json"
    file.write_text(file.read_text().replace("store/1", "store/2"))
    before = content(path)
    with pytest.raises(FormatError, match="store/2"):
        repair_store(path)
    assert content(path) == before


def test_everything_but_the_shards_can_be_lost(path):
    before = content(path)
    shutil.rmtree(path / "ledger")
    (path / "run.json").unlink()
    repair_store(path)
    assert content(path).keys() == before.keys()
    assert_sound(path)


# Who may be repaired, and how.


def test_what_is_no_store_is_refused(tmp_path):
    for call in (verify, repair_store):
        with pytest.raises(StorageError, match="there is no store"):
            call(tmp_path / "typo")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match="there is no store"):
        repair_store(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_that_cannot_be_written_is_not_repaired(path, open_folder):
    script = """
import os, sys
from actframe.storage.repair import repair_store
from actframe.storage.health import verify_store
from actframe.storage.folders import store_folder
from actframe import StorageError
assert verify_store(store_folder(sys.argv[1])).ok
os.setuid(65534)
assert verify_store(store_folder(sys.argv[1])).ok
try:
    repair_store(sys.argv[1])
except StorageError as error:
    print(error)
"""
    if os.getuid():
        pytest.skip("only root can become another user, for whom the folder is read-only")
    shutil.copytree(path, open_folder / "run")
    run = [sys.executable, "-c", script, open_folder / "run"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert "it cannot be written" in done.stdout, done.stderr


def test_a_writer_at_work_is_left_alone(path):
    (ended,) = files(path, "ledger")
    with ActivationStore(path, shard_bytes=2000) as store:
        for number in range(12, 20):
            store.append(random_record(number, 3 + number % 4))
        store.flush()
        (held,) = set(files(path, "ledger")) - {ended}
        before = held.read_bytes()
        held.write_bytes(before.replace(b'"subject":"odd"', b'"subject":"ood"', 1))
        # A shard whose lines are on their way, and half of a line.
        report = verify(path)
        assert report.writing == (held.name,)
        os.truncate(ended, ended.stat().st_size // 2)
        report = repair_store(path)
        assert report.rewritten == [f"ledger/{ended.name}"]
        assert any("a process that still runs" in each for each in report.left)
        assert b"ood" in held.read_bytes()
        store.append(random_record(20, 3))
        held_text = held.read_bytes()
    assert held.read_bytes().startswith(held_text)
    assert repair_store(path).restored == 1
    assert_sound(path, range(21))


def test_a_shard_that_a_writer_has_not_committed_yet_is_no_problem(path):
    with ActivationStore(path) as store:
        store.append(random_record(12, 3))
        store.flush()
        (held,) = [name for name in files(path, "ledger") if name.stat().st_size < 5000]
        (shard,) = [file for file in shards(path) if file.name.startswith(held.stem)]
        lines = held.read_bytes()
        os.truncate(held, 0)
        before = content(path)
        assert verify(path).ok
        assert not repair_store(path).changed
        assert content(path) == before
        held.write_bytes(lines)
    assert shard.exists()


def test_leftovers_of_ended_writers_are_deleted(path):
    (path / "shards" / ".20200101T000000Z-0000000000-000001.safetensors").write_bytes(b"half")
    repair_store(path)
    assert not [file for file in shards(path) if file.name.startswith(".")]


def test_a_shard_of_a_backend_that_is_not_installed_is_neither_damaged_nor_moved(path):
    (ledger,) = files(path, "ledger")
    shard = shards(path)[0]
    ledger.write_text(ledger.read_text().replace(shard.name, shard.stem + ".zipnn"))
    shard.rename(shard.with_suffix(".zipnn"))
    report = verify(path)
    assert kinds(report) == ["unreadable"]
    assert "no storage backend" in str(report)
    before = content(path)
    repaired = repair_store(path)
    assert not repaired.changed
    assert "no storage backend" in repaired.left[0]
    assert content(path) == before


def test_other_files_among_the_shards_are_no_concern(path):
    (path / "shards" / "notes.txt").write_text("mine")
    (path / "ledger" / "notes.txt").write_text("mine")
    assert verify(path).ok
    assert not repair_store(path).changed


def test_what_is_in_quarantine_already_is_not_replaced(path):
    victim = shards(path)[0]
    (ledger,) = files(path, "ledger")
    (path / "quarantine").mkdir()
    for name in (victim.name, f"{victim.name}.2", ledger.name):
        (path / "quarantine" / name).write_text("earlier")
    flip(victim, 100)
    repair_store(path)
    kept = {file.name: file.read_bytes() == b"earlier" for file in files(path, "quarantine")}
    assert kept == {
        victim.name: True,
        f"{victim.name}.2": True,
        f"{victim.name}.3": False,
        ledger.name: True,
        f"{ledger.name}.2": False,
    }


def test_being_killed_while_repairing_costs_nothing(path, monkeypatch):
    """Whichever of its steps is the last, doing it again leads to the same."""
    flip(shards(path)[0], shards(path)[0].stat().st_size - 1)
    (ledger,) = files(path, "ledger")
    text = ledger.read_bytes().replace(b"sums/9", b"sums/8")
    ledger.write_bytes(text)
    (path / "run.json").unlink()
    expected = shutil.copytree(path, path.parent / "expected")
    repair_store(expected)
    steps = 0
    while True:
        copy = shutil.copytree(path, path.parent / f"killed{steps}")
        if not _dies_after(steps, copy, monkeypatch):
            break
        repair_store(copy)
        assert content(copy) == content(expected), steps
        steps += 1
    assert steps >= 4


class KilledError(BaseException):
    pass


def _dies_after(steps, path, monkeypatch):
    """Repair, but end before the step of this number that changes something; whether it came to that."""
    from actframe.storage.local import LocalFolder

    left = steps

    def dying(method):
        def step(*arguments):
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return method(*arguments)

        return step

    with monkeypatch.context() as patch:
        for name in ("write", "create", "move", "remove"):
            patch.setattr(LocalFolder, name, dying(getattr(LocalFolder, name)))
        try:
            repair_store(path)
        except KilledError:
            return True
    return False


# Elsewhere.


@pytest.fixture(params=["memory", "s3"])
def url(request):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_url')}/health-{random.random()}"
    return f"memory://health-{random.random()}"


def test_a_store_elsewhere_is_verified_and_repaired(url):
    fill(url)
    folder = store_folder(url)
    assert verify(url).ok
    assert not repair_store(url).changed
    names = list(folder.sizes("shards"))
    folder.write(f"shards/{names[0]}", folder.read(f"shards/{names[0]}")[:-1] + b"\x77")
    folder.remove(f"shards/{names[1]}")
    (ledger,) = folder.sizes("ledger")
    text = folder.read(f"ledger/{ledger}")
    folder.write(f"ledger/{ledger}", text[:-10].replace(b'"trial":0,"subject":"odd"', b'"trial":7,"subject":"odd"'))
    folder.remove("run.json")
    assert kinds(verify(url)) == ["damaged", "identity", "line", "missing", "torn", "uncommitted"]
    report = repair_store(url)
    assert list(report.quarantined) == [names[0]]
    assert report.missing == [names[1]]
    assert names[0] in folder.sizes("quarantine")
    assert verify(url).ok
    assert not repair_store(url).changed
    gap = rerun(url)
    assert {f"sums/{number}" for number in gap} == {record.question_id for record in report.lost}
    assert verify(url).ok
    assert numbers_of(url) == list(NUMBERS)
    folder.remove(f"ledger/{ledger}")
    repair_store(url)
    assert numbers_of(url) == list(NUMBERS)


def test_a_shard_in_a_format_that_nothing_installed_reads_is_no_reason_not_to_open_a_store(path):
    """A plugin wrote it and was killed, and then it was removed."""
    (path / "shards" / "20200101T000000Z-0000000bb-000001.other").write_bytes(b"who knows")
    with pytest.warns(RuntimeWarning, match="cannot be read .*no storage backend for files ending in '.other'"):
        store = ActivationStore(path)
    assert len(store) == len(list(store))
