"""Downloads from a server on this machine: what is fetched, checked, resumed, refused and left behind."""

from __future__ import annotations

import hashlib
import io
import os
import pty
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data import download as module
from data.config import CorpusConfig, DownloadConfig, FileConfig
from data.download import download, unpack
from slantwise.command import Progress
from slantwise.errors import ConfigurationError, CorpusError

CHECKOUT = Path(__file__).resolve().parents[2]
BODY = bytes(i * i % 251 for i in range(300_000))
OTHER = b"id,text\n1,wrong\n"


@dataclass
class Server:
    """Answers with `body` at every path but /missing; `ranges` holds the Range header of each request so far."""

    body: bytes = BODY
    cut: int | None = None  # so many bytes are sent, then the connection is closed
    knows_ranges: bool = True
    shift: int = 0  # a range starts so many bytes later than was asked for
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        if request.path == "/missing":
            request.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.knows_ranges else 0
        if start >= len(self.body) and start:
            request.send_error(416)
            return
        start += self.shift if start else 0
        body = self.body[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.cut])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        served.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        http.shutdown()
        thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def corpus(root: Path, url: str, content: bytes = BODY, path: str = "rows.csv", unpack: bool = False) -> CorpusConfig:
    """A corpus of one file whose bytes should be `content`."""
    file = DownloadConfig(url=url, sha256=sha256(content), path=path, unpack=unpack)
    return CorpusConfig(
        name="tiny", root=str(root), files=[FileConfig(path="rows.csv")], licence="CC0", homepage="https://tiny.example",
        download=[file],
    )  # fmt: skip


def get(config: CorpusConfig) -> str:
    """What was said."""
    progress = Progress(quiet=True)
    download(config, progress, accept_licence=True)
    return progress.console.export_text()


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- Fetching ---------------------------------------------------------------------------------------------------------


def test_file_is_fetched_into_a_new_root(server: Server, tmp_path: Path) -> None:
    said = get(corpus(tmp_path / "new" / "root", f"{server.url}/rows.csv", path="a/rows.csv"))
    assert (tmp_path / "new" / "root" / "a" / "rows.csv").read_bytes() == BODY
    assert names(tmp_path) == ["new/root/a/rows.csv"]
    for part in ("tiny", "https://tiny.example", "CC0", "1, of which 1 to fetch"):
        assert part in said


def test_file_has_the_permissions_of_any_new_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    get(corpus(tmp_path, server.url))
    assert stat.S_IMODE((tmp_path / "rows.csv").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_right_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(BODY)
    said = get(corpus(tmp_path, server.url))
    assert server.ranges == []
    assert "0 to fetch" in said


def test_changed_file_is_replaced_with_a_warning(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(OTHER)
    said = get(corpus(tmp_path, server.url))
    assert (tmp_path / "rows.csv").read_bytes() == BODY
    assert "warning: rows.csv is there with other content and will be replaced" in said


def test_checksum_may_be_in_capitals(server: Server, tmp_path: Path) -> None:
    config = corpus(tmp_path, server.url)
    config.download[0].sha256 = config.download[0].sha256.upper()
    get(config)
    get(config)
    assert len(server.ranges) == 1


def test_wrong_checksum_names_file_expected_and_received_and_keeps_nothing(server: Server, tmp_path: Path) -> None:
    server.body = OTHER
    with pytest.raises(CorpusError) as caught:
        get(corpus(tmp_path, server.url))
    for part in ("rows.csv", sha256(BODY), sha256(OTHER)):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_wrong_checksum_leaves_the_file_that_was_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"mine")
    server.body = OTHER
    with pytest.raises(CorpusError):
        get(corpus(tmp_path, server.url))
    assert (tmp_path / "rows.csv").read_bytes() == b"mine"


def test_broken_transfer_leaves_no_file_under_the_final_name(server: Server, tmp_path: Path) -> None:
    server.cut = 6 * module.CHUNK
    with pytest.raises(
        CorpusError, match=f"Connection broken.*; {server.cut:,} bytes are kept, the same command goes on from there"
    ):
        get(corpus(tmp_path, server.url))
    assert names(tmp_path) == ["rows.csv.partial"]


def test_broken_transfer_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut = 6 * module.CHUNK
    for _ in range(2):
        with pytest.raises(CorpusError):
            get(corpus(tmp_path, server.url))
    server.cut = None
    get(corpus(tmp_path, server.url))
    assert server.ranges == [None, f"bytes={6 * module.CHUNK}-", f"bytes={12 * module.CHUNK}-"]
    assert (tmp_path / "rows.csv").read_bytes() == BODY
    assert names(tmp_path) == ["rows.csv"]


def test_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.csv.partial").write_bytes(b"x" * 400_000)  # longer than the file: must not show through
    server.knows_ranges = False
    get(corpus(tmp_path, server.url))
    assert (tmp_path / "rows.csv").read_bytes() == BODY


@pytest.mark.parametrize(("length", "shift"), [(len(BODY), 0), (1000, 7)])
def test_range_that_is_refused_or_another_starts_from_the_first_byte(
    server: Server, tmp_path: Path, length: int, shift: int
) -> None:
    (tmp_path / "rows.csv.partial").write_bytes(BODY[:length])
    server.shift = shift
    get(corpus(tmp_path, server.url))
    assert server.ranges == [f"bytes={length}-", None]
    assert (tmp_path / "rows.csv").read_bytes() == BODY


def test_partial_file_of_other_bytes_is_not_resumed_for_ever(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.csv.partial").write_bytes(b"x" * 1000)
    with pytest.raises(CorpusError, match="does not match"):
        get(corpus(tmp_path, server.url))
    get(corpus(tmp_path, server.url))
    assert (tmp_path / "rows.csv").read_bytes() == BODY


def test_missing_page_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"/missing: the server answered 404"):
        get(corpus(tmp_path, f"{server.url}/missing"))
    assert names(tmp_path) == []


def test_absent_server_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CorpusError, match="refused") as caught:
        get(corpus(tmp_path, f"http://127.0.0.1:{port}/rows.csv"))
    assert "\n" not in str(caught.value)


def test_silent_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", (1, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(CorpusError, match="timed out"):
        get(corpus(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/rows.csv"))


def test_root_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="file"):
        get(corpus(tmp_path / "file" / "root", server.url))


def test_link_out_of_the_root_is_not_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    with pytest.raises(CorpusError, match="outside"):
        get(corpus(tmp_path / "root", server.url, path="out/rows.csv"))
    assert names(tmp_path) == []


# --- Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://tiny.example/rows.csv"}, {"url": ""}, {"sha256": "abc"}, {"sha256": "g" * 64}, {"path": ""},
        {"path": "/etc/rows.csv"}, {"path": "../rows.csv"}, {"path": "a/../../rows.csv"}, {"path": "..\\rows.csv"},
    ],
)  # fmt: skip
def test_wrong_key_is_a_configuration_error(wrong: dict[str, str]) -> None:
    right = {"url": "https://tiny.example/rows.csv", "sha256": "0" * 64, "path": "rows.csv"}
    DownloadConfig(**right)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=f"corpus.download: {next(iter(wrong))}="):
        DownloadConfig(**right | wrong)  # type: ignore[arg-type]


def test_two_downloads_to_one_path_are_refused() -> None:
    file = DownloadConfig(url="https://tiny.example/rows.csv", sha256="0" * 64, path="rows.csv")
    with pytest.raises(ConfigurationError, match=r"rows\.csv more than once"):
        CorpusConfig(path="rows.csv", download=[file, file])


def test_corpus_without_downloads_points_to_its_homepage(tmp_path: Path) -> None:
    config = CorpusConfig(name="tiny", root=str(tmp_path), path="rows.csv", homepage="https://tiny.example")
    with pytest.raises(ConfigurationError, match=r"tiny has no corpus\.download.*https://tiny\.example"):
        get(config)


# --- Unpacking --------------------------------------------------------------------------------------------------------


def zipped(members: dict[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, link
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archive_is_unpacked_beside_itself(
    server: Server, tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    server.body = pack({"rows.csv": BODY, "more/rows.csv": OTHER})
    config = corpus(tmp_path, server.url, server.body, "in/packed", unpack=True)
    assert "2 files unpacked" in get(config)
    assert names(tmp_path) == ["in/more/rows.csv", "in/packed", "in/rows.csv"]
    assert (tmp_path / "in" / "rows.csv").read_bytes() == BODY


def test_only_what_is_not_there_in_full_is_unpacked_again(server: Server, tmp_path: Path) -> None:
    server.body = zipped({"a.csv": BODY, "b.csv": OTHER})
    config = corpus(tmp_path, server.url, server.body, "packed.zip", unpack=True)
    get(config)
    (tmp_path / "a.csv").write_bytes(BODY[:10])
    assert "1 files unpacked" in get(config)
    assert (tmp_path / "a.csv").read_bytes() == BODY
    assert len(server.ranges) == 1


@pytest.mark.parametrize("name", ["../evil.csv", "/tmp/slantwise-evil.csv", "a/../../evil.csv", "..\\evil.csv"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archive_with_a_path_outside_is_refused_whole(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    archive = tmp_path / "root" / "packed"
    archive.parent.mkdir()
    archive.write_bytes(pack({"good.csv": OTHER, name: b"evil"}))
    with pytest.raises(CorpusError, match="outside"):
        unpack(archive)
    assert names(tmp_path) == ["root/packed"]
    assert not Path("/tmp/slantwise-evil.csv").exists()


@pytest.mark.parametrize(
    "content",
    [
        zipped({"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777),
        tarred({"link": b""}, tarfile.SYMTYPE, "/etc/passwd"),
        tarred({"link": b""}, tarfile.LNKTYPE, "../rows.csv"),
        tarred({"pipe": b""}, tarfile.FIFOTYPE),
    ],
    ids=["zip symlink", "tar symlink", "tar hard link", "tar pipe"],
)
def test_archive_with_anything_but_files_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "packed").write_bytes(content)
    with pytest.raises(CorpusError, match="not a regular file"):
        unpack(tmp_path / "packed")
    assert names(tmp_path) == ["packed"]


def test_archive_does_not_overwrite_itself(tmp_path: Path) -> None:
    (tmp_path / "packed.zip").write_bytes(zipped({"packed.zip": OTHER}))
    with pytest.raises(CorpusError, match="its own name"):
        unpack(tmp_path / "packed.zip")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_damaged_archive_leaves_no_half_file(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    content = pack({"rows.csv": os.urandom(50_000)})
    zeroed = content[:20_000] + bytes(100) + content[20_100:]
    (tmp_path / "packed").write_bytes(zeroed if pack is zipped else content[:30_000])
    with pytest.raises(CorpusError, match="packed"):
        unpack(tmp_path / "packed")
    assert names(tmp_path) == ["packed"]


def test_file_that_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(OTHER)
    with pytest.raises(CorpusError, match="neither a zip nor a tar"):
        unpack(tmp_path / "rows.csv")


# --- The command ------------------------------------------------------------------------------------------------------


def command(cwd: Path, *arguments: str, stdin: int = subprocess.DEVNULL, **variables: str) -> tuple[int, str]:
    """Exit status and what was said on stderr."""
    environment = {k: v for k, v in os.environ.items() if k != "SLANTWISE_CORPORA"}
    environment |= {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "200", **variables}
    line = [sys.executable, "-m", "slantwise", "download", *arguments]
    done = subprocess.run(line, cwd=cwd, env=environment, stdin=stdin, capture_output=True, text=True, timeout=120)
    assert done.stdout == ""
    return done.returncode, done.stderr


def overrides(server: Server, root: Path) -> list[str]:
    file = f"{{url: '{server.url}/rows.csv', sha256: '{sha256(BODY)}', path: rows.csv}}"
    return [
        "corpus=file",
        "corpus.path=rows.csv",
        f"corpus.root={root}",
        "corpus.licence=CC0",
        f"corpus.download=[{file}]",
    ]


def test_command_without_a_terminal_asks_for_the_key(server: Server, tmp_path: Path) -> None:
    status, said = command(tmp_path, *overrides(server, tmp_path / "root"))
    assert status == 2
    assert "licence   CC0" in said
    assert "accept_licence=true" in said.splitlines()[-1]
    assert server.ranges == []
    assert not (tmp_path / "root").exists()


def test_command_fetches_with_the_licence_accepted(server: Server, tmp_path: Path) -> None:
    status, said = command(tmp_path, *overrides(server, tmp_path / "root"), "accept_licence=true")
    assert status == 0, said
    assert names(tmp_path) == ["root/rows.csv"]


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"\n", 2), (b"no\n", 2)])
def test_command_asks_on_a_terminal(server: Server, tmp_path: Path, answer: bytes, status: int) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        returned, said = command(tmp_path, *overrides(server, tmp_path / "root"), stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert returned == status, said
    assert said.index("licence   CC0") < said.index("[y/N]")
    assert names(tmp_path) == (["root/rows.csv"] if status == 0 else [])


def test_command_says_a_network_error_in_one_line(server: Server, tmp_path: Path) -> None:
    server.cut = 1000
    status, said = command(tmp_path, *overrides(server, tmp_path / "root"), "accept_licence=true")
    assert status == 2
    assert said.splitlines()[-1].startswith(f"error: {server.url}/rows.csv: ")
    assert "Traceback" not in said


def test_command_needs_the_folder_of_the_corpora(tmp_path: Path) -> None:
    status, said = command(tmp_path, "corpus=gwsd", "accept_licence=true")
    assert (status, said) == (2, "error: the environment variable SLANTWISE_CORPORA is not set; corpus.root needs it\n")


# --- The corpora that come with it ------------------------------------------------------------------------------------


PUBLIC = ["arc", "babe", "fnc1", "gwsd", "india_police_events", "india_police_events_sentences", "newsmtsc",
          "newsmtsc_mt", "reuters21578"]  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_checksums_are_those_of_the_local_files(name: str) -> None:
    from hydra import compose, initialize_config_dir

    from slantwise.command import register_resolvers, to_object

    if not os.environ.get("SLANTWISE_CORPORA"):
        pytest.skip("SLANTWISE_CORPORA is not set")
    module.schemas.register()
    register_resolvers()
    with initialize_config_dir(str(CHECKOUT / "configs"), version_base="1.3"):
        config = to_object(compose("corpus/" + name).corpus, CorpusConfig)
    for file in config.files:
        there = [path.relative_to(config.root).as_posix() for path in Path(config.root).glob(file.path)]
        assert set(there) <= {fetched.path for fetched in config.download}
        assert there
    assert [f.path for f in config.download if not module.is_right(Path(config.root) / f.path, f.sha256)] == []
