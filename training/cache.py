"""What is expensive to compute, kept on disk between runs and shared by processes.

    <folder>/<space>/<checksum>.safetensors    VectorCache: keys uint8 (n, 16), vectors float32 (n, width)
    <folder>/<space>/<key>.npz                 ArrayCache: the arrays that one step has made

A key stands for all that the content depends on: the rows of data, the settings of the step, the code of the step; what
is found under it cannot be stale. A file is written aside, renamed to its place and never changed after that, so that
no reader sees half of it. What was damaged is noticed by its checksum, removed and computed anew. When the folder
outgrows its bound, the files that were not used for the longest time go.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import os
import time
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]
KEY_BYTES = 16
SUFFIX, ARRAYS, PARTIAL = ".safetensors", ".npz", ".partial"
LOCKS = "locks"
ORPHANED = 24 * 3600  # seconds after which a file that is still partial belongs to a process that died


def key_of(*content: bytes) -> bytes:
    """A key of KEY_BYTES bytes; different content has different keys."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in content:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


@lru_cache
def code_of(*modules: str) -> bytes:
    """A checksum of the modules' sources: what they make is known under another key once they have changed.

    Sources are read once: a process runs what it has loaded, whatever is edited meanwhile.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        digest.update(Path(spec.origin).read_bytes())
    return digest.digest()


class BoundedFolder:
    """Files in spaces. `warn` is told of damaged files, and once of a folder that cannot be written to: a fit needs no
    cache."""

    content = "what it would hold"  # as the warnings call it

    def __init__(self, folder: Path, max_bytes: int, warn: Callable[[str], None]) -> None:
        self.folder, self.max_bytes, self.warn = folder, max_bytes, warn
        self.writable = True

    def _put(self, path: Path, content: bytes) -> None:
        """Write the file, and drop what is then beyond the bound."""
        partial = path.with_name(f"{uuid.uuid4().hex}{PARTIAL}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
            self._trim()
        except OSError as error:
            self._give_up(error)
            with suppress(OSError):
                partial.unlink()

    def _give_up(self, error: OSError) -> None:
        if self.writable:
            self.warn(f"{self.folder}: cannot be written to ({error.strerror}); {self.content} are not kept")
        self.writable = False

    def _discard(self, path: Path, reason: object) -> None:
        self.warn(f"{path}: damaged ({reason}); its {self.content} are computed anew")
        with suppress(FileNotFoundError, PermissionError):
            path.unlink()

    @staticmethod
    def _touch(path: Path) -> None:
        """It counts as used now."""
        with suppress(FileNotFoundError, PermissionError):  # gone since, or in a cache that may only be read
            os.utime(path)

    def _trim(self) -> None:
        files = []
        for path in self.folder.glob("*/*"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == PARTIAL and time.time() - facts.st_mtime > ORPHANED:
                path.unlink(missing_ok=True)
            elif path.suffix in (SUFFIX, ARRAYS):
                files.append((facts.st_mtime_ns, facts.st_size, path))
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            held -= size


class VectorCache(BoundedFolder):
    """Many vectors a file, as they were computed together."""

    content = "embeddings"

    def read(self, space: str, keys: Collection[bytes]) -> dict[bytes, Floats]:
        """float32 (width,) for each of the keys that are known."""
        wanted = set(keys)
        found: dict[bytes, Floats] = {}
        for path in sorted((self.folder / space).glob(f"*{SUFFIX}")):
            rows = {key: row for row, key in enumerate(self._keys(path)) if key in wanted and key not in found}
            vectors = self._vectors(path) if rows else None
            if vectors is not None:
                chosen = vectors[list(rows.values())]
                found |= dict(zip(rows, chosen, strict=True))
            if len(found) == len(wanted):
                break
        return found

    def write(self, space: str, keys: Sequence[bytes], vectors: Floats) -> None:
        """Keep vectors (n, width), one for each key, and drop what is then beyond the bound."""
        from safetensors.numpy import save

        if not self.writable or not keys:
            return
        content = save(
            {
                "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES),
                "vectors": np.ascontiguousarray(vectors, np.float32),
            }
        )
        self._put(self.folder / space / (_checksum(content) + SUFFIX), content)

    def _keys(self, path: Path) -> list[bytes]:
        """The keys of a file, without reading its vectors."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                joined = file.get_tensor("keys").tobytes()
        except FileNotFoundError:  # another process has just made room
            return []
        except (SafetensorError, OSError) as error:
            self._discard(path, error)
            return []
        return [joined[i : i + KEY_BYTES] for i in range(0, len(joined), KEY_BYTES)]

    def _vectors(self, path: Path) -> Floats | None:
        """All vectors of a file, which counts as used now; None where it is gone or damaged."""
        from safetensors.numpy import load

        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if _checksum(content) != path.stem:
            self._discard(path, "its checksum is another")
            return None
        self._touch(path)
        found: Floats = load(content)["vectors"]
        return found


class ArrayCache(BoundedFolder):
    """The arrays of a step by their key; computed once, however many processes ask at the same time."""

    content = "arrays"

    def get(self, space: str, key: bytes, compute: Callable[[], Arrays]) -> dict[str, npt.NDArray[Any]]:
        """What is known under the key, or else what `compute` gives, which is kept; `compute` may not ask for more."""
        path = self.folder / space / (key.hex() + ARRAYS)
        with self._alone(key):
            found = self._read(path)
            if found is None:
                found = dict(compute())
                if self.writable:
                    self._put(path, _packed(found))
        return found

    @contextmanager
    def _alone(self, key: bytes) -> Iterator[None]:
        """One process at a time computes what the key stands for; keys share 256 locks."""
        try:
            (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
            lock = (self.folder / LOCKS / key[:1].hex()).open("a")
        except OSError as error:
            self._give_up(error)
            yield
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, path: Path) -> dict[str, npt.NDArray[Any]] | None:
        try:
            with np.load(path, allow_pickle=False) as stored:  # checks each array's CRC
                found = {name: stored[name] for name in stored.files}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            self._discard(path, error)
            return None
        self._touch(path)
        return found


def _packed(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


@dataclass
class Memory:
    """Objects by key, those that were not used for the longest time dropped beyond a bound in bytes.

    It is emptied down to the one that came last, however large that is.
    """

    max_bytes: int
    held: OrderedDict[Any, tuple[Any, int]] = field(default_factory=OrderedDict)

    def get(self, key: Any, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """What is kept under the key; else what `make` gives, of which `size` tells the bytes."""
        if key not in self.held:
            made = make()
            self.held[key] = made, size(made)
        self.held.move_to_end(key)
        while len(self.held) > 1 and sum(n for _, n in self.held.values()) > self.max_bytes:
            self.held.popitem(last=False)
        return self.held[key][0]


@dataclass(frozen=True)
class StepCache:
    """What the fits of a sweep share: arrays on disk, with other processes too, and objects in memory."""

    disk: ArrayCache
    memory: Memory


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
