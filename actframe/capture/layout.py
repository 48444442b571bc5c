"""Where embeddings, blocks, attention, MLP, norm and head are, in any model.

The parts are found by structure: lists of blocks, their place in the decoder, the number that the configuration
gives, and the roles that names of children express across architectures. No architecture is known by its name. A
model that the rule gets wrong can be described by a plugin (`model_layout`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import nn

from actframe.capture.declared import declared_outputs
from actframe.capture.exceptions import POSITION_FIRST, POSITIONS_AMONG_MORE, STREAM_COUNTS
from actframe.capture.parts import PART_NAMES, Declared, Place, block_parts
from actframe.capture.sides import find_sides, is_side, side_root
from actframe.capture.stacks import Role, blocks_in_order, find_stack

__all__ = ["ModelLayout", "Place", "Tower", "find_layout", "nearest_config"]


@dataclass(frozen=True)
class Tower:
    """One stack of blocks around one residual stream.

    Attributes:
        prefix: what its site names begin with: nothing, `"encoder."`, `"decoder."`, or of a tower beside the language
            model a word of its own, as `"vision."`.
        blocks: dotted paths of the blocks in the order of their calls; one that runs again stands here again.
        root: dotted path of the module whose forward takes this tower's ids and mask; empty for the model itself.
        span: dotted path of the module whose forward ends the tower's: the head of a decoder comes after its root.
        final_norm: dotted path of the norm after the last block, or None.
        norm_in_stack: whether that norm belongs to the very module that holds the blocks.
    """

    prefix: str
    blocks: tuple[str, ...]
    root: str = ""
    span: str = ""
    final_norm: str | None = None
    norm_in_stack: bool = False


@dataclass(frozen=True)
class ModelLayout:
    """Where the parts of a model are.

    Attributes:
        towers: the language model's comes last.
        places: of every site: names in the order in which the model computes them.
        refused: why a site that the model should have is not among them, by its name.
    """

    towers: tuple[Tower, ...] = ()
    places: Mapping[str, Place] = field(default_factory=lambda: MappingProxyType({}))
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def beside(self) -> frozenset[str]:
        """The prefixes of towers beside the language model, whose sequences are records of their own."""
        return frozenset(tower.prefix for tower in self.towers[:-1] if is_side(tower.prefix))

    def followed(self, selected: Set[str]) -> tuple[Tower, ...]:
        """The towers whose forward passes sites of some towers need: the language model's, unless all are beside it."""
        left_out = {tower.prefix for tower in self.towers} - self.beside if selected <= self.beside else self.beside
        return tuple(tower for tower in self.towers if tower.prefix in selected or tower.prefix not in left_out)


def find_layout(model: nn.Module, stacks: Mapping[str, str] | None = None) -> ModelLayout:
    """Find the parts of a model by structure. A model without blocks has an empty layout: only `module:` sites.

    Args:
        model: whose parts.
        stacks: the dotted path of each tower's list of blocks, by site prefix; None to find them.

    Raises:
        LayoutError: several lists of modules could be the blocks; the message lists them.
    """
    towers = _towers_by_hand(model, stacks) if stacks is not None else _find_towers(model)
    places: dict[str, Place] = {}
    refused: dict[str, str] = {}
    for tower in towers:
        places |= _tower_places(model, tower, refused)
    if towers and (head := _head(model)):
        places["logits"] = Place(head, tower=towers[-1].prefix, axes="logits")
    return ModelLayout(tuple(towers), MappingProxyType(places), MappingProxyType(refused))


def _find_towers(model: nn.Module) -> list[Tower]:
    scopes = _scopes(model)
    towers = []
    for prefix, scope in scopes.items():
        path = _path_of(model, scope)
        role: Role = "encoder" if prefix == "encoder." else "decoder"
        if stack := find_stack(model, scope, path, role, alone=len(scopes) == 1):
            root = path if len(scopes) > 1 else _root(model, stack)
            towers.append(_describe_tower(model, prefix, root, path, stack))
    sides = find_sides(model, [block for tower in towers for block in tower.blocks]) if towers else {}
    return [*(_describe_side(model, prefix, stack) for prefix, stack in sides.items()), *towers]


def _describe_side(model: nn.Module, prefix: str, stack: str) -> Tower:
    root = side_root(model, stack)
    tower = _describe_tower(model, prefix, root, root, stack)
    # A norm outside of what holds the blocks often takes the pooled state alone, as in CLIP; nothing tells.
    return tower if tower.norm_in_stack else replace(tower, final_norm=None)


def _towers_by_hand(model: nn.Module, stacks: Mapping[str, str]) -> list[Tower]:
    """The towers around stacks that somebody named; the language model's comes last, as everywhere."""
    known = {prefix: _path_of(model, scope) for prefix, scope in _scopes(model).items()}
    towers = []
    for prefix, stack in sorted(stacks.items(), key=lambda item: item[0] in ("", "decoder.")):
        scope = known.get(prefix, "") if len(known) > 1 else ""
        if is_side(prefix):
            towers.append(_describe_side(model, prefix, stack))
            continue
        if scope and stack.startswith(f"{scope}."):
            root = scope
        else:
            root, scope = _root(model, stack), ""
        towers.append(_describe_tower(model, prefix, root, scope, stack))
    return towers


def _scopes(model: nn.Module) -> dict[str, nn.Module]:
    """The modules to look for one stack each, by site prefix."""
    decoder = _unwrap(model, "get_decoder")
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) and hasattr(model, "get_encoder"):
        encoder = _call(model, "get_encoder")
        if isinstance(encoder, nn.Module) and encoder not in (model, decoder):
            return {"encoder.": encoder, "decoder.": decoder}
    return {"": decoder}


def _unwrap(model: nn.Module, getter: str) -> nn.Module:
    """Follow `get_decoder()` until it stops changing; two hops are needed for some."""
    inner = model
    while hasattr(inner, getter):
        following = _call(inner, getter)
        if not isinstance(following, nn.Module) or following is inner:
            break
        inner = following
    return inner


def _call(model: Any, getter: str) -> Any:  # transformers leaves these getters untyped
    return getattr(model, getter)()


def _path_of(model: nn.Module, wanted: nn.Module) -> str:
    return next((path for path, module in model.named_modules() if module is wanted), "")


_NORM_NAME = re.compile(r"(final_|post_|last_)?(layer_?norm|norm|ln)(_f|_post|_final)?", re.IGNORECASE)


def _root(model: nn.Module, stack: str) -> str:
    """The model, or in a wrapper of people's own, which may hide the ids, the outermost module that takes them."""
    if hasattr(type(model), "main_input_name"):  # a class of transformers: its own forward is what people call
        return ""
    paths = list(_upwards(stack.rpartition(".")[0], ""))
    for path in reversed(paths):
        if {"input_ids", "inputs_embeds"} & set(inspect.signature(model.get_submodule(path).forward).parameters):
            return path
    return ""


def _describe_tower(model: nn.Module, prefix: str, root: str, scope: str, stack: str) -> Tower:
    """The tower with its final norm, where one is found between the stack and its scope."""
    roles: dict[str, Role] = {"encoder.": "encoder", "decoder.": "decoder", "": "decoder"}
    tower = Tower(prefix, blocks_in_order(model, stack, roles.get(prefix)), root, "" if prefix == "decoder." else root)
    owner = stack.rpartition(".")[0]
    for path in _upwards(owner, scope):
        for name, child in model.get_submodule(path).named_children():
            if _NORM_NAME.fullmatch(name) and not list(child.children()):
                return replace(tower, final_norm=_join(path, name), norm_in_stack=path == owner)
    return tower


def _upwards(path: str, top: str) -> Iterator[str]:
    """A path and its parents up to `top`."""
    while True:
        yield path
        if path in ("", top):
            return
        path = path.rpartition(".")[0]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _head(model: nn.Module) -> str | None:
    head = _call(model, "get_output_embeddings") if hasattr(model, "get_output_embeddings") else None
    return (_path_of(model, head) or None) if isinstance(head, nn.Module) else None


def _tower_places(model: nn.Module, tower: Tower, refused: dict[str, str]) -> dict[str, Place]:
    stream = _stream(model, tower)
    places: dict[str, Place] = {}
    inner: dict[str, Place] = {}
    for index, path in enumerate(tower.blocks):
        call, calls = tower.blocks[:index].count(path), tower.blocks.count(path)
        block = replace(stream, module=path, call=call, calls=calls)
        places[f"layer_{index}"] = block
        inner[f"layer_{index}.resid_pre"] = replace(block, side="input")
        parts = block_parts(model.get_submodule(path), path, _declared(model, path))
        for name, place in parts.places.items():
            shared = stream.axes in ("pos_first", "leading", "trailing") and place.axes == "residual"
            axes = stream.axes if shared else place.axes
            inner[f"layer_{index}.{name}"] = replace(place, axes=axes, call=call, calls=calls)
        refused.update({f"{tower.prefix}layer_{index}.{name}": reason for name, reason in parts.refused.items()})
    places = {"embeddings": inner["layer_0.resid_pre"], **places}
    places |= dict(sorted(inner.items(), key=lambda item: PART_NAMES.index(item[0].partition(".")[2])))
    if tower.final_norm is not None:
        axes = stream.axes if stream.axes in ("leading", "trailing") else "residual"
        places["final_norm"] = Place(tower.final_norm, axes=axes)
    return {tower.prefix + name: replace(place, tower=tower.prefix) for name, place in places.items()}


def _declared(model: nn.Module, path: str) -> Declared:
    return {key: declared_outputs(model, path, key) for key in ("attentions", "router_logits")}


def _stream(model: nn.Module, tower: Tower) -> Place:
    """How the residual stream of a tower is laid out, as the place of a module to be named."""
    config = nearest_config(model, tower.blocks[0])
    kind = getattr(config, "model_type", None)
    if kind in POSITION_FIRST:
        return Place("", axes="pos_first")
    if kind in POSITIONS_AMONG_MORE:
        return Place("", axes=POSITIONS_AMONG_MORE[kind][0])
    for name, axes in STREAM_COUNTS.items():
        if isinstance(count := getattr(config, name, None), int) and count > 1:
            return Place("", axes=axes, streams=count)
    return Place("")


def nearest_config(model: nn.Module, path: str) -> Any:
    """The configuration of the innermost module around a path that has one; None where none has."""
    for around in _upwards(path, ""):
        config = getattr(model.get_submodule(around), "config", None)
        if hasattr(config, "model_type"):
            return config
    return None
