"""Vectors that are expensive to compute, kept on disk between runs and shared by processes.

    <folder>/<space>/<checksum>.safetensors    keys uint8 (n, 16), vectors float32 (n, width)

A space holds what one encoder computes; a key stands for what it computes the vector from. A file holds many vectors.
It is written aside, renamed to its place and never changed after that, so that no reader sees half of it. Its name is
the checksum of its content: what was damaged is noticed, removed and computed anew. When the folder outgrows its bound,
the files that were not used for the longest time go.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

Floats = npt.NDArray[np.float32]
KEY_BYTES = 16
SUFFIX, PARTIAL = ".safetensors", ".partial"
ORPHANED = 24 * 3600  # seconds after which a file that is still partial belongs to a process that died


def key_of(*content: bytes) -> bytes:
    """A key of KEY_BYTES bytes; different content has different keys."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in content:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


class VectorCache:
    """`warn` is told of damaged files, and once of a folder that cannot be written to: a fit needs no cache."""

    def __init__(self, folder: Path, max_bytes: int, warn: Callable[[str], None]) -> None:
        self.folder, self.max_bytes, self.warn = folder, max_bytes, warn
        self.writable = True

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
        if not self.writable or not keys:
            return
        content = save(
            {
                "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES),
                "vectors": np.ascontiguousarray(vectors, np.float32),
            }
        )
        path = self.folder / space / (_checksum(content) + SUFFIX)
        partial = path.with_name(f"{uuid.uuid4().hex}{PARTIAL}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
            self._trim()
        except OSError as error:
            self.writable = False
            self.warn(f"{self.folder}: cannot be written to ({error.strerror}); embeddings are not kept")
            with suppress(OSError):
                partial.unlink()

    def _keys(self, path: Path) -> list[bytes]:
        """The keys of a file, without reading its vectors."""
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
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if _checksum(content) != path.stem:
            self._discard(path, "its checksum is another")
            return None
        with suppress(FileNotFoundError, PermissionError):  # gone since, or in a cache that may only be read
            os.utime(path)
        found: Floats = load(content)["vectors"]
        return found

    def _discard(self, path: Path, reason: object) -> None:
        self.warn(f"{path}: damaged ({reason}); its embeddings are computed anew")
        with suppress(FileNotFoundError, PermissionError):
            path.unlink()

    def _trim(self) -> None:
        files = []
        for path in self.folder.glob("*/*"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == PARTIAL and time.time() - facts.st_mtime > ORPHANED:
                path.unlink(missing_ok=True)
            elif path.suffix == SUFFIX:
                files.append((facts.st_mtime_ns, facts.st_size, path))
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            held -= size


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
