"""What all commands share: Hydra around a job, one-line errors, exit statuses, a console that shows progress."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slantwise.errors import ConfigurationError, SlantwiseError

if TYPE_CHECKING:
    from rich.console import Console

CHECKOUT = Path(__file__).resolve().parents[1]
BAD_INPUT, OWN_FAILURE = 2, 1
T = TypeVar("T")


def register_resolvers() -> None:
    """`${checkout:}`: the folder of this checkout; `${unique:}`: time and a unique id, the same within one job."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("checkout", lambda: str(CHECKOUT), replace=True)
    OmegaConf.register_new_resolver("unique", unique_name, use_cache=True, replace=True)


def unique_name() -> str:
    """Sorts by time; runs started in the same second do not share it."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def to_object(config: Any, cls: type[T]) -> T:
    """The configuration as dataclasses. Raises ConfigurationError naming every mandatory key without a value."""
    from omegaconf import OmegaConf

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigurationError(f"{', '.join(missing)} must be given, as in {missing[0]}=…")
    result = OmegaConf.to_object(config)
    assert isinstance(result, cls)
    return result


def run(config_name: str, job: Callable[[Any], None]) -> None:
    """Run `job` on the configuration that `configs/<config_name>.yaml` and the command line give.

    Exits 2 with one message for bad input or configuration. With --multirun a failing job does not stop the others.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come out to the handlers below
    failures: list[SlantwiseError] = []
    several = any(argument in ("-m", "--multirun") for argument in sys.argv[1:])

    def guarded(config: Any) -> None:
        try:
            job(config)
        except SlantwiseError as error:
            if not several:
                raise SystemExit(_report(error)) from None
            _report(error)
            failures.append(error)

    register_resolvers()
    try:
        hydra.main(version_base="1.3", config_path=str(CHECKOUT / "configs"), config_name=config_name)(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        raise SystemExit(_report(ConfigurationError(_one_line(error)))) from None
    except SlantwiseError as error:
        raise SystemExit(_report(error)) from None
    if failures:
        print(f"error: {len(failures)} of the jobs failed", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _report(error: SlantwiseError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


def _one_line(error: BaseException) -> str:
    """Hydra's message without its internal lines; its cause where the message alone does not say enough."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        for line in str(current).splitlines():
            text = line.strip()
            if text and not text.startswith(("full_key:", "object_type=", "reference_type=", "To append")) and text not in parts:
                parts.append(text)
        current = current.__cause__
    return " ".join(parts)


class Progress:
    """Tells a person what goes on, and keeps what it said for the run directory's log."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.console: Console = Console(stderr=True, record=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    @contextmanager
    def step(self, text: str) -> Iterator[list[str]]:
        """A spinner while it lasts, a line with its time after; strings put into the list are added to that line."""
        notes: list[str] = []
        start = time.perf_counter()
        with self.console.status(text):
            yield notes
        note = f": {', '.join(notes)}" if notes else ""
        self.console.print(
            f"  {text}{note} ({time.perf_counter() - start:.1f} s)", markup=False, soft_wrap=True, style="dim"
        )

    def save(self, path: Path) -> None:
        self.console.save_text(str(path), clear=False)
