"""StoreView: records of a store, read as a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy
from torch import Tensor

from actframe.records.bundle import LazyTensors
from actframe.records.record import ActivationRecord
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import MISSING
from actframe.storage.open_shards import OpenShards
from actframe.storage.receipts import Receipt, ledger_receipts
from actframe.storage.stacking import Numbers, Ragged, StackPositions, stack

if TYPE_CHECKING:
    import pandas

    from actframe.storage.datasets import SiteDataset

__all__ = ["StoreView"]

_AT_ONCE = 512


class StoreView(Sequence[ActivationRecord]):
    """Some records of a store, in its order. Metadata comes from the ledger, tensors from the shards, site by site.

        wrong = store.where(correct=False, subject="physics")
        wrong[0].activations["layer_12"]                    # reads one site of one record
        wrong.stack("layer_12", positions="last_prompt")    # (n, d_model), reads one site

    A view holds no tensors. It stays what it is when records are appended to the store.
    """

    def __init__(self, ledger: Ledger, shards: OpenShards, numbers: Numbers) -> None:
        self._ledger = ledger
        self._shards = shards
        self._chosen = numbers

    @property
    def numbers(self) -> Numbers:
        """Which records of the store these are."""
        return self._chosen

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> ActivationRecord: ...
    @overload
    def __getitem__(self, index: slice) -> StoreView: ...
    def __getitem__(self, index: int | slice) -> ActivationRecord | StoreView:
        if isinstance(index, slice):
            return StoreView(self._ledger, self._shards, self.numbers[index])
        try:
            number = int(self.numbers[index])
        except IndexError:
            raise IndexError(f"record {index} of {len(self)}") from None
        return self._record(number, self._ledger.entry(number))

    def __iter__(self) -> Iterator[ActivationRecord]:
        numbers = self.numbers
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            for number, entry in zip(some.tolist(), self._ledger.entries(some), strict=True):
                yield self._record(number, entry)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} records>"

    @property
    def ledger(self) -> Ledger:
        """What the ledger of the store says: of these records, and of all others."""
        return self._ledger

    @property
    def shards(self) -> OpenShards:
        """The shards of the store, opened as they are asked for."""
        return self._shards

    @property
    def sites(self) -> list[str]:
        """The sites that any of the records' shards has."""
        names = (self._shards.get(self._ledger.shards[shard]).sites for shard in self._used_shards())
        return list(dict.fromkeys(site for sites in names for site in sites))

    def entries(self) -> Iterator[dict[str, Any]]:
        """What each record says but for its activations, from the ledger alone."""
        return self._ledger.entries(self.numbers)

    def column(self, key: str) -> list[Any]:
        """What each record says under one key; None where it says nothing."""
        values = self._ledger.column(key)
        return [None if (value := values[number]) is MISSING else value for number in self.numbers.tolist()]

    def where(self, accept: Callable[[Mapping[str, Any]], bool] | None = None, /, **conditions: Any) -> StoreView:
        """The records that say all this: `store.where(correct=False, subject="physics")`.

        Args:
            accept: gets what a record says, as a mapping, and says whether it belongs to the view.
            conditions: what a record has to say, key by key.

        Raises:
            UnknownNameError: no record says anything under such a key; the message lists the keys there are.
        """
        numbers = self.numbers
        if conditions:
            numbers = self._ledger.match(conditions, numbers)
        if accept is not None:
            numbers = self._ledger.match_by(accept, numbers)
        return StoreView(self._ledger, self._shards, numbers)

    @overload
    def stack(self, site: str | int, positions: Literal["last_prompt", "last"] | int) -> Tensor: ...
    @overload
    def stack(
        self, site: str | int, positions: Literal["all", "prompt", "response"] | slice | list[int] = "all"
    ) -> Ragged: ...
    def stack(self, site: str | int, positions: StackPositions = "all") -> Tensor | Ragged:
        """One site of all records in one tensor, of which nothing but the site's bytes is read.

        Args:
            site: a name, one of its aliases, or a layer number.
            positions: `"last_prompt"`, `"last"` (the last stored row) or one position give a tensor `(n, d_model)`.
                `"all"` that are stored, those of the `"prompt"` or the `"response"`, a slice or a list of positions
                give as many rows as each record has of them, as a `Ragged`.

        Raises:
            SiteError: a record has no such site; the message lists those there are.
            SelectionError: a record has no row of that position.
        """
        return stack(self._ledger, self._shards, self.numbers, site, positions)

    def table(self, keys: Sequence[str] | None = None) -> pandas.DataFrame:
        """What the records say as a pandas DataFrame, one row for each; reads the ledger alone.

        The index has the records' numbers in the store: `store[table.index[0]]` is the record of the first row.

        Args:
            keys: which columns; None for all. Of a million records a few take seconds, all of them a minute and 3 GB.

        Raises:
            ActframeError: pandas is not installed; the message says how to get it.
            UnknownNameError: no record says anything under one of `keys`.
        """
        from actframe.storage.tables import ledger_table

        return ledger_table(self._ledger, self.numbers, keys)

    def receipts(self) -> list[Receipt]:
        """How the records were computed and taken: each way once, with how many there are of it, most first.

        A way is the model, strategy, places, dtype, attention kernel, batch size, live or replay, and the versions of
        the libraries. Reads the ledger alone.
        """
        return ledger_receipts(self._ledger, self.numbers)

    def torch_dataset(
        self,
        site: str | int,
        positions: StackPositions = "last_prompt",
        *,
        target: str | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> SiteDataset:
        """One site as a dataset for a DataLoader with any number of workers, read shard by shard.

        Args:
            site, positions: as in `stack`. Where positions may be several, items are `(rows, d_model)`.
            target: a key of the records: items are then pairs of `(d_model,)` and its value.
            shuffle: draw the order of shards, and of the records in each, anew for each epoch.
            seed: what the order is drawn with.

        Raises:
            SiteError: there is no such site.
            UnknownNameError: no record says anything under `target`.
            SelectionError: some of these records say nothing under `target`.
        """
        from actframe.storage.datasets import SiteDataset, parts_of

        parts = parts_of(self._ledger, self.numbers, target)
        return SiteDataset(self._shards, parts, site, positions, shuffle, seed)

    def _used_shards(self) -> list[int]:
        found: list[int] = numpy.unique(self._ledger.shard_numbers[self.numbers]).tolist()
        return found

    def _record(self, number: int, entry: Mapping[str, Any]) -> ActivationRecord:
        name, index = self._ledger.shards[self._ledger.shard_numbers[number]], int(self._ledger.indexes[number])
        sites = list(self._shards.get(name).activations(index))
        # The shard is looked up each time, so that a list of records does not keep all of them open.
        tensors = LazyTensors(sites, lambda site: self._shards.get(name).activations(index)[site])
        return ActivationRecord({**entry, "activations": tensors})
