"""docs/command-line.md is what docs/generate_cli.py makes of the code."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_the_command_line_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    assert page == generator.render(), "run: python docs/generate_cli.py"
