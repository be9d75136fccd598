"""Trust: what a model directory may hold. Loading one runs none of its bytes as code, whoever wrote it.

The checksums of the manifest tell damage, not intent: who can change a file can change the manifest. So the files
themselves are looked at, too: names that lead out of the directory, files that the manifest does not list, and formats
that can run code or fill the memory are refused, each with its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from slantwise.errors import ModelError

ENDINGS = (".json", ".npz", ".safetensors", ".onnx", ".txt", ".md")
# In an encoder's config.json: by these transformers fetches and runs code of a repository on the hub.
FETCHING = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation")


def check_files(directory: Path, manifest: str, listed: Mapping[Any, Any]) -> None:
    """Every file below `directory` is listed, with its sha256, and of a safe format; `manifest` is the list's own name.

    Raises ModelError naming the file at fault.
    """
    root = directory.resolve()
    for name in listed:
        _check_name(directory, manifest, name)
    for name in _names(directory):
        if name not in listed and name != manifest:
            raise ModelError(f"{directory / name} is not listed in {manifest}; a model holds no files but its own")
    for name, expected in listed.items():
        path = directory / name
        if not path.is_file():
            raise ModelError(f"{path} is missing")
        if not path.resolve().is_relative_to(root):
            raise ModelError(f"{path} is a link to {path.resolve()}; expected a file inside of the model directory")
        if sha256(path) != expected:
            raise ModelError(f"{path} was changed or truncated: its sha256 is not the one in {manifest}")
        _check_format(path)


def _check_name(directory: Path, manifest: str, name: Any) -> None:
    pure = PurePosixPath(name) if isinstance(name, str) else PurePosixPath("/")
    if pure.is_absolute() or ".." in pure.parts or str(pure) != name or "\\" in name or "\0" in name:
        raise ModelError(f"{directory / manifest}: lists {name!r}; expected names of files inside of the directory")
    if pure.suffix not in ENDINGS:
        raise ModelError(
            f"{directory / name}: models have no files of this kind; expected names that end in {', '.join(ENDINGS)}"
        )


def _names(directory: Path) -> Iterator[str]:
    """All that lies below the directory but folders; links are not followed."""
    for folder, folders, files in os.walk(directory):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*files, *links]):
            yield Path(folder, name).relative_to(directory).as_posix()


def _check_format(path: Path) -> None:
    if path.suffix == ".npz":
        _check_arrays(path)
    elif path.name == "config.json":
        _check_config(path)


def _check_arrays(path: Path) -> None:
    """An .npz as numpy.savez writes it: plain arrays, none compressed, each as long as its header says."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if file.seek(0) or file.read(4) != b"PK\3\4":
                raise ModelError(f"{path}: no .npz archive; it begins with something else")
            for member in archive.infolist():
                _check_array(path, archive, member)
    # zipfile: RuntimeError for an encrypted member, NotImplementedError for a compression or version it does not know
    except (ValueError, EOFError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: no archive of plain arrays ({error})") from error


def _check_array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ModelError(f"{path}: {member.filename} is compressed; expected arrays as they are")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ModelError(f"{path}: {member.filename} is of another format; expected .npy 1.0")
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        size = file.tell() + prod(shape) * kind.itemsize
    if kind.hasobject:
        raise ModelError(f"{path}: {member.filename} holds pickled objects; expected numbers")
    if size != member.file_size:
        raise ModelError(f"{path}: {member.filename} has {member.file_size} bytes; its header says {size}")


def _check_config(path: Path) -> None:
    try:
        found = _keys(json.loads(path.read_text(encoding="utf-8")))
        refused = sorted(set(found).intersection(FETCHING))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    if refused:
        raise ModelError(f"{path}: {', '.join(refused)} can make transformers run code of the hub; remove it")


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(item)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
