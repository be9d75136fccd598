"""The caches: what is read is what was written, whatever happens to their files."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.cache import ArrayCache, Memory, VectorCache, code_of, key_of

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


def arrays(folder: Path, heard: list[str] | None = None, max_bytes: int = GIGABYTE) -> ArrayCache:
    return ArrayCache(folder, max_bytes, ([] if heard is None else heard).append)


def made(number: int, calls: list[int]) -> Callable[[], dict[str, np.ndarray]]:
    def compute() -> dict[str, np.ndarray]:
        calls.append(number)
        return {"x": np.full(1000, number), "name": np.frombuffer(b"text", np.uint8)}

    return compute


def test_arrays_of_a_step_are_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(2):
        found = arrays(tmp_path).get("a", key_of(b"1"), made(1, calls))
        assert (found["x"] == 1).all()
        assert found["name"].tobytes() == b"text"
    assert calls == [1]


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed"])
def test_damaged_arrays_are_told_of_and_computed_anew(damage: str, tmp_path: Path) -> None:
    arrays(tmp_path).get("a", key_of(b"1"), made(1, []))
    (path,) = tmp_path.glob("a/*.npz")
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes({"cut": content[:-50], "emptied": b"", "changed": content}[damage])
    heard: list[str] = []
    found = arrays(tmp_path, heard).get("a", key_of(b"1"), made(1, []))
    assert (found["x"] == 1).all()
    assert len(heard) == 1
    assert "damaged" in heard[0]


def test_arrays_stay_within_the_bound(tmp_path: Path) -> None:
    bounded = arrays(tmp_path, max_bytes=20_000)
    for number in range(5):
        bounded.get("a", key_of(b"%d" % number), made(number, []))
        assert sum(path.stat().st_size for path in tmp_path.glob("a/*.npz")) <= 20_000


def test_a_folder_that_cannot_be_written_to_holds_no_arrays_and_no_fit_up(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    heard: list[str] = []
    calls: list[int] = []
    blocked = arrays(place, heard)
    for _ in range(2):
        assert (blocked.get("a", key_of(b"1"), made(1, calls))["x"] == 1).all()
    assert calls == [1, 1]
    assert len(heard) == 1


def _get_slowly(folder: Path, log: Path) -> None:
    def compute() -> dict[str, np.ndarray]:
        with log.open("a") as file:
            file.write("computed\n")
        time.sleep(0.3)
        return {"x": np.ones(3)}

    arrays(folder).get("a", key_of(b"1"), compute)


def test_processes_that_ask_at_once_compute_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(_get_slowly, [(tmp_path, tmp_path / "log")] * 3)
    assert (tmp_path / "log").read_text() == "computed\n"


def test_memory_drops_what_was_not_used_for_the_longest_time() -> None:
    memory, made_now = Memory(25), []

    def get(key: str) -> str:
        return str(memory.get(key, lambda: made_now.append(key) or key.upper(), lambda made: 10))

    assert [get(key) for key in ("a", "b", "a", "c", "a", "b")] == ["A", "B", "A", "C", "A", "B"]
    assert made_now == ["a", "b", "c", "b"]


def test_a_change_of_code_is_another_key() -> None:
    assert code_of("training.cache") == code_of("training.cache")
    assert code_of("training.cache") != code_of("training.linear")
