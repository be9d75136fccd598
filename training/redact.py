"""Secrets taken out of what is written down."""

from __future__ import annotations

import os
import re

SECRET = r"(?:password|passwd|secret|token|api_?key|access_?key)"
SECRET_NAME = re.compile(rf"{SECRET}(?!.*_FILE$)", re.IGNORECASE)  # of an environment variable; a file's is a path
LEAST = 6  # a shorter value would be found in innocent words
QUOTED = re.compile(rf"""({SECRET}\w*["']?\s*[=:]\s*(["'])).{{{LEAST},}}?(\2)""", re.IGNORECASE)
BARE = re.compile(
    r"""((?:password|passwd|secret)\w*\s*[=:]\s*)(?![\w.]*[(\[])[^\s"'({$]{6,}""", re.IGNORECASE
)  # as in YAML


def redact(text: str) -> str:
    """The text without the user names and passwords of its URLs, and without the values of environment variables whose
    names say that they are secret."""
    text = re.sub(r"://[^/@\s'\"]+@", "://***@", text)
    secrets = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and not value.isdigit()}
    for value in sorted((value for value in secrets if len(value) >= LEAST), key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def redact_code(text: str) -> str:
    """The same for a diff, where a secret may also stand beside a name that says so: token = "…"."""
    return BARE.sub(r"\1***", QUOTED.sub(r"\1***\3", redact(text)))
