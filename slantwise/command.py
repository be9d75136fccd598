"""What all commands share: Hydra around a job, one-line errors, exit statuses, a console that shows progress."""

from __future__ import annotations

import argparse
import difflib
import inspect
import io
import json
import os
import re
import sys
import textwrap
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from itertools import dropwhile
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

    Exits 2 with one message for bad input or configuration. With --multirun a failing job does not stop the others, and
    one that fails through no mistake of the user's leaves its traceback and exit status 1.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come out to the handlers below
    # Hydra wants all overrides side by side, with no option among them
    sys.argv[1:] = sorted(sys.argv[1:], key=_is_override)
    failures: list[Exception] = []
    composed = False
    several = any(argument in ("-m", "--multirun") for argument in sys.argv[1:])

    def guarded(config: Any) -> Exception | None:
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
            return mistake  # Hydra hands it to its callbacks
        except Exception as failure:
            if not several or isinstance(failure, BrokenPipeError):
                raise
            traceback.print_exc()
            failures.append(failure)
            return failure
        return None

    register_resolvers()
    try:
        if not {"-h", "--help"}.isdisjoint(sys.argv[1:]):
            print(_usage(config_name, sys.argv[1:]))
            return
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
        raise SystemExit(min(map(exit_status, failures)))  # one that is our own fault outweighs the others


def exit_status(failure: Exception) -> int:
    return BAD_INPUT if isinstance(failure, SlantwiseError) else OWN_FAILURE


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
        hint = _list_hint(cause, error)
        return f"{cause.full_key}: {_one_line(cause).rstrip('.') + hint if hint else _one_line(cause)}"
    return _one_line(error)


def _list_hint(cause: Any, error: BaseException) -> str:
    """How to write one value where a list is expected; none for a list of objects."""
    given = re.search(r"override ([^=]+)=(.+)", str(error))
    if not given or "is not a ListConfig" not in str(cause):
        return ""
    element = getattr(getattr(cause.child_node, "_metadata", None), "element_type", None)
    return "" if is_dataclass(element) else f"; write it in brackets, as in '{given[1]}=[{given[2]}]'"


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


# --- slantwise <command> --help ---

DEFAULT = re.compile(r"^ +- (?:override |optional )*(\w+): [^#\n]*(#.*)?$", re.MULTILINE)
BASE = re.compile(r"^defaults: \[(?!\w+_schema)(\w+), _self_\]$", re.MULTILINE)
KEY = re.compile(r"( *)([\w.]+):(?=\s|$)(?:.*?\s(# .*))?")
ALIAS = r"# (\w+)=… on the command line[:;] "
WIDTH = 112


@dataclass(frozen=True)
class Comment:
    """The lines above a key, blank ones too, and the comment behind it."""

    above: Sequence[str] = ()
    behind: str = ""

    def __bool__(self) -> bool:
        return any(self.above) or bool(self.behind)


def _usage(name: str, arguments: Sequence[str]) -> str:
    """Examples, the groups with their options, and all keys with their values and the comments of their files."""
    from hydra import compose, initialize_config_dir

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=lambda path: Path(path).resolve())  # as Hydra has it
    options, rest = parser.parse_known_args(arguments)
    overrides = [argument for argument in rest if _is_override(argument)]
    if options.config_dir is not None:
        overrides.append(f"hydra.searchpath=['file://{options.config_dir}']")
    with initialize_config_dir(version_base="1.3", config_dir=str(CHECKOUT / "configs")):
        config = compose(name, overrides, return_hydra_config=True)
    hydra = config.hydra
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    notes = dict(DEFAULT.findall(_text(folders, name)))
    groups = {group: hydra.runtime.choices.get(group) for group in notes if _options(folders, group)}
    lines = [hydra.help.header, "", hydra.help.footer, ""]
    if groups:
        lines.append(f"groups and their options; for another one's keys: {hydra.help.app_name} <group>=<option> --help")
    for group, choice in groups.items():
        lines.append(f"  {group}={choice or 'null'} {notes[group]}".rstrip())
        lines.append(textwrap.indent(textwrap.fill(", ".join(_options(folders, group)), WIDTH - 6), " " * 6))
    lines += ["", "keys and their values (???: must be given; a key inside another: outer.inner=value):", ""]
    explained: set[type] = set()
    comments = _file_comments(folders, name)
    lines += [*_head(comments), *_key_lines(config, comments, explained, skip={*groups, "hydra"})]
    for group, choice in groups.items():
        if group in config and choice is not None:
            comments = _file_comments(folders, f"{group}/{choice}")
            keys = _key_lines(config._get_node(group), comments, explained, indent="  ")
            lines += ["", f"# {group}={choice}", *_head(comments), f"{group}:", *dropwhile(lambda line: not line, keys)]
    return _as_typed("\n".join(lines))


def _as_typed(text: str) -> str:
    """With the keys that the command line knows by another name, as their comments say, under that name."""
    for key, alias in re.findall(rf"^(\w+): .*{ALIAS}", text, re.MULTILINE):
        text = re.sub(rf"\b{key}\b", alias, text)
    return re.sub(ALIAS, "# ", text)


def _text(folders: Sequence[Path], name: str) -> str:
    """A configuration's file; empty where there is none."""
    paths = (folder / f"{name}.yaml" for folder in folders)
    return next((path.read_text(encoding="utf-8") for path in paths if path.is_file()), "")


def _options(folders: Sequence[Path], group: str) -> list[str]:
    paths = ((path, folder / group) for folder in folders for path in folder.glob(f"{group}/**/*.yaml"))
    return sorted({path.relative_to(start).with_suffix("").as_posix() for path, start in paths})


def _comments(text: str, margin: int = 0) -> dict[str, Comment]:
    """Of each key of a YAML file, or field of a dataclass, by its dotted name and in the order of the text."""
    found: dict[str, Comment] = {}
    above: list[str] = []
    outer: list[tuple[int, str]] = []  # the keys that the line is inside of, each with its indent
    for line in text.splitlines():
        match = KEY.match(line)
        if line.strip().startswith("#"):
            above = [*above, line.strip()]
            continue
        if match and len(match[1]) >= margin:
            outer = [*((indent, key) for indent, key in outer if indent < len(match[1])), (len(match[1]), match[2])]
            found[".".join(key for _, key in outer)] = Comment(above, match[3] or "")
        above = [] if line.strip() else [""]
    return found


def _file_comments(folders: Sequence[Path], name: str) -> dict[str, Comment]:
    """Those of a configuration's file; of keys that it does not explain, those of the file that it builds on."""
    text = _text(folders, name)
    own = _comments(text)
    if base := BASE.search(text):
        inherited = _file_comments(folders, str(Path(name).with_name(base[1])))
        return inherited | {key: comment for key, comment in own.items() if comment or key not in inherited}
    return own


def _head(comments: Mapping[str, Comment]) -> list[str]:
    """What a file says of itself, without the command that it opens with."""
    lines = comments["defaults"].above if "defaults" in comments else ()
    return [line for line in lines if line != "#" and not line.startswith("# slantwise ")]


def _class_comments(cls: type | None) -> dict[str, Comment]:
    bases = [base for base in reversed(cls.__mro__) if is_dataclass(base)] if is_dataclass(cls) else []
    found = {key: comment for base in bases for key, comment in _comments(inspect.getsource(base), margin=4).items()}
    return {key: Comment([line for line in comment.above if line], comment.behind) for key, comment in found.items()}


def _key_lines(
    node: Any, comments: Mapping[str, Comment], explained: set[type], prefix: str = "", indent: str = "",
    skip: Collection[str] = (),
) -> Iterator[str]:  # fmt: skip
    """The keys of a node as YAML, in the order of its file, which explains them or else the dataclass behind them.

    A dataclass is explained once: another node of it is one entry, without the values that are the class's defaults.
    """
    from omegaconf import OmegaConf

    cls = OmegaConf.get_type(node)
    schema = _class_comments(cls)
    explained |= {cls} if is_dataclass(cls) else set()
    places = {name: place for place, name in enumerate(comments)}
    for key, child in sorted(node._value().items(), key=lambda item: places.get(f"{prefix}{item[0]}", len(places))):
        if key in skip:
            continue
        name = f"{prefix}{key}"
        comment = comments.get(name) or schema.get(key) or Comment()
        yield from (f"{indent}{line}".rstrip() for line in comment.above)
        child_class = OmegaConf.get_type(child)
        is_new = is_dataclass(child_class) and child_class not in explained
        if isinstance(child._value(), dict) and (is_new or any(other.startswith(f"{name}.") for other in comments)):
            yield f"{indent}{key}: {comment.behind}".rstrip()
            yield from _key_lines(child, comments, explained, f"{name}.", f"{indent}  ")
        else:
            yield from (indent + line for line in _entry(key, _unusual(child), comment.behind))


def _entry(key: Any, value: Any, behind: str) -> list[str]:
    """The lines of a key with its value, on one line where it has the room."""
    import yaml

    if isinstance(value, str) and "\n" in value:
        return [f"{key}: {json.dumps(value, ensure_ascii=False)} {behind}".rstrip()]
    lines: list[str] = []
    if isinstance(value, dict | list):
        lines = yaml.safe_dump(
            value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=WIDTH
        ).splitlines()
        lines = [f"{key}: {lines[0]}"] if len(lines) == 1 else []
    if not lines:
        lines = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=WIDTH).splitlines()
    return [f"{lines[0]} {behind}".rstrip(), *lines[1:]]


def _unusual(node: Any) -> Any:
    """A node's values, uninterpolated, without those that are the defaults of the dataclasses in it."""
    from omegaconf import OmegaConf

    value = node._value()
    if isinstance(value, list):
        return [_unusual(child) for child in value]
    if isinstance(value, dict):
        cls = OmegaConf.get_type(node)
        usual = OmegaConf.structured(cls)._value() if is_dataclass(cls) else {}
        values = {key: _unusual(child) for key, child in value.items()}
        return {key: one for key, one in values.items() if key not in usual or one != _unusual(usual[key])}
    return value.name if isinstance(value, Enum) else value


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
