"""The explain page in a real browser, as test_report_in_browser.py has it for reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.explain import write
from slantwise.model import Model
from tests.evaluation.test_explain import hostile, model
from tests.evaluation.test_report_in_browser import BROWSER, opened

__all__ = ["model"]  # the fixture
pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium or chrome on PATH")


def test_a_hostile_page_opens_without_a_request_or_a_complaint(model: Model, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write(hostile(model), page)
    dom, asked, console = opened(page, tmp_path)
    assert 'id="method"' in dom
    assert asked == []
    assert console == []
