"""SiteDataset: one site of many records, for a torch DataLoader with any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from actframe.capture.sites import canonical
from actframe.errors import SelectionError, SettingsError
from actframe.storage.failures import failing
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import MISSING
from actframe.storage.open_shards import OpenShards
from actframe.storage.stacking import Numbers, StackPositions, check_positions

__all__ = ["Part", "SiteDataset", "parts_of"]

# So many records are read at once: with their rows in memory, and never a whole shard's.
_AT_ONCE = 1024
_NOT_SET = -1


@dataclass(frozen=True)
class Part:
    """The records of one shard.

    Attributes:
        shard: its name.
        indexes: which of its records.
        targets: what each of these says under the key that was asked for, if any was.
    """

    shard: str
    indexes: Numbers
    targets: Sequence[Any] | None

    def __len__(self) -> int:
        return len(self.indexes)


def parts_of(ledger: Ledger, numbers: Numbers, target: str | None) -> list[Part]:
    """Records shard by shard, in the order of each shard's first.

    Raises:
        UnknownNameError: no record has the key `target`.
        SelectionError: some of these say nothing under it.
    """
    targets = None if target is None else ledger.columns([target], numbers)[0]
    if targets is not None and (silent := sum(value is MISSING or value is None for value in targets)):
        raise SelectionError(
            f"{silent} of {len(numbers)} records say nothing under {target!r}; leave them out: "
            f"where(lambda entry: entry.get({target!r}) is not None)"
        )
    owners, indexes = ledger.shard_numbers[numbers], ledger.indexes[numbers]
    used, firsts = numpy.unique(owners, return_index=True)
    parts = []
    for owner in used[numpy.argsort(firsts)].tolist():
        at = numpy.flatnonzero(owners == owner)
        chosen = None if targets is None else [targets[row] for row in at.tolist()]
        parts.append(Part(ledger.shards[owner], indexes[at], chosen))
    return parts


class SiteDataset(IterableDataset[Any]):
    """One site of many records, shard by shard.

        loader = DataLoader(store.torch_dataset("layer_12", target="correct", shuffle=True), batch_size=256)
        for activations, correct in loader:
            ...

    An item is the `(d_model,)` row of one record, or, for `positions` that may be several, its `(rows, d_model)`, and,
    with a target, a pair of this and what the record says. Every record comes once an epoch. Workers share the shards
    among them, so that none is read by two; with fewer shards than workers, some have nothing to do. Each worker
    fills batches of its own, of which the last may be smaller.

    Shuffled, the order of the shards and that of the records in each is drawn from the seed and the epoch. Epochs are
    counted where the dataset lives through them. Workers that a DataLoader starts anew for each epoch do not, and tell
    epochs apart by its own seed, which `torch.manual_seed` makes repeatable; or `set_epoch` says which it is.

    Args:
        shards: reads them; reopened in a worker.
        parts: the records.
        site: a name, one of its aliases, or a layer number.
        positions: as in `stack`.
        shuffle: whether to draw the order.
        seed: what it is drawn with.
    """

    def __init__(
        self,
        shards: OpenShards,
        parts: Sequence[Part],
        site: str | int,
        positions: StackPositions,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        check_positions(positions)
        if type(seed) is not int or seed < 0:
            raise SettingsError(f"the seed is {seed!r}; it must be a whole number from 0 on")
        self.site = f"layer_{site}" if isinstance(site, int) else canonical(site)
        self.positions = positions
        self.shuffle = shuffle
        self.seed = seed
        self._shards = shards
        self._parts = list(parts)
        if self._parts:
            # That a site is not there is said here, and not by a worker.
            self._shards.get(self._parts[0].shard).dtype(self.site)
        self._epochs = 0
        # In memory that workers share, so that those which live through epochs see what is set between them.
        self._epoch = torch.tensor(_NOT_SET).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __repr__(self) -> str:
        return f"<SiteDataset of {self.site} of {len(self)} records in {len(self._parts)} shards>"

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next: its order is then the same whatever came before, and whatever the workers."""
        if epoch < 0:
            raise SettingsError(f"the epoch is {epoch}; epochs count from 0")
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        mine = range(len(self._parts)) if worker is None else self._share(worker.id, worker.num_workers)
        drawn = self._drawn_with(worker)
        if self.shuffle:
            places = numpy.random.default_rng(drawn).permutation(len(self._parts))
            mine = sorted(mine, key=lambda number: int(places[number]))
        for number in mine:
            part = self._parts[number]
            rows = numpy.arange(len(part))
            if self.shuffle:
                numpy.random.default_rng([*drawn, number]).shuffle(rows)
            for start in range(0, len(rows), _AT_ONCE):
                yield from self._read(part, rows[start : start + _AT_ONCE])

    def _share(self, worker: int, workers: int) -> Sequence[int]:
        """The parts of one worker, in their order: the largest go first, each to who has least.

        It depends on nothing that workers could see differently, so that no record is lost or comes twice.
        """
        loads = [0] * workers
        mine = []
        for number in sorted(range(len(self._parts)), key=lambda number: -len(self._parts[number])):
            least = loads.index(min(loads))
            loads[least] += len(self._parts[number])
            if least == worker:
                mine.append(number)
        return sorted(mine)

    def _drawn_with(self, worker: Any) -> list[int]:
        """The seed of this epoch, which is the same in each of its workers."""
        epoch = int(self._epoch)
        if epoch != _NOT_SET:
            return [self.seed, epoch]
        count, self._epochs = self._epochs, self._epochs + 1
        return [self.seed, count] if worker is None else [self.seed, count, worker.seed - worker.id]

    def _read(self, part: Part, rows: Numbers) -> Iterator[Any]:
        """The items of some records of a shard."""
        with failing(f"cannot read {self.site} of the shard {part.shard}", after="; try `actframe verify`"):
            shard = self._shards.get(part.shard)
            found = shard.find(self.site, part.indexes[rows], self.positions)
            values = torch.empty((len(found.numbers), *shard.trailing(self.site)), dtype=shard.dtype(self.site))
            shard.take(self.site, found.numbers, values)
        one_each = isinstance(self.positions, int) or self.positions in ("last_prompt", "last")
        if one_each and (found.counts != 1).any():
            raise SelectionError(
                f"{int((found.counts != 1).sum())} of {len(rows)} records of the shard {part.shard} have no row of "
                f"{self.site} for position {self.positions!r}"
            )
        stops = numpy.cumsum(found.counts)
        for row, start, stop in zip(rows.tolist(), (stops - found.counts).tolist(), stops.tolist(), strict=True):
            # Of its own memory: a row that is kept, or sent to another process, takes no others with it.
            tensor: Tensor = (values[start] if one_each else values[start:stop]).clone()
            yield tensor if part.targets is None else (tensor, part.targets[row])
