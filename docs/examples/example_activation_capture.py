"""The four classic steps: capture, a benchmark question, loading and analysing, comparing prompts.

    python docs/examples/example_activation_capture.py [FOLDER]

Everything is written below FOLDER (default: activations). The model is the small one that `make demo` installs; any
hub id, folder or loaded model takes its place.
"""

from __future__ import annotations

import sys
from pathlib import Path

from actframe import (
    answer_benchmark_question_with_activations,
    generate_inference_with_activations,
    load_activations,
)
from actframe.analysis.similarity import compare_records
from actframe.analysis.stats import record_stats

MODEL = "smollm2"


def capture_one_prompt(folder: Path) -> Path:
    """Step 1: a response, and every layer's residual stream with it."""
    path = folder / "capital_of_france.safetensors"
    response, data = generate_inference_with_activations(
        "What is the capital of France?", MODEL, save_path=path, max_new_tokens=24
    )
    layer = data["activations"]["layer_0"]
    print(f"{response!r}: {len(data['activations'])} sites, {tuple(layer.shape)} {layer.dtype} each, in {path}")
    return path


def answer_one_question(folder: Path) -> None:
    """Step 2: a question with a right answer; the file knows whether it was given."""
    question = {
        "question": "Which planet is the largest in the solar system?",
        "choices": ["Mars", "Jupiter", "Venus", "Mercury"],
        "answer": "B",
    }
    response, answer, data = answer_benchmark_question_with_activations(
        question, MODEL, activation_save_dir=folder, max_new_tokens=32
    )
    print(f"{response!r}: extracted {answer}, {'right' if data['correct'] else 'not right'}")


def load_and_analyse(path: Path) -> None:
    """Step 3: what is in a file, read layer by layer."""
    for site in ("embeddings", "layer_0", "layer_15", "layer_29"):
        (stats,) = record_stats(load_activations(path, sites=[site]))
        print(f"{site:12} std {stats.std:10.3f}")


def compare_prompts(folder: Path) -> None:
    """Step 4: how alike two prompts are in each layer, at the last position of the prompt."""
    records = [
        generate_inference_with_activations(f"What is the capital of {country}?", MODEL, max_new_tokens=1)[1]
        for country in ("France", "Spain")
    ]
    for layer in compare_records(*records, position="last_prompt")[::5]:
        print(f"{layer.site:12} cosine {layer.cosine:6.3f}")


def main() -> None:
    """Run the four steps."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "activations")
    folder.mkdir(parents=True, exist_ok=True)
    path = capture_one_prompt(folder)
    answer_one_question(folder)
    load_and_analyse(path)
    compare_prompts(folder)


if __name__ == "__main__":
    main()
