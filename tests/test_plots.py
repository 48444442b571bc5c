import subprocess
import sys

import pytest
import torch

pytest.importorskip("matplotlib", reason='plots need the extra: pip install "actframe[plot]"')

from matplotlib.figure import Figure

from actframe.analysis.plots import draw_norms, draw_similarity, save_overview
from actframe.analysis.similarity import compare_records
from actframe.errors import ActframeError, SiteError, StorageError

SINK = 5000.0


def make_record(prompt, seed=0, layers=14, rows=6, **changes):
    noise = torch.randn(layers + 1, rows, 8, generator=torch.Generator().manual_seed(seed))
    noise[:, 0, 0] = SINK
    sites = ["embeddings", *(f"layer_{index}" for index in range(layers))]
    values = {
        "prompt": prompt,
        "model": "smollm2",
        "activations": dict(zip(sites, noise.to(torch.bfloat16), strict=True)),
        "positions": list(range(rows)),
        "site_positions": {},
        "prompt_length": rows - 2,
    }
    return {**values, **changes}


def axes():
    return Figure().subplots()


def lines_of(panel):
    return {line.get_label(): list(line.get_ydata()) for line in panel.get_lines() if line.get_label()[0] != "_"}


def test_the_overview_is_a_png_of_two_panels(tmp_path):
    path = save_overview(make_record("one"), make_record("two", seed=1), tmp_path / "plot.png")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(content[16:20], "big") == 12 * 160


def test_the_norms_of_position_zero_prompt_and_response_are_drawn_apart():
    panel = axes()
    record = make_record("one")
    draw_norms(panel, record)
    drawn = lines_of(panel)
    assert list(drawn) == ["prompt: median of 3 tokens", "response: median of 2 tokens", "position 0 (attention sink)"]
    norms = record["activations"]["layer_4"].double().norm(dim=1)
    assert drawn["position 0 (attention sink)"][5] == pytest.approx(float(norms[0]))
    assert drawn["prompt: median of 3 tokens"][5] == pytest.approx(float(norms[1:4].median()))
    assert panel.get_yscale() == "log"


def test_every_position_has_a_thin_line_of_its_own():
    panel = axes()
    draw_norms(panel, make_record("one"))
    assert [len(collection.get_segments()) for collection in panel.collections] == [3, 2]


def test_ticks_name_the_embeddings_and_round_layers():
    panel = axes()
    draw_norms(panel, make_record("one", layers=14))
    assert [label.get_text() for label in panel.get_xticklabels()] == ["emb", "2", "4", "6", "8", "10", "12"]
    assert list(panel.get_xticks()) == [0, 3, 5, 7, 9, 11, 13]


def test_the_drawn_similarity_is_the_computed_one():
    panel, first, second = axes(), make_record("one"), make_record("two", seed=1)
    draw_similarity(panel, first, second, positions=["last", 3])
    assert lines_of(panel)["last token"] == [result.cosine for result in compare_records(first, second, "last")]
    assert lines_of(panel)["position 3"] == [result.cosine for result in compare_records(first, second, 3)]


def test_only_the_residual_stream_of_the_tower_that_writes_is_drawn():
    rows = torch.ones(6, 8)
    names = [
        "encoder.embeddings",
        "encoder.layer_0",
        "decoder.embeddings",
        "decoder.layer_0",
        "decoder.layer_0.mlp_out",
    ]
    panel = axes()
    draw_norms(panel, make_record("one", activations=dict.fromkeys(names, rows)))
    assert [label.get_text() for label in panel.get_xticklabels()] == ["emb", "0"]


def test_reduced_rows_are_drawn_without_a_phase():
    panel = axes()
    draw_norms(panel, make_record("one", activations={"layer_0": torch.ones(1, 8), "layer_1": torch.ones(1, 8)}))
    assert list(lines_of(panel)) == ["all rows"]


def test_a_record_without_residual_streams_is_an_error_that_says_what_to_record():
    record = make_record("one", activations={"layer_0.mlp_out": torch.ones(6, 8)})
    with pytest.raises(SiteError, match=r"no residual stream to draw: record layer_\*"):
        draw_norms(axes(), record)
    with pytest.raises(SiteError, match="share no residual stream"):
        draw_similarity(axes(), make_record("one"), record)


def test_a_folder_that_does_not_exist_is_an_error_that_names_the_path(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write the plot .*nowhere/plot\.png: No such file"):
        save_overview(make_record("one"), make_record("two"), tmp_path / "nowhere" / "plot.png")


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    for module in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ActframeError, match=r'pip install "actframe\[plot\]"'):
        save_overview(make_record("one"), make_record("two"), tmp_path / "plot.png")


def test_drawing_leaves_the_global_state_of_pyplot_alone():
    code = (
        "import sys, torch; from actframe.analysis.plots import save_overview; "
        "r = {'activations': {'layer_0': torch.ones(3, 4)}, 'positions': [0, 1, 2], 'prompt_length': 2}; "
        "save_overview(r, r, '/dev/null'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
