"""The ledger as a table, with pandas (the extra `pandas`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from actframe.errors import needs_extra
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_files import Array
from actframe.storage.ledger_lines import MISSING, Missing

if TYPE_CHECKING:
    import pandas

__all__ = ["ledger_table"]

_LARGEST = 2**63


def ledger_table(ledger: Ledger, numbers: Array, keys: Sequence[str] | None = None) -> pandas.DataFrame:
    """What some records say, a row for each and a column for each key; the index has the records' numbers.

    A column of truth values or whole numbers keeps its kind where some records say nothing or null: its dtype is then
    pandas' `boolean` or `Int64`. Lists and objects are Python's.

    Args:
        ledger: of the store.
        numbers: of the records, in the order of the rows.
        keys: which columns; None for every key that any of the records has. A few keys of very many records are
            read much faster, and take much less memory.

    Raises:
        ActframeError: pandas is not installed.
        UnknownNameError: no record has one of `keys`.
    """
    with needs_extra("a table", "pandas", "pandas"):
        import pandas
    if keys is None:
        columns = _all_columns(ledger, numbers)
    else:
        columns = dict(zip(keys, ledger.columns(keys, numbers), strict=True))
    index = pandas.Index(numbers, name="record")
    return pandas.DataFrame({key: _series(values, index) for key, values in columns.items()}, index=index)


def _all_columns(ledger: Ledger, numbers: Array) -> dict[str, Sequence[Any]]:
    columns: dict[str, list[Any]] = {}
    strings: dict[str, str] = {}
    for row, entry in enumerate(ledger.entries(numbers)):
        for key, value in entry.items():
            column = columns.get(key)
            if column is None:
                column = columns[key] = [MISSING] * row
            column.append(strings.setdefault(value, value) if type(value) is str else value)
        if len(entry) < len(columns):
            for column in columns.values():
                if len(column) == row:
                    column.append(MISSING)
    return dict(columns)


def _series(values: Sequence[Any], index: pandas.Index[Any]) -> pandas.Series[Any]:
    import pandas

    kinds = set(map(type, values))
    values = [None if value is MISSING else value for value in values]
    has_gaps = not kinds.isdisjoint((Missing, type(None)))
    kinds -= {Missing, type(None)}
    return pandas.Series(values, index, dtype=_dtype(kinds, values, has_gaps))


def _dtype(kinds: set[type], values: Iterable[Any], has_gaps: bool) -> str | None:
    """The dtype that keeps values what they are; None where pandas knows best."""
    if kinds == {bool}:
        return "boolean" if has_gaps else "bool"
    if kinds == {int} and all(value is None or -_LARGEST <= value < _LARGEST for value in values):
        return "Int64" if has_gaps else "int64"
    if float in kinds and kinds <= {int, float}:
        return "float64"
    return None if kinds == {str} else "object"
