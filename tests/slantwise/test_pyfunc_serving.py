"""`mlflow models serve` on an exported model: good requests, bad requests, and it lives on after each of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slantwise.inputs import MAX_CHARACTERS, InputOptions, parse
from slantwise.model import Model
from slantwise.scores import score_rows
from training.pyfunc_model import save_model

GOOD = {"id": "a", "text": "The council praised the Harbour Plan. Talk was of nurse.", "targets": ["Harbour Plan"]}
SECRET = "Sesame"  # a word of a text: it belongs in no message and no log


class Server:
    """An address, and what the server has logged."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    def post(self, body: Any, content_type: str = "application/json") -> tuple[int, str]:
        """The status and the answer; `body` is sent as JSON, bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + "/invocations", data, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def rows(self, *rows: Any) -> list[dict[str, Any]]:
        status, answer = self.post({"dataframe_records": list(rows)})
        assert status == 200, answer
        predictions: list[dict[str, Any]] = json.loads(answer)["predictions"]
        return predictions


@pytest.fixture(scope="module")
def server(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    save_model(model_directory, folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries = Path(sys.executable).parent
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    command = [binaries / "mlflow", "models", "serve", "-m", folder / "model", "--env-manager", "local"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)], cwd=folder, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    found = Server(f"http://127.0.0.1:{port}", folder / "log")
    try:
        _wait_for(found.url + "/ping", process, folder / "log")
        yield found
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    pytest.fail(f"the server did not answer: {log.read_text()}")


@pytest.fixture(autouse=True)
def lives_on(server: Server) -> Iterator[None]:
    """After whatever a test sent, a good request is answered, and no text is in the log."""
    yield
    assert server.rows(GOOD)[0]["error"] is None
    assert SECRET not in server.log.read_text()


def local(model: Model, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    return score_rows(model, [parse(row, number, InputOptions()) for number, row in enumerate(rows, start=1)])


def test_good_rows_have_the_scores_of_the_local_engine(server: Server, model: Model) -> None:
    rows = [GOOD, {"id": 2, "text": "Frost"}, {"text": "Goal", "title": None, "targets": None}]
    assert server.rows(*rows) == local(model, *rows)


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"id": "x"}, "missing_text"),
        ({"id": "x", "text": None}, "missing_text"),
        ({"id": "x", "text": " \n"}, "empty_text"),
        ({"id": "x", "text": 7}, "wrong_type"),
        ({"id": "x", "text": {"nested": ["junk"]}}, "wrong_type"),
        ({"id": "x", "text": "a" * (MAX_CHARACTERS + 1)}, "text_too_long"),
        ({"id": "x", "text": "Goal", "targets": 7}, "bad_targets"),
        ({"id": "x", "text": "Goal", "targets": ["Tram Line", None]}, "bad_targets"),
    ],
)
def test_a_bad_row_has_a_code_and_its_neighbours_their_scores(
    server: Server, model: Model, row: dict[str, Any], code: str
) -> None:
    expected = local(model, GOOD, row, {"text": "Goal"})
    assert expected[1] == {"id": "x", "error": code, "topic": None, "framing": None, "stance": None}
    assert server.rows(GOOD, row, {"text": "Goal"}) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"dataframe_records": [{"body": "Goal"}]}, "Model is missing inputs ['text']"),
        ({"dataframe_records": [{"text": 7}, {"text": [SECRET]}]}, "no row has values of the documented types"),
        ({"dataframe_records": [{"text": 7}]}, "the first: text: expected text; received int"),
        ({"dataframe_records": [{"text": SECRET, "targets": 7}]}, "targets: expected a list of names; received int"),
        ({"dataframe_records": []}, "Model is missing inputs ['text']"),
        ({"dataframe_split": {"columns": ["text"], "data": []}}, "the request holds no rows"),
        ({"dataframe_records": [1, 2]}, "Model is missing inputs ['text']"),
        ({"dataframe_records": {"text": "Goal"}}, "must be a list of records"),
        ({"articles": [GOOD]}, "must be a JSON dictionary with exactly one of the input fields"),
        ([GOOD], "Received a list"),
        ({"dataframe_records": [{"text": "half \ud800"}]}, "surrogates not allowed"),
        (b"", "Ensure that input is a valid JSON formatted string"),
        (b'{"dataframe_records": [{"text": "Go', "Ensure that input is a valid JSON formatted string"),
        (b'{"dataframe_records": [{"text": "\xff"}]}', "Ensure that input is a valid JSON formatted string"),
    ],
)  # fmt: skip
def test_a_bad_request_is_answered_with_400_and_the_reason(server: Server, body: Any, message: str) -> None:
    status, answer = server.post(body)
    assert status == 400, answer
    assert message in json.loads(answer)["message"]
    assert SECRET not in answer


@pytest.mark.parametrize("content_type", ["text/xml", "application/json; charset=latin-1"])
def test_another_kind_of_content_is_answered_with_415(server: Server, content_type: str) -> None:
    assert server.post({"dataframe_records": [GOOD]}, content_type)[0] == 415


def test_a_large_request_is_answered(server: Server) -> None:
    rows = [{"id": n, "text": f"{SECRET} " * 1000} for n in range(2000)]  # 14 MB
    assert [row["id"] for row in server.rows(*rows)] == [str(n) for n in range(2000)]


def test_json_nested_without_end_does_not_end_the_server(server: Server) -> None:
    assert server.post(b"[" * 1_000_000)[0] in (400, 500)
