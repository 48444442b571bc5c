"""Data sets of the hub, from a server on this machine that answers as the hub does; and what is said without it."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from actframe.benchmarks.hub import HubData
from actframe.benchmarks.mmlu import MMLU
from actframe.errors import BenchmarkError

DATA = Path(__file__).parent / "data" / "benchmarks" / "gsm8k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: test, path: test.jsonl}\n"
    b"  - {split: train, path: train.jsonl}\n---\n",
    "test.jsonl": (DATA / "test.jsonl").read_bytes(),
    "train.jsonl": (DATA / "train.jsonl").read_bytes(),
}
ASK = """
import json, sys
from actframe.benchmarks.gsm8k import GSM8K
from actframe.benchmarks.hub import HubData
from actframe.errors import BenchmarkError
try:
    if len(sys.argv) > 1:
        print(list(HubData(*sys.argv[1:]).rows("test")))
    benchmark = GSM8K()
    print(json.dumps([[q.id for q in benchmark.questions()], benchmark.examples(benchmark.questions()[0], 1)[0].text,
        dict(benchmark.identity())]))
except BenchmarkError as error:
    print("refused:", error)
"""


class Hub(BaseHTTPRequestHandler):
    """What the hub answers about `openai/gsm8k`, which holds our own questions here, about `own/gated` and others."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/openai/gsm8k/revision/no-such"):
            self.answer(404, code="RevisionNotFound")
        elif path.startswith("/api/datasets/openai/gsm8k/tree/"):
            self.answer(200, json.dumps([entry(name) for name in FILES]))
        elif path.startswith("/api/datasets/openai/gsm8k"):
            self.answer(200, json.dumps({"id": "openai/gsm8k", "sha": COMMIT, "siblings": [], "tags": []}))
        elif path.startswith("/datasets/openai/gsm8k/resolve/") and path.rpartition("/")[2] in FILES:
            self.answer(200, FILES[path.rpartition("/")[2]])
        elif "own/gated" in path:
            self.answer(403, code="GatedRepo")
        else:
            self.answer(404, code="EntryNotFound" if "openai/gsm8k" in path else "RepoNotFound")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, json.dumps([entry(name) for name in FILES]))

    def answer(self, status, body=b"", code=None):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def entry(name):
    return {"type": "file", "path": name, "size": len(FILES[name]), "oid": hashlib.sha1(FILES[name]).hexdigest()}


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Runs `ASK` in a process of its own, whose hub is on this machine and whose caches are empty at first."""
    home = tmp_path_factory.mktemp("hf")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(*arguments, online=True):
        port = server.server_address[1] if online else 1
        environment = {
            **os.environ,
            "HF_HOME": str(home),
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-c", ASK, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]

    yield run
    server.shutdown()
    server.server_close()


def test_without_a_hub_it_is_said_within_seconds_how_to_give_the_data(ask):
    began = time.monotonic()
    said = ask(online=False)
    assert said.startswith(
        "refused: the data set 'openai/gsm8k' (main) is not in the local cache of data sets, and the"
    )
    assert "Connect" in said
    assert said.endswith("Or give the data as files in the published form: --data PATH (data=PATH in Python)")
    assert time.monotonic() - began < 20


def test_a_data_set_of_the_hub_is_loaded_and_its_commit_kept_and_then_read_without_the_hub(ask):
    from actframe.benchmarks.gsm8k import GSM8K

    local = GSM8K(str(DATA))
    questions = local.questions()
    expected = {"hub": "openai/gsm8k", "configuration": "main", "revision": COMMIT, "split": "test", "seed": 0}
    for online in (True, False):
        ids, example, identity = json.loads(ask(online=online))
        assert ids == [question.id for question in questions]
        assert example == local.examples(questions[0], 1)[0].text
        assert identity == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["own/gated"],
            "refused: the data set 'own/gated' is gated: ask for access at https://huggingface.co/datasets/own",
        ),
        (["own/nothing"], "refused: the hub has no data set 'own/nothing', or it is private: ask for access at"),
        (["openai/gsm8k", "main", "no-such"], "refused: the data set 'openai/gsm8k' has no revision 'no-such'"),
        (
            ["openai/gsm8k", "socratic"],
            "refused: the split 'test' of the data set 'openai/gsm8k' (socratic) cannot be l",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_said(ask, arguments, message):
    assert ask(*arguments).startswith(message)


def test_offline_mode_is_named():
    with pytest.raises(BenchmarkError, match=r"'cais/mmlu' \(all\) is not in .*offline mode is on.* --data PATH"):
        MMLU().questions()


def test_nothing_is_asked_before_it_is_needed():
    assert str(HubData("own/data", "small")) == "the data set 'own/data' (small)"
    assert MMLU().split == "test"
