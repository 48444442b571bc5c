from datetime import timedelta

import pytest

from actframe.errors import SettingsError
from actframe.runs.settings import RunSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_trials": 0}, "num_trials is 0; it must be a whole number, at least 1$"),
        ({"num_trials": None}, "num_trials is None"),
        ({"limit": 0}, "limit is 0; it must be a whole number, at least 1, or None for all"),
        ({"limit": 1.5}, "limit is 1.5"),
        ({"limit": True}, "limit is True"),
        ({"num_trials": 2}, "2 trials at temperature 0 would give each answer 2 times"),
        ({"layout": "folders"}, "no layout 'folders'; there are store, files"),
        ({"max_disk_bytes": 0}, "max_disk_bytes is 0; .*, or None for no limit"),
        ({"shard_bytes": -1}, "shard_bytes is -1"),
        ({"flush_every": timedelta(0)}, "flush_every is 0:00:00; it must be longer than nothing"),
        ({"flush_every": 2.5}, "flush_every is 2.5; .* a timedelta, or None for whole shards"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        RunSettings(**options)


@pytest.mark.parametrize("every", [None, 1, timedelta(seconds=1)])
def test_a_run_may_be_flushed_by_time_by_number_or_as_shards_fill(every):
    assert RunSettings(flush_every=every).flush_every == every
