import pytest

from actframe.cli.progress import RunBar
from actframe.runs.layout import Written
from actframe.runs.progress import RunProgress


@pytest.mark.parametrize("columns", [80, 120])
def test_the_bar_has_all_its_figures_in_the_width_of_a_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with RunBar("answering") as bar:
        bar(RunProgress(0, 144))
        written = Written(bytes_on_disk=123_400_000)
        bar(RunProgress(done=144, total=144, correct=144, tokens=12345, seconds=10.0, written=written))
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == ""
    assert len(line.rstrip()) <= columns
    for figure in ("answering", "144/144", "accuracy 100%", "1234 tokens/s", "123.4 MB on disk", "0:00:00"):
        assert figure in line


def test_the_bar_says_nothing_of_bytes_where_none_are_written(capsys):
    with RunBar("answering") as bar:
        bar(RunProgress(1, 2, 1, 5, 1.0))
    line = capsys.readouterr().err
    assert "accuracy 100% 5 tokens/s" in line
    assert "disk" not in line


def test_the_bar_ends_when_the_run_raises(capsys):
    with pytest.raises(RuntimeError, match="gone"), RunBar("answering"):
        raise RuntimeError("gone")
    assert "answering" in capsys.readouterr().err
