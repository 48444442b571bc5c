"""Where names lead, and what is said of those that lead nowhere."""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from actframe.errors import ModelError
from actframe.runs.checkpoints import Checkpoint, find_checkpoint, identity, revision_of
from actframe.runs.models import load_model


@pytest.fixture
def tiny_folder(tmp_path, tiny_llama):
    folder = tmp_path / "tiny"
    for part in tiny_llama:
        part.save_pretrained(folder)
    return folder


def test_a_gguf_file_without_the_gguf_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"needs the package gguf: pip install 'actframe\[gguf\]'"):
        load_model(tmp_path / "some.gguf")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing-here", r"no model folder or GGUF file './nothing-here'; models in '\.': lone\.gguf, tiny"),
        (Path("nothing-here"), "no model folder or GGUF file 'nothing-here'"),
        ("no/such/folder", r"no model folder .*: there is no folder 'no/such' either"),
        ("model.gguf", r"no model folder or GGUF file 'model\.gguf'"),
        ("a file", "'a file' is a file; a model is a folder with"),
        (".", r"'\.' holds no model: it has no config\.json; name the file itself: lone\.gguf"),
        ("not a name!", "'not a name!' is neither a folder here nor a hub id"),
        ("", "the model's name is empty"),
        ("~nobody-here/model/x", r"no model folder or GGUF file '~nobody-here/model/x'"),
        ("Why is the sky blue? " * 100, "is neither a folder here nor a hub id"),
        ("nul\0character", "is neither a folder here nor a hub id"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_is_there(name, message, tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    Path("a file").touch()
    Path("lone.gguf").touch()
    with pytest.raises(ModelError, match=message):
        load_model(name)


class Hub(BaseHTTPRequestHandler):
    """Answers every question as the hub does for a repository that does not exist."""

    def do_GET(self):
        self.send_response(401 if "private" in self.path else 404)
        self.send_header("X-Error-Code", "GatedRepo" if "gated" in self.path else "RepoNotFound")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["someone/nothing", "private/model"])
def test_a_name_that_the_hub_does_not_have_is_an_error(name, hub):
    with pytest.raises(ModelError, match=f"no model '{name}': no such folder here, and the hub has none"):
        load_model(name)


def test_a_gated_model_says_how_to_get_access(hub):
    with pytest.raises(ModelError, match="'gated/model' is gated: ask for access"):
        load_model("gated/model")


def test_a_hub_that_cannot_be_reached_is_asked_once_and_told_with_alternatives(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    retries = []
    monkeypatch.setattr(time, "sleep", retries.append)
    with pytest.raises(ModelError, match=r"'some/model' is not in the local .*no answer: ConnectError.*local folder"):
        load_model("some/model")
    assert retries == []


def test_offline_mode_is_named_as_the_reason():
    with pytest.raises(ModelError, match=r"'some/model' is not in the local .*offline mode is on \(HF_HUB_OFFLINE\)"):
        load_model("some/model")


def test_what_is_there_is_found_without_reading_it(tmp_path):
    (tmp_path / "config.json").touch()
    (tmp_path / "some.gguf").touch()
    assert find_checkpoint(str(tmp_path)) == Checkpoint(str(tmp_path), str(tmp_path))
    found = find_checkpoint(tmp_path / "some.gguf")
    assert (found.source, found.gguf_file, found.offline) == (str(tmp_path), "some.gguf", True)


def test_smollm2_is_the_embedded_model_even_beside_a_folder_of_that_name(tmp_path, monkeypatch, smollm2):
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "smollm2" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("smollm2").source != "smollm2"
    assert find_checkpoint("./smollm2").source == "smollm2"
    assert identity("smollm2") != identity("./smollm2") == identity(tmp_path / "smollm2")


def test_the_commit_of_a_hub_model_is_read_from_the_cache(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert revision_of(Checkpoint("owner/name", "owner/name")) == commit
    assert revision_of(Checkpoint("here", str(snapshot))) == commit
    assert revision_of(Checkpoint("other", "owner/other")) is None
    assert revision_of(Checkpoint("folder", str(tmp_path))) is None
