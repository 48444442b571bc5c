"""Options of the simple functions become settings, and misspelt ones do not go unheard."""

import pytest

from actframe.errors import SettingsError
from actframe.runs.generation import GenerationSettings
from actframe.runs.options import InferenceOptions, generation_settings


def test_what_is_not_given_is_as_in_the_settings():
    assert generation_settings({}) == GenerationSettings(batch_size=1)
    assert generation_settings({"device": "cpu", "strategy": "hooks"}) == GenerationSettings(batch_size=1)


def test_what_is_given_reaches_the_settings():
    given = {"max_new_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 4, "chat": False}
    assert generation_settings(given) == GenerationSettings(**given, batch_size=1)


def test_a_misspelt_option_names_the_nearest_and_all_there_are():
    with pytest.raises(TypeError, match=r"no option 'temprature' \(did you mean 'temperature'\?\)") as caught:
        generation_settings({"temprature": 1.0})
    assert all(name in str(caught.value) for name in InferenceOptions.__annotations__)


def test_a_value_that_makes_no_sense_is_a_settings_error():
    with pytest.raises(SettingsError, match="max_new_tokens is 0"):
        generation_settings({"max_new_tokens": 0})
