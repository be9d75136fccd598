"""Sources: the files that an input names, local or behind fsspec, and a fingerprint that tells when they change.

An input is a file, a glob, a folder or a URL. A folder holds data files (Parquet, JSONL, CSV; those of folders inside
too), or one article in each text file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import urlsplit

from slantwise.errors import CorpusError
from slantwise.rows import ENDINGS, Format, Layout, guess_format, plain_ending

DATA = (Format.parquet, Format.jsonl, Format.csv)  # what a folder of data files holds
SAMPLED = 1_000  # files of an input whose bytes are looked at; of more only size and time of change
SAMPLE = 1 << 16  # bytes of a file's start and end


@dataclass
class File:
    """One file of the input. `label` names a text of a folder by its path inside it."""

    name: str
    format: Format
    size: int
    label: str | None = None
    system: Any = None  # the fsspec file system; None for a local file
    path: str = ""  # what the system knows the file by
    _opened: Any = field(default=None, repr=False)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self._plain).suffix

    @property
    def stem(self) -> str:
        return PurePosixPath(self._plain).stem

    @property
    def _plain(self) -> str:
        return self.name if self.system is None else urlsplit(self.name).path

    def __str__(self) -> str:
        return self.name

    def open(self) -> IO[bytes]:
        """The file's bytes as they are stored."""
        self.close()
        self._opened = io.FileIO(self.name) if self.system is None else self.system.open(self.path, "rb")
        return cast("IO[bytes]", self._opened)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def share_read(self) -> float:
        """How far the file has been read, from 0 to 1."""
        if self._opened is None or self._opened.closed or not self.size:
            return 1.0
        return min(float(self._opened.tell()) / self.size, 1.0)

    def version(self, sampled: bool) -> str:
        """Changes when the content does: size and time of change, with `sampled` also the bytes at both ends; behind
        fsspec what the store says of the file, such as its ETag."""
        if self.system is not None:
            return str(self.system.ukey(self.path))
        stat = os.stat(self.name)
        digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        if sampled:
            with open(self.name, "rb") as file:
                digest.update(file.read(SAMPLE))
                file.seek(max(stat.st_size - SAMPLE, 0))
                digest.update(file.read(SAMPLE))
        return digest.hexdigest()


def find_files(layout: Layout) -> list[File]:
    """The files of the input that `layout` names, sorted by name.

    Raises CorpusError where there are none, or where it cannot be told what they are.
    """
    remote = "://" in layout.path
    try:
        return _find_remote(layout) if remote else _find_local(layout)
    except OSError as error:
        raise CorpusError(f"{without_secrets(layout.path)} cannot be read: {error.strerror or error}") from error


def fingerprint(files: Sequence[File]) -> list[dict[str, Any]]:
    """What the input was: for each file name, size and version; more than SAMPLED files share one entry."""
    sampled = len(files) <= SAMPLED
    try:
        found = [{"name": file.name, "size": file.size, "version": file.version(sampled)} for file in files]
    except OSError as error:
        raise CorpusError(f"the input cannot be read: {error}") from error
    if sampled:
        return found
    digest = hashlib.sha256("\n".join(f"{f['name']} {f['version']}" for f in found).encode("utf-8", "surrogateescape"))
    name = f"{len(files):,} files from {files[0].name} to {files[-1].name}"
    return [{"name": name, "size": sum(file.size for file in files), "version": digest.hexdigest()}]


def without_secrets(url: str) -> str:
    """The URL without a password, and without the query, in which signed URLs carry their key."""
    if "://" not in url:
        return url
    return re.sub(r"(://)[^/@]*@", r"\1", re.split(r"[?#](?=[^/]*=)", url, maxsplit=1)[0])


def _find_local(layout: Layout) -> list[File]:
    import glob

    path = Path(layout.path).expanduser()
    if path.is_dir():
        names = [f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names]
        relative = [os.path.relpath(name, path) for name in names]
        return [
            File(str(path / name), kind, os.stat(path / name).st_size, name if kind is Format.text else None)
            for name, kind in _of_folder(str(path), relative, layout)
        ]
    found = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))
    found = [name for name in found if not os.path.isdir(name)]
    if not found:
        raise CorpusError(f"{path} does not exist")
    return [File(name, _format(name, layout), os.stat(name).st_size) for name in found]


def _find_remote(layout: Layout) -> list[File]:
    shown = without_secrets(layout.path)
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # remote input is the one use of fsspec

        system, path = url_to_fs(layout.path)
    except (ImportError, ValueError) as error:  # a protocol that needs a package of its own, or that is unknown
        raise CorpusError(f"{shown} cannot be read: {error}") from error
    if any(mark in path for mark in "*?[") and not system.exists(path):
        found = system.glob(path, detail=True)
        if not found:
            raise CorpusError(f"{shown} does not exist")
        return [_remote(system, name, found[name], _format(name, layout)) for name in sorted(found)]
    if not system.exists(path):
        raise CorpusError(f"{shown} does not exist")
    if not system.isdir(path):
        return [_remote(system, path, system.info(path), _format(shown, layout))]
    start = path.rstrip("/") + "/"
    found = {name.removeprefix(start): entry for name, entry in system.find(path, detail=True).items()}
    return [
        _remote(system, start + name, found[name], kind, name if kind is Format.text else None)
        for name, kind in _of_folder(shown, found, layout)
    ]


def _remote(system: Any, path: str, entry: Mapping[str, Any], kind: Format, label: str | None = None) -> File:
    name = without_secrets(system.unstrip_protocol(path))
    return File(name, kind, int(entry.get("size") or 0), label, system, path)


def _of_folder(folder: str, names: Iterable[str], layout: Layout) -> Iterator[tuple[str, Format]]:
    """The files of a folder, by their paths inside it, that are rows or articles. Raises CorpusError."""
    names = sorted(n for n in names if not any(part.startswith((".", "_")) for part in PurePosixPath(n).parts))
    texts = [name for name in names if name.lower().endswith(".txt")]
    data = [name for name in names if ENDINGS.get(plain_ending(Path(name))) in DATA]
    if layout.format in (Format.folder, Format.text) or (layout.format is Format.auto and texts and not data):
        deep = [name for name in texts if name.count("/") == 1]  # <class>/<file>.txt: what stands beside is no article
        chosen = deep or [name for name in texts if "/" not in name]
        if not chosen:
            raise CorpusError(
                f"{folder}: no <class>/<file>.txt and no <file>.txt inside; files of another kind are named by a glob, "
                f"such as {folder}/*.html"
            )
        return ((name, Format.text) for name in chosen)
    if texts and data and layout.format is Format.auto:
        raise CorpusError(
            f"{folder} holds both data files ({data[0]}) and texts ({texts[0]}); name one kind by a glob, such as "
            f"input='{folder}/*{Path(data[0]).suffix}', or set format=folder"
        )
    if layout.format is not Format.auto:
        data = [name for name in data if ENDINGS[plain_ending(Path(name))] is layout.format]
    if not data:
        raise CorpusError(f"{folder}: no .txt, .jsonl, .csv, .tsv or .parquet file inside")
    return ((name, ENDINGS[plain_ending(Path(name))]) for name in data)


def _format(name: str, layout: Layout) -> Format:
    if layout.format is not Format.auto:
        return Format.text if layout.format is Format.folder else layout.format
    return Format.text if name.lower().endswith(".txt") and "*" in layout.path else guess_format(Path(name))
