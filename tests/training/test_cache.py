"""The cache of embeddings: what is read is what was written, whatever happens to its files."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from training.cache import VectorCache, key_of

GIGABYTE = 10**9


def cache(folder: Path, max_bytes: int = GIGABYTE, heard: list[str] | None = None) -> VectorCache:
    return VectorCache(folder, max_bytes, ([] if heard is None else heard).append)


def keys(*numbers: int) -> list[bytes]:
    return [key_of(str(number).encode()) for number in numbers]


def vectors(*numbers: int, width: int = 4) -> np.ndarray:
    """Vector i holds i in every place."""
    return np.repeat(np.array(numbers, np.float32), width).reshape(-1, width)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def read(folder: Path, *numbers: int, heard: list[str] | None = None) -> dict[int, float]:
    """Which of the numbers are known to space `a`, and what their vectors hold."""
    found = cache(folder, heard=heard).read("a", keys(*numbers))
    return {n: float(found[key][0]) for n, key in zip(numbers, keys(*numbers), strict=True) if key in found}


def test_vectors_are_read_by_their_keys_in_any_order_and_from_several_files(tmp_path: Path) -> None:
    cache(tmp_path).write("a", keys(1, 2, 3), vectors(1, 2, 3))
    cache(tmp_path).write("a", keys(5, 4), vectors(5, 4))
    assert read(tmp_path, 4, 9, 3, 1, 5) == {4: 4, 3: 3, 1: 1, 5: 5}


def test_vectors_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    written = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
    cache(tmp_path).write("a", keys(1, 2), written)
    found = cache(tmp_path).read("a", keys(1, 2))
    np.testing.assert_array_equal(np.stack([found[key] for key in keys(1, 2)]), written)


def test_spaces_do_not_share_keys(tmp_path: Path) -> None:
    cache(tmp_path).write("b", keys(1), vectors(1))
    assert read(tmp_path, 1) == {}


def test_many_vectors_make_one_file(tmp_path: Path) -> None:
    cache(tmp_path).write("a", keys(*range(500)), vectors(*range(500)))
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed"])
def test_a_damaged_file_is_told_of_and_removed_and_the_others_serve(tmp_path: Path, damage: str) -> None:
    cache(tmp_path).write("a", keys(1, 2), vectors(1, 2))
    (path,) = files(tmp_path)
    cache(tmp_path).write("a", keys(3), vectors(3))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the vectors
    path.write_bytes({"cut": content[:-5], "emptied": b"", "changed": content}[damage])
    heard: list[str] = []
    assert read(tmp_path, 1, 2, 3, heard=heard) == {3: 3}
    assert len(heard) == 1
    assert path.name in heard[0]
    assert not path.exists()


def test_the_files_not_used_for_the_longest_time_go(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        before = set(files(tmp_path))
        cache(tmp_path).write("a", keys(number), vectors(number, width=1000))
        (new,) = set(files(tmp_path)) - before
        os.utime(new, (number, number))
    assert read(tmp_path, 1) == {1: 1}  # now it is the one used last
    cache(tmp_path, max_bytes=13_000).write("b", keys(4), vectors(4, width=1000))
    assert read(tmp_path, 1, 2, 3) == {1: 1, 3: 3}


def test_the_folder_never_holds_more_than_its_bound(tmp_path: Path) -> None:
    bounded = cache(tmp_path, max_bytes=10_000)
    for number in range(20):
        bounded.write("a", keys(number), vectors(number, width=500))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 10_000
    assert files(tmp_path)


def test_what_a_dead_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    old, new = tmp_path / "a" / "old.partial", tmp_path / "a" / "new.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    cache(tmp_path).write("a", keys(1), vectors(1))
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_cannot_be_written_to_is_told_of_once(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    heard: list[str] = []
    blocked = cache(place, heard=heard)
    blocked.write("a", keys(1), vectors(1))
    blocked.write("a", keys(2), vectors(2))
    assert len(heard) == 1
    assert str(place) in heard[0]
    assert blocked.read("a", keys(1)) == {}


def _write_and_read(folder: Path, start: int) -> list[str]:
    """Twenty small writes that make room all the time, each followed by a read; gives the warnings."""
    heard: list[str] = []
    own = cache(folder, max_bytes=30_000, heard=heard)
    for number in range(start, start + 20):
        own.write("a", keys(number), vectors(number, width=1000))
        for n, key in zip(range(40), keys(*range(40)), strict=True):
            vector = own.read("a", [key]).get(key)
            if vector is not None and not (vector == n).all():
                heard.append(f"{n} is {vector[0]}")
    return heard


def test_processes_share_a_folder(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        heard = pool.starmap(_write_and_read, [(tmp_path, 0), (tmp_path, 20)])
    assert heard == [[], []]


def test_keys_tell_where_their_parts_end() -> None:
    assert key_of(b"ab", b"c") != key_of(b"a", b"bc")
    assert key_of(b"ab", b"c") == key_of(b"ab", b"c")
