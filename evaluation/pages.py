"""Pages: the Jinja templates beside this module, filled so that no text of a corpus can become markup."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """A template in which every text is escaped that is not `Markup`, and a name without a value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # for every name: the usual choice by ending leaves .j2 out
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
