"""Real servers for the tests of tracking: PostgreSQL, `mlflow server`, and a proxy that makes its answers go wrong."""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BINARIES = "/usr/lib/postgresql/*/bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/").glob(BINARIES.lstrip("/")))
    return folders[-1] if folders else None


class Postgres:
    """A server of its own on 127.0.0.1, without durability; `folder` must be one that any user may enter."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port = free_port()
        # PostgreSQL refuses to run as root
        self._user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        if self._user:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        self._run(programs / "initdb", "-D", data, "-U", "slantwise", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = ["-D", data, "-p", self.port, "-k", folder, "-c", "listen_addresses=127.0.0.1", "-F"]
        command = [*self._user, programs / "postgres", *options]
        self._process = subprocess.Popen(list(map(str, command)), cwd=folder, stderr=subprocess.DEVNULL)
        wait_for(lambda: self._run(programs / "pg_isready", "-h", "127.0.0.1", "-p", self.port, check=False))

    def _run(self, *command: object, check: bool = True) -> bool:
        done = subprocess.run([*self._user, *map(str, command)], cwd="/", capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done.returncode == 0

    def uri(self, database: str = "postgres") -> str:
        return f"postgresql://slantwise@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new database; its URI."""
        import psycopg

        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}")
        return self.uri(database)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # "fast shutdown": clients are cut off
        self._process.wait(30)


class TrackingServer:
    """`mlflow server` as the docs start it: a database behind it, artifacts through it."""

    def __init__(self, database: str, artifacts: Path, *options: str, **environment: str) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", database, "--serve-artifacts", "--artifacts-destination", str(artifacts), *options,
        ]  # fmt: skip
        self._environment = {
            **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "OMP_NUM_THREADS": "1", **environment,
        }  # fmt: skip
        artifacts.mkdir(parents=True, exist_ok=True)
        self._log = artifacts.parent / "server.log"
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._log.parent, env=self._environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_for(self._answers, 120)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """All of its processes, at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def limit_files(self, size: int | None) -> None:
        """Writing beyond `size` bytes of a file fails, as on a disk that is full; None: no more."""
        for pid in self._pids():
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def _pids(self) -> list[int]:
        """The server's processes: those of its session."""
        session = self._process.pid
        stats = [(int(path.parent.name), path) for path in Path("/proc").glob("[0-9]*/stat")]
        return [pid for pid, path in stats if _session_of(path) == session]


def _session_of(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[3])
    except OSError:  # it has ended
        return None


class FaultyProxy:
    """Stands before a server. `fault` is asked for each request (its number from 1 on, method and path):

    None          pass it on
    0.5           wait so many seconds first
    "500"         an error of the server's instead
    "away"        the connection is closed at once
    "lost"        it is passed on, and the connection closed before the answer
    """

    def __init__(self, server: str) -> None:
        self.host = server.removeprefix("http://")
        self.fault: Callable[[int, str, str], float | str | None] = lambda number, method, path: None
        self.count = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # the client has gone
                    self.close_connection = True

            def do_GET(self) -> None:
                proxy._handle(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.count += 1
            number = self.count
        body = self._body(request)
        fault = self.fault(number, request.command, request.path)
        request.close_connection = True
        if fault == "away":
            return
        if fault == "500":
            self._answer(request, 500, {}, b'{"error_code": "INTERNAL_ERROR", "message": "out of order"}')
            return
        if isinstance(fault, float):
            time.sleep(fault)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "transfer-encoding")}
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(request.command, request.path, body, {**headers, "Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = answer.read()
        except OSError:  # the server itself is away
            return
        finally:
            connection.close()
        if fault != "lost":
            self._answer(request, answer.status, {"Content-Type": answer.getheader("Content-Type") or ""}, content)

    def _body(self, request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding") != "chunked":
            return request.rfile.read(int(request.headers.get("Content-Length") or 0))
        body = b""
        while size := int(request.rfile.readline().strip() or b"0", 16):
            body += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
        return body

    def _answer(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content)), "Connection": "close"}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)
