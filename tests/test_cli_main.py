import os
import subprocess
import sys
import warnings
from importlib import metadata

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from actframe.cli.main import add_plugin_commands, app
from actframe.distributions import Entry
from actframe.registry import Registry

ROOT = get_command(app)
COMMANDS = {"": ROOT, **ROOT.commands}

BOOM = """
import typer
from actframe import hookimpl
from actframe.errors import SiteError

@hookimpl
def register_commands(cli):
    @cli.command()
    def boom(kind: str):
        if kind == "error":
            raise SiteError("no site 'layer_99'\\n in this \\x1b[31mmodel")
        if kind == "system":
            raise PermissionError(13, "Permission denied", "/root/x")
        if kind == "bug":
            raise RuntimeError("a bug")
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "warn":
            import warnings
            warnings.warn("values were clipped", RuntimeWarning)
        if kind == "flood":
            from actframe.cli.console import stdout
            for number in range(100000):
                stdout().print(number)
        if kind == "whisper":
            print("one line that stays in the buffer")
"""


@pytest.fixture
def installed(tmp_path):
    """Makes a real distribution with an entry point, and gives the environment that finds it."""

    def install(name, code):
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[actframe]\n{name} = {name}\n")
        return {**os.environ, "PYTHONPATH": str(tmp_path), "ACTFRAME_PLUGINS": name}

    return install


def actframe(*arguments, env=None, **options):
    command = [sys.executable, "-m", "actframe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False, **options)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_is_answered_without_torch(command):
    code = (
        "import sys\n"
        "from actframe.cli.main import main\n"
        f"sys.argv = {['actframe', *command.split(), '--help']!r}\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: actframe {command}".strip() in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_flag_may_be_written_with_underscores(name):
    command = COMMANDS[name]
    with ROOT.make_context("actframe", [], resilient_parsing=True) as root:
        context = root if command is ROOT else command.make_context(name, [], parent=root, resilient_parsing=True)
        for option in command.get_params(context):
            for flag in option.opts if option.param_type_name == "option" else ():
                spelled = flag[:2] + flag[2:].replace("-", "_")
                given = [spelled] if option.is_flag else [spelled, "7"]
                parsed = command.make_parser(context).parse_args(list(given))[0]
                assert option.name in parsed, f"{spelled} of {name} is not understood"


def test_every_command_and_every_option_has_a_help_text():
    for name, command in ROOT.commands.items():
        assert command.help, name
        for param in command.params:
            assert param.help, f"{name} {param.name}"


def test_the_version_is_that_of_the_distribution():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"actframe {metadata.version('actframe')}\n"


@pytest.mark.parametrize("arguments", [["fly"], ["show"], ["stats", "x.pkl", "--fast"], ["--fast"]])
def test_a_command_that_is_not_understood_exits_with_2(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error" in result.stderr


def test_a_misspelt_command_gets_a_suggestion():
    assert "Did you mean 'stats'?" in CliRunner().invoke(app, ["statss"]).stderr


def test_a_failure_is_one_line_on_stderr_and_exits_with_1(installed):
    done = actframe("boom", "error", env=installed("plug", BOOM))
    assert done.returncode == 1
    assert done.stderr == "error: no site 'layer_99' in this \\x1b[31mmodel\n"
    assert done.stdout == ""


def test_a_failure_of_the_system_is_one_line_too(installed):
    done = actframe("boom", "system", env=installed("plug", BOOM))
    assert (done.returncode, done.stderr) == (1, "error: [Errno 13] Permission denied: '/root/x'\n")


@pytest.mark.parametrize("flags", [["--debug"], []])
def test_debug_shows_the_traceback(installed, flags):
    env = installed("plug", BOOM)
    done = actframe(*flags, "boom", "error", env=env if flags else {**env, "ACTFRAME_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "SiteError" in done.stderr


def test_a_bug_keeps_its_traceback(installed):
    done = actframe("boom", "bug", env=installed("plug", BOOM))
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr


def test_an_interrupt_exits_with_130_and_says_so(installed):
    done = actframe("boom", "interrupt", env=installed("plug", BOOM))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_warning_is_one_line_without_the_code_that_warned(installed):
    done = actframe("boom", "warn", env=installed("plug", BOOM))
    assert (done.returncode, done.stderr) == (0, "warning: values were clipped\n")


@pytest.mark.parametrize("kind", ["flood", "whisper"])
def test_a_reader_that_goes_away_is_no_error(installed, kind):
    command = [sys.executable, "-m", "actframe", "boom", kind]
    env = installed("plug", BOOM)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(timeout=300)


def test_output_that_is_no_terminal_is_plain(installed):
    done = actframe("--help")
    assert "\x1b" not in done.stdout
    assert "\x1b" not in actframe("boom", "error", env=installed("plug", BOOM)).stderr


def test_a_plugin_that_cannot_be_loaded_is_a_warning_and_help_still_comes(installed):
    done = actframe("--help", env=installed("broken", "import no_such_module_anywhere"))
    assert done.returncode == 0
    assert done.stderr.startswith("warning: actframe plugin 'broken' (broken 1.0) failed: ModuleNotFoundError")
    assert done.stderr.count("\n") == 1


def plugin_registry(tmp_path, monkeypatch, **modules):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, body in modules.items():
        head = "import typer\nfrom actframe import hookimpl\n@hookimpl\ndef register_commands(cli):\n"
        (tmp_path / f"{name}.py").write_text(head + "".join(f"    {line}\n" for line in body.splitlines()))
    return Registry(Entry(name, name) for name in modules)


@pytest.fixture
def cli():
    small = typer.Typer()
    small.command("run")(lambda: None)
    small.command("show")(lambda: None)
    group = get_command(small)
    assert isinstance(group, TyperGroup)
    return group


def test_plugins_add_commands_and_groups(cli, tmp_path, monkeypatch):
    group = "sub = typer.Typer()\nsub.command('go')(lambda: None)\ncli.add_typer(sub, name='lens_group')"
    plugins = plugin_registry(tmp_path, monkeypatch, lens="cli.command('lens')(lambda: None)", deep=group)
    add_plugin_commands(cli, plugins)
    assert set(cli.commands) == {"run", "show", "lens", "lens_group"}


def test_a_plugin_cannot_take_the_name_of_a_command(cli, tmp_path, monkeypatch):
    greedy = "cli.command('mine')(lambda: None)\ncli.command('run')(lambda: None)"
    plugins = plugin_registry(tmp_path, monkeypatch, greedy=greedy, modest="cli.command('modest')(lambda: None)")
    before = cli.commands["run"]
    with pytest.warns(RuntimeWarning, match="plugin 'greedy' .* its command 'run' has the name of another command"):
        add_plugin_commands(cli, plugins)
    assert cli.commands["run"] is before
    assert set(cli.commands) == {"run", "show", "modest"}


def test_a_plugin_whose_command_typer_cannot_read_stops_no_other(cli, tmp_path, monkeypatch):
    odd = "def odd(value: 'NoSuchType'): ...\ncli.command()(odd)"
    plugins = plugin_registry(tmp_path, monkeypatch, odd=odd, fine="cli.command('fine')(lambda: None)")
    with pytest.warns(RuntimeWarning, match="plugin 'odd'"):
        add_plugin_commands(cli, plugins)
    assert "fine" in cli.commands


def test_a_plugin_that_raises_stops_no_other(cli, tmp_path, monkeypatch):
    plugins = plugin_registry(tmp_path, monkeypatch, bad="1 / 0", good="cli.command('good')(lambda: None)")
    with pytest.warns(RuntimeWarning, match="plugin 'bad' .* ZeroDivisionError"):
        add_plugin_commands(cli, plugins)
    assert set(cli.commands) == {"run", "show", "good"}


def test_without_plugins_nothing_changes(cli):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_plugin_commands(cli, Registry([]))
    assert set(cli.commands) == {"run", "show"}
