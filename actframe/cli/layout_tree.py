"""A model's layout as a tree on the terminal."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

from actframe.cli.console import one_line

__all__ = ["layout_tree"]


def layout_tree(name: str, outline: dict[str, Any]) -> Tree:
    """The tree of what `actframe.capture.outline` found in a model."""
    tree = Tree(Text.assemble((one_line(name), "bold"), f"  {outline['class']}"), guide_style="dim")
    for tower in outline["towers"]:
        _add_tower(tree, tower)
    if not outline["towers"]:
        tree.add(_not_found("blocks", "no list of modules that could be blocks; record module:<dotted path> sites"))
    elif outline["logits"] is None:
        tree.add(_not_found("logits", "the model names no output embeddings"))
    else:
        tree.add(_found("logits", outline["logits"]))
    return tree


def _add_tower(tree: Tree, tower: dict[str, Any]) -> None:
    title = f"tower {tower['prefix']}" if tower["prefix"] else "tower"
    root = tower["root"]
    axes = f"({', '.join(tower['axes'])})"
    branch = tree.add(_line(title, root["path"] or "the model itself", root["class"], f"residual stream {axes}"))
    for number, run in enumerate(tower["blocks"]):
        if not number:
            branch.add(_line("embeddings", run["paths"][0], "", "what enters the first block"))
        _add_blocks(branch, run)
    if tower["final_norm"] is None:
        branch.add(_not_found("final_norm", "no norm stands after the blocks in this tower"))
    else:
        branch.add(_found("final_norm", tower["final_norm"]))


def _add_blocks(branch: Tree, run: dict[str, Any]) -> None:
    sites, paths = (" .. ".join(dict.fromkeys(run[key])) for key in ("sites", "paths"))
    alike = f"{run['count']} alike" if run["count"] > 1 else ""
    block = branch.add(_line(sites, paths, run["class"], alike))
    for name, part in run["parts"].items():
        block.add(_found(name, part))
    for name, reason in run["missing"].items():
        block.add(_not_found(name, reason))


def _found(name: str, part: dict[str, Any]) -> Text:
    where = "what enters it" if part.get("side") == "input" else ""
    item = f"item {part['item']} of its output" if part.get("item") else ""
    return _line(name, part["path"], part["class"], where or item)


def _line(name: str, path: str, kind: str, more: str = "") -> Text:
    text = Text.assemble((name, "bold cyan"), "  ", path)
    if kind:
        text.append(f"  {kind}", "green")
    if more:
        text.append(f"  {more}", "dim")
    return text


def _not_found(name: str, reason: str) -> Text:
    return Text.assemble((name, "bold yellow"), "  ", (f"not found: {one_line(reason)}", "yellow"))
