"""Records as one `.npz` file, which `numpy.load` reads without pickle."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy

from actframe.errors import SelectionError
from actframe.storage.cut_views import CutView, SiteFacts
from actframe.storage.kinds import Kind, kinds_of
from actframe.storage.ledger_files import Array
from actframe.storage.ledger_lines import encode_line
from actframe.storage.survey import Progress

__all__ = ["write_npz"]

RECORDS, ABOUT = "actframe.records", "actframe.export"
OFFSETS, POSITIONS, PRESENT, SHAPES = ".offsets", ".positions", ".present", ".shapes"

# Every text of an array takes as much as the longest, and four bytes for each character.
_LONGEST_TEXT = 100
_AT_ONCE = 65_536
_SIMPLE = {"bool": numpy.bool_, "int": numpy.int64, "long": numpy.int64, "float": numpy.float64}


def write_npz(view: CutView, path: Path, progress: Progress | None = None) -> None:
    """Write the records of a view into a new file, one array after the other, a part of each at a time.

    The arrays are, for each site:

        <site>            `(records, ...)` where each record has exactly one row, as was meant; else `(rows, ...)`, one
                          record's rows after the other's. Flat where records differ in more than the number of rows.
        <site>.offsets    int64 `(records + 1,)`, but for one row each: record i has offsets[i] to offsets[i + 1]
        <site>.positions  int32 `(rows,)`: the absolute position of each row; -1 where it has no single one
        <site>.present    bool `(records,)`, only where some records lack the site
        <site>.shapes     int64 `(records, axes)`, only for flat ones: the shape of each, -1 beyond its last axis

    and, once: each key under which every record says a number, a truth value or a short text, `(records,)`;
    `actframe.records`, the bytes of JSON lines with everything that records say; `actframe.export`, JSON on the whole.

    Raises:
        SelectionError: what records say has the name of an array.
    """
    kinds, length = _read_through(view)
    said = _simple_columns(view, kinds)
    own = {site + end for site in view.sites for end in ("", OFFSETS, POSITIONS, PRESENT, SHAPES)} | {RECORDS, ABOUT}
    if twice := own & said.keys():
        raise SelectionError(
            f"the records say something under {', '.join(sorted(twice))}, where the activations of that name would "
            f"be: choose other sites"
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, dtype in said.items():
            _add(archive, key, dtype, (len(view),), _batches(view.view.column(key), dtype))
        about = numpy.array(json.dumps(view.as_json()))
        _add(archive, ABOUT, about.dtype, (), [about])
        _add(archive, RECORDS, numpy.dtype(numpy.uint8), (length,), _lines(view))
        for number, (site, facts) in enumerate(view.sites.items()):
            _add_site(archive, view, site, facts, _part(progress, number, len(view.sites)))


def _add_site(archive: zipfile.ZipFile, view: CutView, site: str, facts: SiteFacts, progress: Progress | None) -> None:
    """Write the arrays of a site. Where its rows are is read first: an array begins with its shape."""
    counts, shapes = [], []
    for piece in view.pieces(sites=[site]):
        counts.append(piece.counts(site))
        shapes += piece.shapes(site)
    count = numpy.concatenate(counts)
    offsets = numpy.concatenate(([0], numpy.cumsum(count)))
    rows = int(offsets[-1])
    values = (piece.values(site) for piece in view.pieces(progress, [site]))
    _add(archive, site, facts.numpy_dtype, (rows, *(facts.trailing or ())), values)
    if not (view.is_one_row_each and facts.trailing is not None and (count == 1).all()):
        _add(archive, site + OFFSETS, offsets.dtype, offsets.shape, [offsets])
    if None in shapes:
        present = numpy.array([shape is not None for shape in shapes])
        _add(archive, site + PRESENT, present.dtype, present.shape, [present])
    if facts.trailing is not None:
        positions = (piece.positions(site).astype(numpy.int32) for piece in view.pieces(sites=[site]))
        _add(archive, site + POSITIONS, numpy.dtype(numpy.int32), (rows,), positions)
    else:
        axes = max(len(shape or ()) for shape in shapes)
        padded = numpy.array([[*(shape or ()), *[-1] * (axes - len(shape or ()))] for shape in shapes], numpy.int64)
        _add(archive, site + SHAPES, padded.dtype, padded.shape, [padded])


def _add(
    archive: zipfile.ZipFile, name: str, dtype: numpy.dtype[Any], shape: tuple[int, ...], parts: Iterable[Array]
) -> None:
    """Write one array, part by part."""
    header = {"descr": numpy.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    expected = int(numpy.prod(shape)) * dtype.itemsize
    # As far as the file says, an array may have more than 4 GB: how many it has is known only at its end.
    with archive.open(f"{name}.npy", "w", force_zip64=True) as opened:
        file = cast(BinaryIO, opened)
        numpy.lib.format.write_array_header_2_0(file, header)
        for part in parts:
            expected -= part.nbytes
            file.write(numpy.ascontiguousarray(part, dtype).reshape(-1).view(numpy.uint8).data)
    assert not expected, f"{name} has {-expected} bytes more than it should have"


def _lines(view: CutView) -> Iterator[Array]:
    for piece in view.pieces():
        text = b"".join(map(encode_line, piece.said))
        yield numpy.frombuffer(text, numpy.uint8)


def _read_through(view: CutView) -> tuple[dict[str, Kind], int]:
    """The kind of every key, and the size of the lines of all records."""
    length = 0

    def entries() -> Iterator[Mapping[str, Any]]:
        nonlocal length
        for piece in view.pieces():
            for said in piece.said:
                length += len(encode_line(said))
                yield said

    kinds = kinds_of(entries())
    return kinds, length


def _simple_columns(view: CutView, kinds: Mapping[str, Kind]) -> dict[str, numpy.dtype[Any]]:
    """The dtypes of what makes an array: keys under which all records say a number, a truth value or a short text."""
    columns: dict[str, numpy.dtype[Any]] = {}
    for key, kind in kinds.items():
        if kind.name not in _SIMPLE and kind.name != "str":
            continue
        values = view.view.column(key)
        if None in values:
            continue
        if kind.name != "str":
            columns[key] = numpy.dtype(_SIMPLE[kind.name])
        # NumPy takes zeros at the end of a text for its end.
        elif (longest := max(map(len, values))) <= _LONGEST_TEXT and not any(text.endswith("\0") for text in values):
            columns[key] = numpy.dtype((numpy.str_, max(1, longest)))
    return columns


def _batches(values: list[Any], dtype: numpy.dtype[Any]) -> Iterator[Array]:
    for start in range(0, len(values), _AT_ONCE):
        yield numpy.array(values[start : start + _AT_ONCE], dtype)


def _part(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Progress of one of several parts, each of which reads the same shards."""
    if progress is None:
        return None
    return lambda done, total: progress((number * total + done) // count, total)
