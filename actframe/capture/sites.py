"""Site names: what they look like, what else is accepted for them, and patterns over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from actframe.errors import SiteError, nearest

__all__ = [
    "GRADIENT",
    "INPUT",
    "LAYER",
    "MAIN_TOWERS",
    "MODULE",
    "canonical",
    "expand",
    "family",
    "layer_count",
    "layer_site",
    "narrow_places",
    "of_main_towers",
    "summarise",
]

MODULE = "module:"
INPUT = "@input"
GRADIENT = "@grad"
"""At the end of a site's name: its gradient."""

LAYER = re.compile(r"(?P<tower>(?:\w+\.)?)layer_(?P<index>\d+)")
"""A residual stream after a block, with the tower it is in."""

MAIN_TOWERS = ("", "encoder.", "decoder.")
"""What the site names of a language model begin with; others are those of towers beside it, for images, say."""

_NUMBERED = re.compile(r"(?<!\w)layer_(\d+)(?!\w)")

_TOWER = r"((?:(?!resid_|blocks\b|attn_|mlp_)\w+\.)?)"
_ALIASES = [
    (re.compile(_TOWER + pattern), replacement)
    for pattern, replacement in [
        (r"hidden_states\[0\]", r"\1embeddings"),
        (r"resid_post\.(\d+)", r"\1layer_\2"),
        (r"resid_pre\.(\d+)", r"\1layer_\2.resid_pre"),
        (r"(attn_out|attn_write|mlp_out|mlp_write|mlp_act)\.(\d+)", r"\1layer_\3.\2"),
        (r"blocks\.(\d+)\.hook_resid_post", r"\1layer_\2"),
        (r"blocks\.(\d+)\.hook_(resid_pre|attn_out|mlp_out)", r"\1layer_\2.\3"),
        (r"blocks\.(\d+)\.mlp\.hook_post", r"\1layer_\2.mlp_act"),
        (r"blocks\.(\d+)\.attn\.hook_pattern", r"\1layer_\2.attn_probs"),
    ]
]


_WRITES = re.compile(_TOWER + r"blocks\.(\d+)\.hook_(attn|mlp)_out")
"""In TransformerLens, what is added to the residual stream: where a norm stands before that, what the norm gives."""


def canonical(name: str) -> str:
    """The site that an accepted spelling means; any other name is returned as it is.

    >>> canonical("blocks.3.hook_resid_post"), canonical("mlp_act.0"), canonical("resid_post.1@grad")
    ('layer_3', 'layer_0.mlp_act', 'layer_1@grad')
    """
    if name.endswith(GRADIENT):
        return canonical(name.removesuffix(GRADIENT)) + GRADIENT
    for pattern, replacement in _ALIASES:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return name


def expand(pattern: str, available: Sequence[str]) -> list[str]:
    """The available sites that a name or pattern means, in the order of `available`.

    `*` stands for anything within a dotted part, `**` for anything, `?` for one character: `layer_*` is every
    residual stream, `layer_*.mlp_out` every MLP output. Gradients are meant where it ends in `@grad` or `**`.

    Raises:
        SiteError: no site matches; the message lists the sites there are and the nearest spelling.
    """
    wanted = canonical(pattern)
    if (match := _WRITES.fullmatch(pattern)) and (write := match.expand(r"\1layer_\2.\3_write")) in available:
        wanted = write
    if wanted in available:
        return [wanted]
    if any(sign in wanted for sign in "*?"):
        expression = _compile(wanted)
        found = [site for site in available if expression.fullmatch(site)]
        if not wanted.endswith((GRADIENT, "**")):
            found = [site for site in found if not site.endswith(GRADIENT)]
        if found:
            return found
    if wanted.endswith(GRADIENT):
        raise SiteError(
            f"no site {pattern!r} here: a gradient is recorded beside each selected site where the recorder is given "
            "gradients=True, and backward() is called inside the block; select the site itself"
        )
    raise SiteError(
        f"no site {pattern!r} in this model{nearest(wanted, available)}; it has {summarise(available)}, "
        f"and {MODULE}<dotted path> for any module"
    )


def layer_site(index: int, available: Iterable[str]) -> list[str]:
    """The residual streams after block `index` (negative: from the end), one for each tower of the language model.

    Raises:
        SiteError: no tower has so many blocks; the message says how many there are.
    """
    found = []
    counted = layer_count(of_main_towers(available))
    for tower, count in counted.items():
        if -count <= index < count:
            found.append(f"{tower}layer_{index % count}")
    if not found:
        counts = ", ".join(f"{tower.rstrip('.') + ': ' if tower else ''}{n}" for tower, n in counted.items())
        raise SiteError(
            f"no layer {index}: the number of layers is {counts or 0}; they count from 0, or from -1 backwards"
        )
    return found


def of_main_towers(available: Iterable[str]) -> list[str]:
    """Of residual streams, those of the language model; all of them where there are no such.

    >>> of_main_towers(["vision.layer_0", "layer_0"]), of_main_towers(["vision.layer_0"])
    (['layer_0'], ['vision.layer_0'])
    """
    streams = [site for site in available if LAYER.fullmatch(site) or site.rpartition(".")[2] == "embeddings"]
    return [site for site in streams if site[: site.rfind(".") + 1] in MAIN_TOWERS] or streams


def layer_count(available: Iterable[str]) -> dict[str, int]:
    """How many blocks each tower has, by tower prefix."""
    counts: dict[str, int] = {}
    for match in filter(None, map(LAYER.fullmatch, available)):
        tower = match["tower"]
        counts[tower] = max(counts.get(tower, 0), int(match["index"]) + 1)
    return counts


def family(site: str) -> tuple[str, str | None]:
    """What a site has in common with those of other layers, and the number of its layer, if it has one.

    >>> family("encoder.layer_3.mlp_out"), family("logits")
    (('encoder.layer_{i}.mlp_out', '3'), ('logits', None))
    """
    found = _NUMBERED.search(site)
    return (site, None) if found is None else (f"{site[: found.start(1)]}{{i}}{site[found.end(1) :]}", found[1])


def narrow_places(places: Mapping[str, str], sites: Iterable[str]) -> dict[str, str]:
    """Of what a record says of the places of its sites, what speaks of some of them.

    >>> narrow_places({"embeddings": "h.0@input", "layer_{i}": "h.{i}", "layer_2": "last"}, ["layer_0", "layer_1"])
    {'layer_{i}': 'h.{i}'}
    """
    named = {name for site in sites for name in (site, family(site)[0])}
    return {name: path for name, path in places.items() if name in named}


def summarise(available: Sequence[str]) -> str:
    """The sites in few words: numbered ones as a range.

    >>> summarise(["embeddings", "layer_0", "layer_1", "layer_2", "logits"])
    'embeddings, layer_0 .. layer_2, logits'
    """
    families: dict[str, list[str]] = {}
    for site in available:
        families.setdefault(family(site)[0], []).append(site)
    return (
        ", ".join(sites[0] if len(sites) == 1 else f"{sites[0]} .. {sites[-1]}" for sites in families.values())
        or "no site of its own"
    )


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts))
