"""`slantwise download`: the files of a public corpus come from where they were published, each with its checksum.

A transfer grows in `<name>.partial` and gets its name only when the checksum is right, so that what stands under the
final name is whole; what a broken transfer left in `.partial` is where the next one goes on.
"""

from __future__ import annotations

import logging
import lzma
import os
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pooch
import requests
from omegaconf import MISSING
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from data import schemas
from data.config import CorpusConfig
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError, CorpusError

CHUNK = 1 << 14  # bytes; what a broken transfer loses at most
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
# RuntimeError is how zipfile says that a member is encrypted
BROKEN_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


@dataclass
class DownloadCommandConfig:
    """`slantwise download`."""

    corpus: CorpusConfig = MISSING
    accept_licence: bool = False  # true: do not ask


def main() -> None:
    from hydra.core.config_store import ConfigStore

    schemas.register()
    ConfigStore.instance().store(name="download_schema", node=DownloadCommandConfig)
    run("download", _job)


def _job(config: Any) -> None:
    chosen = to_object(config, DownloadCommandConfig)
    download(chosen.corpus, Progress(), chosen.accept_licence)


def download(corpus: CorpusConfig, progress: Progress, accept_licence: bool = False) -> None:
    """Fetch, check and unpack all of `corpus.download`; the licence is shown, and asked for unless it is accepted.

    Raises ConfigurationError where the corpus names no files to fetch or nobody can be asked, CorpusError where the
    licence is declined, a transfer fails, a checksum is wrong or a file cannot be written.
    """
    root = Path(corpus.root).expanduser()
    where = f"; see {corpus.homepage}" if corpus.homepage else ""
    if not corpus.download:
        raise ConfigurationError(f"corpus {corpus.name} has no corpus.download, so it is not fetched{where}")
    with _writing(root):
        missing = [file for file in corpus.download if not is_right(_inside(root, file.path), file.sha256)]
    progress.say(f"corpus    {corpus.name}\nhomepage  {corpus.homepage or 'not stated'}")
    progress.say(f"licence   {corpus.licence or 'not stated'}")
    progress.say(f"files     {len(corpus.download)}, of which {len(missing)} to fetch\ninto      {root}")
    for file in missing:
        if _inside(root, file.path).exists():
            progress.warn(f"{file.path} is there with other content and will be replaced")
    if missing and not accept_licence:
        _ask(corpus)
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
    for file in corpus.download:
        path = _inside(root, file.path)
        if file in missing:
            fetch(file.url, file.sha256, path, progress)
        written = unpack(path) if file.unpack else 0
        unpacked = f", {written} files unpacked" if file.unpack else ""
        progress.say(f"  {file.path}: {'fetched' if file in missing else 'was there'}, checksum right{unpacked}")


def _ask(corpus: CorpusConfig) -> None:
    """Returns where a person accepts the licence, raises where not."""
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"the licence of corpus {corpus.name} must be accepted and there is no terminal to ask; "
            "read it and add accept_licence=true"
        )
    print("Use the corpus under this licence? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CorpusError(f"the licence of corpus {corpus.name} was not accepted; nothing was fetched")


def is_right(path: Path, sha256: str) -> bool:
    """Whether the file is there with these bytes."""
    return path.is_file() and str(pooch.file_hash(str(path))) == sha256.lower()


# --- Fetching ---------------------------------------------------------------------------------------------------------


def fetch(url: str, sha256: str, path: Path, progress: Progress) -> None:
    """One file to `path`, or nothing under that name: a wrong checksum removes what was received.

    Raises CorpusError.
    """

    def transfer(url: str, output_file: str, _: object) -> None:
        """What pooch calls for the bytes; it checks them and moves `output_file` to `path`."""
        partial = path.with_name(f"{path.name}.partial")
        receive(url, partial, progress)
        os.replace(partial, output_file)

    pooch.get_logger().setLevel(logging.ERROR)  # it would repeat what `progress` says
    with _writing(path):
        try:
            pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=str(path.parent), downloader=transfer)
        except ValueError as error:  # how pooch says that a checksum is wrong: with expected and received
            raise CorpusError(f"{path} from {url}: {error}") from None


def receive(url: str, partial: Path, progress: Progress) -> None:
    """All bytes of `url` into `partial`, after those that it already holds where the server can go on there.

    Raises CorpusError where the transfer fails; what came so far stays.
    """
    try:
        with _open(url, partial.stat().st_size if partial.exists() else 0) as response:
            # A server that does not know ranges answers 200 and sends the whole file
            start = _range_start(response) if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            with partial.open("r+b" if start else "wb") as file, _bar(progress, partial.stem, start, total) as advance:
                file.seek(start)
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    advance(len(chunk))
                received = file.tell()
            if total is not None and received < total:
                raise requests.ConnectionError(f"connection closed after {received:,} of {total:,} bytes")
    except requests.HTTPError as error:
        raise CorpusError(f"{url}: the server answered {error}") from None
    except requests.RequestException as error:
        kept = partial.stat().st_size if partial.exists() else 0
        resume = f"; {kept:,} bytes are kept, the same command goes on from there" if kept else ""
        raise CorpusError(f"{url}: {_reason(error)}{resume}") from None


def _open(url: str, start: int) -> requests.Response:
    """The response from byte `start`, or from 0 where the server has no such range."""
    headers = {"Accept-Encoding": "identity"}  # so that byte positions are those of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    partial = response.status_code == HTTPStatus.PARTIAL_CONTENT
    no_such_range = response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    if start and (no_such_range or (partial and _range_start(response) != start)):
        response.close()
        return _open(url, 0)
    if response.status_code != HTTPStatus.OK and not (start and partial):
        response.close()
        raise requests.HTTPError(f"{response.status_code} {response.reason}")
    return response


def _range_start(response: requests.Response) -> int:
    """The first byte of a `Content-Range: bytes 5-9/10`, -1 where it is not one."""
    first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdecimal() else -1


def _reason(error: BaseException) -> str:
    """The innermost cause, on one line: requests wraps what the system said several times."""
    while isinstance(inner := getattr(error, "reason", None) or (error.args or (None,))[0], BaseException):
        error = inner
    text = " ".join(str(error.args[0] if error.args else error).split())
    return text.rpartition(">: ")[2] or type(error).__name__


@contextmanager
def _bar(progress: Progress, name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes, on a terminal; called with what has come."""
    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = progress.console
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=total, completed=start)
        yield lambda n: bars.advance(task, n)


# --- Unpacking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A regular file of an archive; `open` gives its bytes."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path) -> int:
    """Write the files of a .zip or .tar(.gz, .bz2, .xz) beside it; the number of those that were not there in full.

    Raises CorpusError, before anything is written, where a member is a link or a device or would stand outside the
    archive's folder or in the archive's own place.
    """
    folder, written = archive.parent, 0
    with _writing(archive):
        try:
            with _members(archive) as members:
                targets = [_inside(folder, member.name) for member in members]
                if archive.resolve() in targets:
                    raise CorpusError(f"{archive}: holds a file of its own name; not unpacked")
                for member, target in zip(members, targets, strict=True):
                    if not target.is_file() or target.stat().st_size != member.size:
                        _write_member(member, target)
                        written += 1
        except BROKEN_ARCHIVE as error:
            raise CorpusError(f"{archive}: cannot be unpacked ({error})") from None
    return written


@contextmanager
def _members(archive: Path) -> Iterator[list[Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [_zip_member(archive, zipped, info) for info in zipped.infolist() if not info.is_dir()]
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tarred:
            yield [_tar_member(archive, tarred, info) for info in tarred if not info.isdir()]
    else:
        raise CorpusError(f"{archive}: neither a zip nor a tar archive; set unpack: false")


def _zip_member(archive: Path, zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise CorpusError(f"{archive}: {info.filename!r} is not a regular file; not unpacked")
    return Member(info.filename, info.file_size, lambda: zipped.open(info))


def _tar_member(archive: Path, tarred: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if not info.isreg():
        raise CorpusError(f"{archive}: {info.name!r} is not a regular file; not unpacked")

    def open_member() -> IO[bytes]:
        file = tarred.extractfile(info)
        assert file is not None  # as it is for links and devices only
        return file

    return Member(info.name, info.size, open_member)


def _write_member(member: Member, target: Path) -> None:
    """All or nothing under the member's name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    try:
        with member.open() as source, partial.open("wb") as file:
            shutil.copyfileobj(source, file)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _inside(folder: Path, name: str) -> Path:
    """The resolved path of `name` under `folder`, links on the way followed; CorpusError where it is elsewhere."""
    top = folder.resolve()
    plain = "\0" not in name and ".." not in PurePosixPath(name.replace("\\", "/")).parts
    path = (top / name).resolve() if plain else top
    if top not in path.parents:
        raise CorpusError(f"{name!r} would stand outside {folder}; nothing was written there")
    return path


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full disk, a forbidden folder and their like are for the user to mend."""
    try:
        yield
    except OSError as error:
        raise CorpusError(f"{error.filename or path}: cannot be read or written ({error.strerror or error})") from None


if __name__ == "__main__":
    main()
