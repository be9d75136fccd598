"""The manifest of a scoring job: what is scored with what, and which parts are done; and the lock that guards it.

`_manifest.jsonl` is a journal: its first line is the job, a line follows for each finished part, in order, and the
last says that the job is complete. A line is written after what it speaks of is safely on the disk, so whatever
happens between two lines is simply done again. It holds no times: the same job writes the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slantwise.errors import ScoringError
from slantwise.segments import Position

NAME, LOCK = "_manifest.jsonl", ".lock"
FORMAT = 1


@dataclass(frozen=True)
class Job:
    """What a job is. `input` is `slantwise.sources.fingerprint` of its files, `options` all that shapes the output."""

    model: Mapping[str, Any]
    input: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    code: str


@dataclass(frozen=True)
class PartRecord:
    """A finished part: rows `first` to `last` of the input, its files with size and sha256, where the next begins."""

    number: int
    first: int
    last: int
    files: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, Any]
    next: Position


@dataclass
class Manifest:
    """The journal of one output folder, opened by `open_manifest`."""

    path: Path
    parts: list[PartRecord] = field(default_factory=list)
    complete: bool = False

    @property
    def rows(self) -> int:
        return self.parts[-1].last if self.parts else 0

    @property
    def position(self) -> Position:
        return self.parts[-1].next if self.parts else Position()

    def add(self, part: PartRecord) -> None:
        self._append({"part": asdict(part)})
        self.parts.append(part)

    def finish(self, counts: Mapping[str, Any]) -> None:
        self._append({"complete": {"parts": len(self.parts), "rows": self.rows, "counts": counts}})
        self.complete = True

    def _append(self, entry: Mapping[str, Any]) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(_line(entry))
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a full disk: half a line must not stay
            os.truncate(self.path, size)
            raise


def open_manifest(folder: Path, job: Job) -> Manifest:
    """The manifest of `folder`, begun where there is none.

    Raises ScoringError where the folder holds something else, another job's output, or parts that were changed.
    """
    path = folder / NAME
    if not path.exists():
        strangers = sorted(p.name for p in folder.iterdir() if p.name not in (LOCK, f".{NAME}.partial"))
        if strangers:
            raise ScoringError(f"output={folder} holds {strangers[0]} but no {NAME}; expected a new or empty folder")
        write_durably(path, _line({"format": FORMAT, "job": asdict(job)}))
        return Manifest(path)
    entries = _entries(path)
    _check_job(path, entries[0], job)
    manifest = Manifest(path)
    for entry in entries[1:]:
        if "part" in entry:
            manifest.parts.append(PartRecord(**{**entry["part"], "next": Position(**entry["part"]["next"])}))
    manifest.complete = "complete" in entries[-1]
    for part in manifest.parts:
        _check_files(folder, part)
    return manifest


def _entries(path: Path) -> list[dict[str, Any]]:
    """The journal's lines; half a line at its end, which a crash leaves, is cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    try:
        entries = [json.loads(line) for line in whole.splitlines()]
        entries[0]["job"]
    except (ValueError, LookupError, TypeError) as error:
        raise ScoringError(f"{path} is damaged ({error}); remove the folder and score again") from error
    return entries


def _check_job(path: Path, entry: Mapping[str, Any], job: Job) -> None:
    """Raises ScoringError, naming the first difference, where the manifest is another job's."""
    if entry.get("format") != FORMAT:
        raise ScoringError(f"{path}: format {entry.get('format')!r}; this release reads {FORMAT}")
    held, wanted = entry["job"], json.loads(json.dumps(asdict(job)))
    advice = "name another output, or remove this one to score anew"
    for key, what in (("code", "release of slantwise"), ("model", "model"), ("input", "input"), ("options", "option")):
        if held[key] != wanted[key]:
            raise ScoringError(
                f"{path.parent} was begun with another {what}: {_change(held[key], wanted[key])}; {advice}"
            )


def _change(held: Any, wanted: Any) -> str:
    if isinstance(held, dict) and isinstance(wanted, dict):
        key = next(k for k in {**held, **wanted} if held.get(k) != wanted.get(k))
        return f"{key} was {held.get(key)!r} and is {wanted.get(key)!r}"
    if isinstance(held, list) and isinstance(wanted, list):
        before, after = ({entry["name"]: entry for entry in entries} for entries in (held, wanted))
        for name in {**before, **after}:
            if name not in after:
                return f"{name} is missing"
            if name not in before:
                return f"{name} is new"
            if before[name] != after[name]:
                return f"{name} was changed ({before[name]['size']:,} bytes then, {after[name]['size']:,} now)"
        return "its files stand in another order"
    return f"it was {held!r} and is {wanted!r}"


def _check_files(folder: Path, part: PartRecord) -> None:
    for name, expected in part.files.items():
        path = folder / name
        if not path.is_file():
            raise ScoringError(f"{path} is missing though {NAME} lists it; remove {folder} and score again")
        if path.stat().st_size != expected["size"] or sha256_of(path) != expected["sha256"]:
            raise ScoringError(f"{path} was changed after it was written; remove {folder} and score again")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def write_durably(path: Path, content: bytes) -> None:
    """The file appears whole, and stays through a power cut."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        draft.write_bytes(content)
        publish(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def publish(draft: Path, path: Path) -> None:
    """Give the finished `draft` its name, after its bytes are on the disk, and wait until the name is there too."""
    _sync(draft)
    draft.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the kernel lets go of it when the process ends, however it ends.

    Raises ScoringError at once where another process holds it.
    """
    path = folder / LOCK
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ScoringError(f"output={folder}: another process is scoring into it") from None
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise ScoringError(f"output={folder}: another process has just finished it")
        try:
            yield
        finally:
            if folder.is_dir() and [entry.name for entry in folder.iterdir()] == [LOCK]:
                path.unlink()  # nothing came of it
