"""The nginx configuration of docs/serving.md, by nginx itself, before a model server that answers everything."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from slantwise.command import CHECKOUT

NGINX, OPENSSL = shutil.which("nginx"), shutil.which("openssl")
pytestmark = pytest.mark.skipif(not NGINX or not OPENSSL, reason="needs nginx and openssl")
ANSWER = b'{"predictions": []}'


class ModelServer(BaseHTTPRequestHandler):
    """Answers 200 to whatever reaches it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Proxy:
    port: int
    trust: ssl.SSLContext

    def ask(self, method: str, path: str, body: bytes | None = None, password: str | None = None) -> tuple[int, bytes]:
        """The status and the answer."""
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.trust, timeout=30)
        headers = {"Content-Type": "application/json"}
        if password is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(f"reader:{password}".encode()).decode()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def model_server() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ModelServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(model_server: int, tmp_path: Path) -> Iterator[Proxy]:
    """A fresh one for each test: it counts the requests of a client."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [str(OPENSSL), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "passwords").write_text("reader:{PLAIN}sesame\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(configuration(port, model_server, tmp_path))
    command = [str(NGINX), "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait_for(port, process)
            yield Proxy(port, ssl.create_default_context(cafile=str(certificate)))
        finally:
            process.terminate()


def configuration(port: int, model_server: int, folder: Path) -> str:
    """The documented server, on a port and with files of this test."""
    page = (CHECKOUT / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```\n(# htpasswd.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for documented, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/score.example.org.pem", f"{folder}/cert.pem"),
        ("/etc/ssl/score.example.org.key", f"{folder}/key.pem"),
        ("/etc/nginx/slantwise.htpasswd;", f"{folder}/passwords;"),
        ("http://127.0.0.1:5001", f"http://127.0.0.1:{model_server}"),
    ):
        assert documented in block
        block = block.replace(documented, here)
    folders = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if folder.stat().st_uid == 0 else ""
    head = f"{user}daemon off;\npid {folder}/pid;\nevents {{}}\n"
    return f"{head}http {{\naccess_log {folder}/access.log;\n{folders}{block}}}\n"


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(process.stderr.read())
        time.sleep(0.05)
    pytest.fail("nginx does not listen")


def test_a_request_with_the_password_is_answered_by_the_model(proxy: Proxy) -> None:
    assert proxy.ask("POST", "/invocations", b"{}", "sesame") == (200, ANSWER)


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_request_without_the_password_is_not(proxy: Proxy, password: str | None) -> None:
    assert proxy.ask("POST", "/invocations", b"{}", password)[0] == 401


def test_whether_it_lives_can_be_asked_without_a_password(proxy: Proxy) -> None:
    assert proxy.ask("GET", "/ping")[0] == 200


def test_other_methods_and_addresses_do_not_reach_the_model(proxy: Proxy) -> None:
    assert proxy.ask("GET", "/invocations", None, "sesame")[0] == 403
    assert proxy.ask("GET", "/version", None, "sesame")[0] == 404


def test_a_body_beyond_the_limit_is_refused_and_one_below_it_is_not(proxy: Proxy) -> None:
    allowed = json.dumps({"text": "x" * (9 << 20)}).encode()
    assert proxy.ask("POST", "/invocations", allowed, "sesame")[0] == 200
    assert refused(proxy, json.dumps({"text": "x" * (11 << 20)}).encode()) == 413


def refused(proxy: Proxy, body: bytes) -> int:
    """The status by the headers alone: the server need not read a body that it refuses."""
    connection = http.client.HTTPSConnection("localhost", proxy.port, context=proxy.trust, timeout=30)
    authorization = "Basic " + base64.b64encode(b"reader:sesame").decode()
    try:
        connection.putrequest("POST", "/invocations")
        connection.putheader("Authorization", authorization)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_client_that_asks_too_often_is_told_to_wait(proxy: Proxy) -> None:
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(proxy.ask("POST", "/invocations", b"{}", "sesame")[0])

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 503}
