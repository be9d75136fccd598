"""The command line: one line for a mistake, exit statuses, a checked configuration; locating models."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, OmegaConf

import slantwise
from slantwise import __main__, command
from slantwise.errors import ConfigurationError, CorpusError, ModelError, TrackingError
from slantwise.locate import locate_model
from slantwise.scoring import ScoreConfig

CHECKOUT = Path(__file__).parents[2]


@dataclass
class Inner:
    depth: int = 1
    free: dict[str, str] = field(default_factory=dict)


@dataclass
class Outer:
    name: str = MISSING
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


# --- to_object ---


def test_a_configuration_becomes_dataclasses() -> None:
    config = OmegaConf.structured(Outer(name="a", inner=Inner(free={"any": "thing"})))
    assert command.to_object(config, Outer) == Outer("a", Inner(1, {"any": "thing"}))


def test_keys_without_a_value_are_all_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^input, model, output must be given, as in input=…$"):
        command.to_object(OmegaConf.structured(ScoreConfig), ScoreConfig)


def test_keys_that_were_added_are_all_named() -> None:
    config = OmegaConf.structured(Outer(name="a", inner=Inner(free={"any": "thing"})))
    OmegaConf.update(config, "nmae", "b", force_add=True)
    OmegaConf.update(config, "inner.detph", 2, force_add=True)
    with pytest.raises(ConfigurationError, match=r"^unknown key inner\.detph, nmae$"):
        command.to_object(config, Outer)


# --- run ---


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """arguments("a=b", ...) sets the command line; the working folder is empty, Hydra is fresh."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    GlobalHydra.instance().clear()
    ConfigStore.instance().store(name="score_schema", node=ScoreConfig)
    return lambda *given: monkeypatch.setattr(sys, "argv", ["slantwise score", *given])


def run(job: Callable[[Any], None]) -> int:
    with pytest.raises(SystemExit) as caught:
        command.run("score", job)
    return int(str(caught.value.code))


def raiser(error: BaseException) -> Callable[[Any], None]:
    def job(config: Any) -> None:
        raise error

    return job


def test_a_job_that_ends_well_ends_the_command_well(arguments: Callable[..., None], tmp_path: Path) -> None:
    arguments("model=m")
    seen: list[str] = []
    command.run("score", lambda config: seen.append(config.model))
    assert seen == ["m"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ConfigurationError("a=b is wrong"), CorpusError("a=b is wrong")])
def test_a_mistake_is_one_line_and_status_2(
    arguments: Callable[..., None], capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    arguments()
    assert run(raiser(error)) == 2
    assert capfd.readouterr().err == "error: a=b is wrong\n"


@pytest.mark.parametrize("error", [ValueError, RuntimeError, AssertionError])
def test_a_failure_of_its_own_keeps_its_traceback(
    arguments: Callable[..., None], capfd: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    arguments()
    with pytest.raises(error, match="a bug"):
        command.run("score", raiser(error("a bug")))


def test_an_interruption_is_status_130(arguments: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    arguments()
    assert run(raiser(KeyboardInterrupt())) == 130
    assert capfd.readouterr().err == "interrupted\n"


def test_with_multirun_a_mistake_does_not_stop_the_other_jobs(
    arguments: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    arguments("--multirun", "model=a,b,c", "hydra.sweep.dir=sweep")
    seen: list[str] = []

    def job(config: Any) -> None:
        seen.append(config.model)
        if config.model == "b":
            raise ModelError("b is no model")

    assert run(job) == 2
    assert seen == ["a", "b", "c"]
    assert re.findall(r"^error: .*", capfd.readouterr().err, re.M) == [
        "error: b is no model",
        "error: 1 of the jobs failed",
    ]


# --- explain ---


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("corpuss=sample", r"unknown key corpuss; expected one of task, corpus, .*; did you mean corpus\?"),
        (
            "corpus.columns.txt=b",
            r"unknown key corpus\.columns\.txt; expected one of id, text, .*; did you mean text\?",
        ),
        ("corpus=smaple", r"corpus=smaple: no such option; expected one of .*babe, .*; did you mean sample\?"),
        ("split.seed=soon", r"split\.seed: Value 'soon' of type 'str' could not be converted to Integer"),
        ("split.kind=foo", r"split\.kind: Invalid value 'foo', expected one of \[given, .*\]"),
        ("split.seed=null", r"split\.seed: field 'split\.seed' is not Optional"),
        ("corpus.files=3", r"corpus\.files: Invalid value assigned: int is not a list\."),
        (
            "corpus.topic.columns=section",
            r"corpus\.topic\.columns: .* str is not a list; write it in brackets, as in "
            r"'corpus\.topic\.columns=\[section\]'",
        ),
        ("classifier.C=1.0", r"classifier\.C: .* not a list; write it in brackets, as in 'classifier\.C=\[1\.0\]'"),
        (
            "corpus.topic.map={Foo: bar}",
            r"corpus\.topic\.map\.Foo: .* leading plus, as in '\+corpus\.topic\.map=\{Foo: bar\}'",
        ),
        ("corpus", r"cannot read 'corpus'; expected key=value, .*"),
        ("corpus.path=a (1).jsonl", r"cannot read 'corpus\.path=a \(1\)\.jsonl'; .* quotes .*"),
        ("split=kfold,given", r"Ambiguous value for argument 'split=kfold,given' .*add --multirun.*"),
    ],
)
def test_hydra_s_errors_become_one_line_with_key_and_value(override: str, expected: str) -> None:
    from training import config as schemas

    schemas.register()
    command.register_resolvers()
    GlobalHydra.instance().clear()
    with (
        initialize_config_dir(version_base="1.3", config_dir=str(CHECKOUT / "configs")),
        pytest.raises(Exception, match=r".") as caught,
    ):
        compose("train", overrides=[override])
    line = command.explain(caught.value)
    assert re.fullmatch(expected, line), line
    assert "_schema" not in line


def test_an_unset_variable_is_named_with_the_key_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLANTWISE_NOWHERE", raising=False)
    config = OmegaConf.create({"corpus": {"root": "${oc.env:SLANTWISE_NOWHERE}/babe"}})
    with pytest.raises(Exception, match="SLANTWISE_NOWHERE") as caught:
        OmegaConf.to_object(config)
    expected = "the environment variable SLANTWISE_NOWHERE is not set; corpus.root needs it"
    assert command.explain(caught.value) == expected


# --- the entry point ---


def main(monkeypatch: pytest.MonkeyPatch, *given: str) -> int:
    monkeypatch.setattr(sys, "argv", ["slantwise", *given])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    return int(str(caught.value.code))


@pytest.mark.parametrize("given", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    assert main(monkeypatch, *given) == 0
    out = capsys.readouterr().out
    for name, (_, text) in __main__.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", out, re.M)


@pytest.mark.parametrize(
    ("given", "hint"), [("trian", "; did you mean train?"), ("scoer", "; did you mean score?"), ("xyzzy", "lineage")]
)
def test_an_unknown_command_is_named_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str, hint: str
) -> None:
    assert main(monkeypatch, given) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: unknown command {given!r}; expected one of train, sweep, ")
    assert err.endswith(f"{hint}\n")


@pytest.mark.parametrize("given", ["--version", "-V"])
def test_the_version_is_the_package_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert main(monkeypatch, given) == 0
    assert capsys.readouterr().out == f"slantwise {slantwise.__version__}\n"


def test_quiet_defaults_leave_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"MLFLOW_DISABLE_TELEMETRY": "false"})
    __main__.set_quiet_defaults()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] == "0"


# --- slantwise <command> --help ---


@pytest.fixture
def usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """usage("train", "split=kfold") is what the command prints with --help."""
    monkeypatch.setattr(__main__, "set_quiet_defaults", lambda: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def shown(name: str, *overrides: str) -> str:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["slantwise", name, *overrides, "--help"])
        __main__.main()
        return capsys.readouterr().out

    return shown


def keys(text: str) -> dict[str, Any]:
    """The keys that a help text lists, read as the YAML that they are."""
    found = yaml.safe_load(re.split(r"^keys and their values .*$", text, flags=re.MULTILINE)[1])
    assert isinstance(found, dict)
    return found


COMMANDS_OF_HYDRA = [
    *((name, ()) for name in __main__.COMMANDS if name != "demo"),
    ("train", ("run=r",)),
    ("compare", ("scores=[a,b]",)),
]


@pytest.mark.parametrize(("name", "overrides"), COMMANDS_OF_HYDRA)
def test_help_has_examples_and_every_key_of_the_command_s_file_with_its_comment(
    usage: Callable[..., str], name: str, overrides: tuple[str, ...]
) -> None:
    text = usage(name, *overrides)
    file = {"run=r": "reproduce", "scores=[a,b]": "drift"}.get("".join(overrides), name)
    own = (CHECKOUT / "configs" / f"{file}.yaml").read_text(encoding="utf-8").partition("\nhydra:")[0]
    assert "examples:\n  slantwise" in text.replace("SLANTWISE_CORPORA=~/corpora ", "")
    assert "_schema" not in text
    known = {"judged_split": "split", "judged_task": "task", "task_name": "task"}
    expected = {known.get(key, key) for key in yaml.safe_load(own) if key != "defaults"}
    assert expected <= set(keys(text))
    comments = re.findall(r"^[\w ]+: .*\s(# .+)$", own, re.MULTILINE)
    assert not [one for one in comments if re.sub(r"# \w+=… on the command line[:;] ", "# ", one) not in text]


def test_help_explains_the_keys_of_each_option_chosen_and_shows_their_values(usage: Callable[..., str]) -> None:
    text = usage("train", "classifier=transformer", "classifier.max_tokens=99", "cleaning=none")
    assert "  # Tokens of one window, special tokens and target included.\n  max_tokens: 99\n" in text
    assert re.search(r"^  classifier=transformer # .*\n      encoder, linear, transformer$", text, re.MULTILINE)
    # cleaning/none.yaml builds on cleaning/default.yaml, which explains this key
    assert re.search(r"^  furniture: false # remove share bars", text, re.MULTILINE)
    # keys of the schemas that no file names
    assert re.search(r"^shuffle_train_labels: false # a test of the whole chain", text, re.MULTILINE)
    assert re.search(r"^  max_bad_rows: 0 # more unusable rows", text, re.MULTILINE)


def test_help_lists_what_the_configuration_holds(usage: Callable[..., str]) -> None:
    listed = keys(usage("train", "corpus=gvfc", "classifier=transformer", "split=kfold"))
    with initialize_config_dir(version_base="1.3", config_dir=str(CHECKOUT / "configs")):
        config = compose("train", overrides=["corpus=gvfc", "classifier=transformer", "split=kfold"])
    expected = OmegaConf.to_container(config, enum_to_str=True)
    assert isinstance(expected, dict)
    assert set(listed) == set(expected)
    assert listed["run_dir"] == "runs/${name}-${unique:}"
    for group in ("task", "cleaning", "split", "classifier", "decision", "evaluation"):
        assert listed[group] == expected[group], group
    assert listed["corpus"]["columns"] == expected["corpus"]["columns"]
    # not repeated: what is a default of a dataclass that has been explained already
    assert listed["corpus"]["framing"].items() <= expected["corpus"]["framing"].items()


@pytest.mark.parametrize("name", ["evaluate", "compare", "promote"])
def test_help_names_keys_as_they_are_typed_and_no_group_that_is_refused(usage: Callable[..., str], name: str) -> None:
    text = usage(name)
    assert not re.search(r"judged_|task_name|on the command line|classifier=", text)
    assert "task" in keys(text)
    assert "split" in keys(text) or name == "promote"
    assert re.findall(r"^  (\w+)=\w+$", text, re.MULTILINE) == (
        ["corpus", "tracking"] if name == "promote" else ["corpus"]
    )


def test_help_explains_a_configuration_of_one_s_own(usage: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    own = (
        "defaults: [corpus_schema, _self_]\nname: mine\nfiles: [{path: a.csv, separator: ;}]\nhtml: true # as crawled\n"
    )
    (tmp_path / "corpus" / "mine.yaml").write_text(own)
    text = usage("audit", "--config-dir", str(tmp_path), "corpus=mine")
    assert "  html: true # as crawled\n" in text
    assert re.search(r"^ +allsides, .*\n.*\bmine\b", text, re.MULTILINE)
    assert keys(text)["corpus"]["files"] == [{"path": "a.csv", "separator": ";"}]


def test_a_mistake_beside_help_is_one_line(
    usage: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    GlobalHydra.instance().clear()
    assert main(monkeypatch, "train", "splti=kfold", "--help") == 2
    assert re.fullmatch(r"error: unknown key splti; .*did you mean split\?\n", capsys.readouterr().err)


# --- resolvers and progress ---


def test_a_unique_name_is_the_same_within_a_configuration_and_differs_between_two() -> None:
    command.register_resolvers()
    first, second = (OmegaConf.create({"a": "${unique:}", "b": "${unique:}"}) for _ in range(2))
    assert first.a == first.b
    assert first.a != second.a
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", first.a)


def test_progress_is_told_on_stderr_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = command.Progress()
    progress.say("train [bold]topic[/bold]")
    with progress.step("read the corpus") as notes:
        notes.append("12 rows")
    progress.warn("two clusters")
    progress.save(tmp_path / "log.txt")
    kept = (tmp_path / "log.txt").read_text()
    assert re.fullmatch(
        r"train \[bold\]topic\[/bold\]\n  read the corpus: 12 rows \(\d\.\d s\)\nwarning: two clusters\n", kept
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "12 rows" in captured.err


# --- locate ---


def test_a_path_is_its_own_location(tmp_path: Path) -> None:
    assert locate_model(str(tmp_path)) == tmp_path


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=f"{tmp_path}/no does not exist; expected a model or run directory, or an MLflow"
    ):
        locate_model(str(tmp_path / "no"))


@pytest.mark.parametrize("uri", ["models:/news@champion", "runs:/0123/model"])
def test_without_a_store_none_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match=f"{uri}: there is no MLflow store .* set MLFLOW_TRACKING_URI"):
        locate_model(uri)
    assert list(tmp_path.iterdir()) == []
