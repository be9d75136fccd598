"""A report in a real browser, where one is installed: it opens from disk, asks no one for anything and complains of
nothing. That a report holds no reference outwards is tested everywhere, by parsing it (test_report.py)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from evaluation.report import write_report
from tests.evaluation.test_report import hostile

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
BY_ITSELF = "not an origin"  # the initiator of what the browser asks for by itself, such as the time
pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium or chrome on PATH")


def opened(page: Path, folder: Path) -> tuple[str, list[str], list[str]]:
    """The page as the browser built it, the addresses that it asked for, and what stood in its console."""
    log = folder / "net.json"
    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr",
    ]  # fmt: skip
    done = subprocess.run(
        [BROWSER, *options, "--virtual-time-budget=3000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    asked = {
        event["params"]["url"]
        for event in json.loads(log.read_text(encoding="utf-8"))["events"]
        if "url" in event.get("params", {}) and event["params"].get("initiator", BY_ITSELF) != BY_ITSELF
    }
    asked = {url for url in asked if re.match("(https?|wss?|ftp)://", url)}
    return done.stdout, sorted(asked), [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_a_hostile_report_opens_without_a_request_or_a_complaint(kind: str, tmp_path: Path) -> None:
    page = write_report(hostile(kind), tmp_path)
    dom, asked, console = opened(page, tmp_path)
    assert 'id="configuration"' in dom
    assert asked == []
    assert console == []


def test_a_request_and_a_complaint_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text('<script>console.error("loud")</script><img src="http://pictures.example/x.png">', encoding="utf-8")
    _, asked, console = opened(page, tmp_path)
    assert "http://pictures.example/x.png" in asked
    assert any("loud" in line for line in console)
