import pytest

from actframe.cli.progress import ByteBar, RunBar
from actframe.runs.layout import Written
from actframe.runs.progress import RunProgress


@pytest.mark.parametrize("columns", [80, 120])
def test_the_bar_has_all_its_figures_in_the_width_of_a_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with RunBar("answering") as bar:
        bar(RunProgress(0, 14042))
        written = Written(123_400_000, queued_records=9, queued_bytes=45_600_000, bytes_per_second=7_890_000.5)
        bar(RunProgress(done=14042, total=14042, correct=14042, tokens=12345, seconds=10.0, written=written))
    printed = capsys.readouterr()
    first, second = printed.err.splitlines()
    assert printed.out == ""
    assert max(len(first.rstrip()), len(second.rstrip())) <= columns
    for figure in ("answering", "14042/14042", "accuracy 100%", "1234 tokens/s", "0:00:00"):
        assert figure in first
    assert second.strip() == "123.4 MB on disk  7.9 MB/s  45.6 MB queued"


def test_answers_that_were_there_say_nothing_of_speed(capsys):
    with RunBar("answering") as bar:
        bar(RunProgress(5, 9, 3, earlier=5))
    line = capsys.readouterr().err
    assert "5/9 accuracy 60%" in line
    assert "tokens/s" not in line


def test_the_bar_says_what_is_done_now(capsys):
    with RunBar("answering") as bar:
        bar(RunProgress(5, 9))
        bar.describe("writing what is finished")
    assert "writing what is finished" in capsys.readouterr().err


def test_the_bar_says_nothing_of_bytes_where_none_are_written(capsys):
    with RunBar("answering") as bar:
        bar(RunProgress(1, 2, 1, 5, 1.0))
    line = capsys.readouterr().err
    assert "accuracy 100% 5 tokens/s" in line
    assert "disk" not in line


def test_the_bar_ends_when_the_run_raises(capsys):
    with pytest.raises(RuntimeError, match="gone"), RunBar("answering") as bar:
        bar(RunProgress(5, 9, written=Written(0, queued_records=5, queued_bytes=1000)))
        raise RuntimeError("gone")
    (line,) = capsys.readouterr().err.splitlines()
    assert "answering" in line
    assert "5/9" in line


def test_the_bar_says_nothing_of_a_run_that_does_nothing(capsys):
    with RunBar("answering"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("columns", [80, 120])
def test_the_bar_of_bytes_has_all_its_figures_in_the_width_of_a_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with ByteBar("verifying") as bar:
        bar(60_000_000_000, 120_000_000_000)
        bar(120_000_000_000, 120_000_000_000)
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == ""
    assert len(line.rstrip()) <= columns
    for figure in ("verifying", "120.0/120.0 GB", "/s", "0:00:00"):
        assert figure in line
    assert bar.done == 120_000_000_000


def test_the_bar_of_bytes_says_nothing_of_nothing(capsys):
    with ByteBar("verifying"):
        pass
    assert capsys.readouterr().err == ""


def test_the_bar_of_bytes_stays_where_the_work_ended(capsys):
    with pytest.raises(RuntimeError, match="gone"), ByteBar("converting") as bar:
        bar(1000, 4000)
        raise RuntimeError("gone")
    assert "1.0/4.0 kB" in capsys.readouterr().err
