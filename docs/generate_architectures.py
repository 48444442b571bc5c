"""Writes docs/architectures.md from the tests: `python docs/generate_architectures.py`. It takes some minutes."""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).with_name("architectures.md")

if __name__ == "__main__":
    sys.path[:0] = [str(TARGET.parents[1] / "tests")]
    from zoo.page import render
    from zoo.sweep import sweep

    TARGET.write_text(render(sweep()), encoding="utf-8")
