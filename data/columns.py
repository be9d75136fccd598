"""Sequences over Arrow columns: an item becomes a Python object when it is asked for, and is not kept.

A million articles are a gigabyte of text in an Arrow column, and two or more as Python strings.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from slantwise.cleaning import Removed

T = TypeVar("T")
Index = npt.NDArray[np.int64]

BATCH = 1024  # items that are Python objects at once
POOL = pa.system_memory_pool()  # the default one may round columns of a batch's size up by a third
REMOVED = pa.list_(
    pa.struct({"line": pa.int32(), "text": pa.string(), "reason": pa.dictionary(pa.int8(), pa.string())})
)


class Lazy(Sequence[T]):
    """A sequence whose items are made when they are asked for; a slice of it is a list."""

    @abstractmethod
    def _at(self, number: int) -> T:
        """The item of this number, which is neither negative nor too large."""

    @overload
    def __getitem__(self, key: int) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> list[T]: ...
    def __getitem__(self, key: int | slice) -> T | list[T]:
        if isinstance(key, slice):
            return [self._at(number) for number in range(*key.indices(len(self)))]
        number = operator.index(key)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"{key} of {len(self)}")
        return self._at(number)

    def __iter__(self) -> Iterator[T]:
        return map(self._at, range(len(self)))


class View(Lazy[T]):
    """The items of another sequence that `numbers` names, in its order."""

    def __init__(self, items: Sequence[T], numbers: Index) -> None:
        self.items, self.numbers = items, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def _at(self, number: int) -> T:
        return self.items[int(self.numbers[number])]


class Texts(Lazy[str]):
    """Strings of a column; with `starts` (int32, aligned) each from that character on."""

    def __init__(self, column: pa.ChunkedArray, starts: pa.ChunkedArray | None = None) -> None:
        self.column, self.starts = column, starts

    def __len__(self) -> int:
        return len(self.column)

    def _at(self, number: int) -> str:
        text: str = self.column[number].as_py()
        return text if self.starts is None else text[self.starts[number].as_py() :]

    def __iter__(self) -> Iterator[str]:
        if self.starts is None:
            return (text for chunk in self.column.chunks for text in chunk.to_pylist())
        chunks = zip(self.column.chunks, self.starts.chunks, strict=True)
        return (
            text[start:]
            for texts, starts in chunks
            for text, start in zip(texts.to_pylist(), starts.to_pylist(), strict=True)
        )


class RemovedLines(Lazy[tuple[Removed, ...]]):
    """What cleaning took out of each article, from a column of the type REMOVED."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def _at(self, number: int) -> tuple[Removed, ...]:
        return tuple(Removed(**line) for line in self.column[number].as_py())

    def __iter__(self) -> Iterator[tuple[Removed, ...]]:
        for chunk in self.column.chunks:
            fields = (chunk.flatten().field(name).to_pylist() for name in ("line", "text", "reason"))
            lines = [Removed(*line) for line in zip(*fields, strict=True)]
            ends = np.cumsum(chunk.value_lengths().to_numpy())
            yield from (tuple(lines[start:end]) for start, end in zip([0, *ends], ends, strict=False))

    @property
    def total(self) -> int:
        return int(pc.sum(pc.list_value_length(self.column)).as_py() or 0)


class Rows(Lazy[Mapping[str, Any]]):
    """The rows of a table."""

    def __init__(self, table: pa.Table) -> None:
        self.columns: dict[str, pa.ChunkedArray] = dict(zip(table.column_names, table.columns, strict=True))
        self.length: int = table.num_rows

    def __len__(self) -> int:
        return self.length

    def _at(self, number: int) -> Mapping[str, Any]:
        return _Row(self.columns, number)


class _Row(Mapping[str, Any]):
    def __init__(self, columns: Mapping[str, pa.ChunkedArray], number: int) -> None:
        self._columns, self._number = columns, number

    def __getitem__(self, name: str) -> Any:
        return self._columns[name][self._number].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def stored(texts: Iterable[str]) -> Texts:
    """The texts, in a column."""
    batches, rest = [], iter(texts)
    while batch := list(islice(rest, BATCH)):
        batches.append(pa.array(batch, pa.string(), memory_pool=POOL))
    return Texts(pa.chunked_array(batches, pa.string()))


def removed_array(pages: Iterable[tuple[Removed, ...]]) -> pa.Array:
    """The column that RemovedLines reads."""
    return pa.array([[vars(line) for line in lines] for lines in pages], REMOVED, memory_pool=POOL)


def values(column: pa.ChunkedArray) -> list[Any]:
    """All items of a column of short strings, equal ones as one object."""
    shared: dict[Any, Any] = {}
    return [shared.setdefault(value, value) for chunk in column.chunks for value in chunk.to_pylist()]


def inner(column: pa.ChunkedArray, field: str | None = None) -> list[Any]:
    """The items of all lists of a column, one after the other; `field`: that one of items that have fields."""
    lists = [chunk.flatten() for chunk in column.chunks]
    return values(pa.chunked_array([items if field is None else items.field(field) for items in lists]))


def lengths(column: pa.ChunkedArray) -> Index:
    """How many items the lists of a column have, int64 (n,); 0 for a missing one."""
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), dtype=np.int64)
