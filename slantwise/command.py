"""What all commands share: Hydra around a job, one-line errors, exit statuses, a console that shows progress."""

from __future__ import annotations

import difflib
import io
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slantwise.errors import ConfigurationError, SlantwiseError

if TYPE_CHECKING:
    from rich.console import Console

CHECKOUT = Path(__file__).resolve().parents[1]
BAD_INPUT, OWN_FAILURE, INTERRUPTED = 2, 1, 130
T = TypeVar("T")


def register_resolvers() -> None:
    """`${checkout:}`: the folder of this checkout; `${unique:}`: time and a unique id, the same within one job;
    `${backend:training.linear.fit_all}`: linear; `${joined:[a,b],c}`: a+b, or c where the list is empty;
    `${package:name}`: the folder of an installed package, for weights that one carries."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("checkout", lambda: str(CHECKOUT), replace=True)
    OmegaConf.register_new_resolver("backend", lambda target: str(target).split(".")[1], replace=True)
    OmegaConf.register_new_resolver("joined", lambda names, other: "+".join(names) or other, replace=True)
    OmegaConf.register_new_resolver("package", _package_folder, replace=True)
    OmegaConf.register_new_resolver("unique", unique_name, use_cache=True, replace=True)


def _package_folder(name: str) -> str:
    from importlib.util import find_spec

    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"${{package:{name}}}: no package of this name is installed")
    return str(Path(spec.origin).parent)


def unique_name() -> str:
    """Sorts by time; runs started in the same second do not share it."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def to_object(config: Any, cls: type[T]) -> T:
    """The configuration as dataclasses.

    Raises ConfigurationError naming every mandatory key without a value, and every key that was added with "+" but
    is none of the schema's.
    """
    from omegaconf import OmegaConf

    if added := sorted(_added_keys(config)):
        raise ConfigurationError(f"unknown key {', '.join(added)}")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigurationError(f"{', '.join(missing)} must be given, as in {missing[0]}=…")
    result = OmegaConf.to_object(config)
    assert isinstance(result, cls)
    return result


def _added_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a configuration that the dataclasses behind it do not have."""
    from omegaconf import DictConfig, OmegaConf

    if not isinstance(node, DictConfig) or node._is_missing() or node._is_none():
        return
    cls = OmegaConf.get_type(node)
    known = {field.name for field in fields(cls)} if is_dataclass(cls) else set(node)
    for key in map(str, node):
        if key in known:
            yield from _added_keys(node._get_node(key), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def run(config_name: str, job: Callable[[Any], None]) -> None:
    """Run `job` on the configuration that `configs/<config_name>.yaml` and the command line give.

    Exits 2 with one message for bad input or configuration. With --multirun a failing job does not stop the others.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come out to the handlers below
    # Hydra wants all overrides side by side, with no option among them
    sys.argv[1:] = sorted(sys.argv[1:], key=_is_override)
    failures: list[SlantwiseError] = []
    composed = False
    several = any(argument in ("-m", "--multirun") for argument in sys.argv[1:])

    def guarded(config: Any) -> None:
        nonlocal composed
        composed = True
        try:
            job(config)
        except (SlantwiseError, OmegaConfBaseException) as error:
            mistake = error if isinstance(error, SlantwiseError) else ConfigurationError(explain(error))
            if not several:
                raise SystemExit(_report(mistake)) from None
            _report(mistake)
            failures.append(mistake)

    register_resolvers()
    try:
        hydra.main(version_base="1.3", config_path=str(CHECKOUT / "configs"), config_name=config_name)(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        raise SystemExit(_report(ConfigurationError(explain(error)))) from None
    except ValueError as error:  # how Hydra answers a group that is set to null
        if composed:
            raise
        raise SystemExit(_report(ConfigurationError(f"{' '.join(sys.argv[1:])}: {_one_line(error)}"))) from None
    except BrokenPipeError:  # whoever read the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(OWN_FAILURE) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if failures:
        print(f"error: {len(failures)} of the jobs failed", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _is_override(argument: str) -> bool:
    return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))


def _report(error: SlantwiseError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


def explain(error: BaseException) -> str:
    """A mistake in the configuration in one line: Hydra's message without its internals, with the key and the value."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}; expected key=value, key=[a,b] for a list, and quotes around a value with "
            "special characters, as in 'input=\"a (1).jsonl\"'"
        )
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, chosen = error.missing_cfg_file.rpartition("/")
        options = [option for option in error.options if not option.endswith("_schema")]
        return f"{group}={chosen}: no such option; expected one of {', '.join(options)}{_hint(chosen, options)}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and is_dataclass(cause.object_type):
        keys = [field.name for field in fields(cause.object_type)]
        return f"unknown key {cause.full_key}; expected one of {', '.join(keys)}{_hint(str(cause.key), keys)}"
    added = re.search(r"To append to your config use (\+.+)", str(error))  # the override as it was, with a plus
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and added:
        return f"{cause.full_key}: a new key of a map is set with a leading plus, as in '{added[1]}'"
    if unset := re.search(r"Environment variable '(\w+)' not found", str(error)):
        key = getattr(cause, "full_key", None)
        return f"the environment variable {unset[1]} is not set" + (f"; {key} needs it" if key else "")
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {_one_line(cause)}"
    return _one_line(error)


def _hint(chosen: str, options: Sequence[str]) -> str:
    close = difflib.get_close_matches(chosen, options, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _one_line(error: BaseException) -> str:
    """The message on one line, without the lines in which OmegaConf names its own types."""
    lines = (line.strip() for line in str(error).splitlines())
    internal = ("full_key:", "object_type=", "reference_type=", "To append")
    message = " ".join(line for line in lines if line and not line.startswith(internal))
    message = message.replace("a ListConfig, list or tuple", "a list")
    return message.replace("ListConfig", "a list").replace("DictConfig", "keys with values")


class Progress:
    """Tells a person what goes on, and keeps what it said for the run directory's log."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        file = io.StringIO() if quiet else sys.stderr
        self.console: Console = Console(file=file, record=True, highlight=False)
        self._tell: Callable[[str], None] = lambda detail: None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    @contextmanager
    def step(self, text: str) -> Iterator[list[str]]:
        """A spinner while it lasts, a line with its time after; strings put into the list are added to that line."""
        notes: list[str] = []
        start = time.perf_counter()
        with self.console.status(text) as status:
            self._tell = lambda detail: status.update(f"{text}: {detail}")
            yield notes
        self._tell = lambda detail: None
        note = f": {', '.join(notes)}" if notes else ""
        self.console.print(
            f"  {text}{note} ({time.perf_counter() - start:.1f} s)", markup=False, soft_wrap=True, style="dim"
        )

    def update(self, detail: str) -> None:
        """How far the step is, beside its spinner; only where a person watches."""
        self._tell(detail)

    def save(self, path: Path) -> None:
        self.console.save_text(str(path), clear=False)
