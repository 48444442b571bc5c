"""The room that a run has: what it may take is never passed, whatever the format and however short the answers."""

import pytest
from toys import Toy, settings

from actframe import ActivationStore, Selection
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun

CAPTURES = [
    None,
    CaptureSettings(),
    CaptureSettings(Selection(["layer_*.mlp_act", "logits"], positions="last_prompt")),
    CaptureSettings(storage="zstd"),
    CaptureSettings(0, storage="pickle"),
]


@pytest.mark.parametrize("capture", CAPTURES, ids=str)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95, 0.999])
def test_a_limit_is_never_passed(share, capture, tiny, tmp_path):
    chosen = {"capture": capture, "batch_size": 1, "num_trials": 5, "temperature": 1.0}
    whole = BenchmarkRun(tiny, Toy(), tmp_path / "whole", settings(**chosen)).execute()
    limit = int(share * whole.circumstances["bytes_on_disk"])
    result = BenchmarkRun(tiny, Toy(), tmp_path / "part", settings(**chosen, max_disk_bytes=limit)).execute()
    assert result.partial
    assert ActivationStore(tmp_path / "part").bytes_on_disk <= limit
    assert len(ActivationStore(tmp_path / "part")) == result.new == len(result.answers)


@pytest.mark.parametrize("layout", ["store", "files"])
def test_a_limit_that_is_never_reached_ends_nothing(layout, tiny, tmp_path):
    chosen = settings(capture=CaptureSettings(), layout=layout, max_disk_bytes=10**9)
    assert not BenchmarkRun(tiny, Toy(), tmp_path, chosen).execute().partial


def test_files_have_a_limit_too(tiny, tmp_path):
    whole = BenchmarkRun(tiny, Toy(), tmp_path / "whole", settings(capture=CaptureSettings(), layout="files")).execute()
    limit = whole.circumstances["bytes_on_disk"] // 2
    chosen = settings(capture=CaptureSettings(), layout="files", max_disk_bytes=limit, batch_size=1)
    result = BenchmarkRun(tiny, Toy(), tmp_path / "part", chosen).execute()
    assert result.partial
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "part").glob("*.safetensors")) <= limit
