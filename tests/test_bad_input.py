"""Bad input through the real command: status 2, one clear line, no traceback, nothing left in the working folder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from slantwise import __main__

TOPICS = {"health": "clinic nurse vaccine", "sport": "goal referee league", "weather": "storm frost gale"}


def article(number: int) -> dict[str, Any]:
    topic = list(TOPICS)[number % 3]
    text = f"Of {TOPICS[topic]} they spoke on day {number}, and of no other matter {number * 7}."
    return {"id": f"a{number}", "text": text, "topic": topic}


ROWS = [article(number) for number in range(24)]


@dataclass(frozen=True)
class Outcome:
    status: int
    error: str  # all that was written to stderr
    left: list[str]  # what the command left in the working folder

    @property
    def line(self) -> str:
        """The one line that says what was wrong: the last, after what was told of the steps before it."""
        lines = self.error.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.error
        return lines[-1].removeprefix("error: ")


Command = Callable[..., Outcome]


def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    """What the command does with these arguments in the working folder."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["slantwise", *arguments])
    before = set(Path().rglob("*"))
    capfd.readouterr()
    try:
        __main__.main()
        status = 0
    except SystemExit as end:
        status = int(str(end.code or 0))
    left = sorted(str(path) for path in set(Path().rglob("*")) - before)
    return Outcome(status, capfd.readouterr().err, left)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """command("train", "corpus=file", ...) in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("HYDRA_FULL_ERROR", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SLANTWISE_CORPORA", str(tmp_path / "corpora"))
    return lambda *arguments: call(monkeypatch, capfd, *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a small topic model."""
    folder = tmp_path_factory.mktemp("trained")
    write(folder / "rows.jsonl", ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["slantwise", *train(f"{folder}/rows.jsonl"), "run_dir=run", *QUICK])
        GlobalHydra.instance().clear()
        __main__.main()
    return folder / "run"


# Articles of one mould are near-duplicates; here they are to be split all the same.
QUICK = [
    "split.near_duplicates=1", "split.test=0.3", "split.validation=0.3", "classifier.C=[1]",
    "evaluation.resamples=20", "tracking=none",
]  # fmt: skip


def train(path: str) -> list[str]:
    return ["train", "task=topic", "corpus=file", f"corpus.path={path}"]


def write(path: Path, rows: list[Any]) -> None:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def bad(outcome: Outcome, *parts: str) -> None:
    """The outcome is a mistake that was told in one line with all these parts, and nothing was left behind."""
    assert outcome.status == 2, outcome.error
    assert "Traceback" not in outcome.error
    for part in parts:
        assert part in outcome.line
    assert outcome.left == []


def test_good_input_is_no_error_and_leaves_its_run_directory_only(trained: Path) -> None:
    assert (trained / "model" / "slantwise.json").is_file()
    assert sorted(path.name for path in trained.parent.iterdir()) == ["rows.jsonl", "run"]


# --- corpora ---


def test_a_missing_file(command: Command, tmp_path: Path) -> None:
    bad(command(*train("no.jsonl")), "no.jsonl does not exist")


def test_an_empty_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    bad(command(*train("rows.jsonl")), "rows.jsonl is empty")


def test_a_header_without_rows(command: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,text,topic\n")
    bad(command(*train("rows.csv")), "rows.csv holds no rows")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_missing_column(command: Command, tmp_path: Path, name: str) -> None:
    if name.endswith("csv"):
        (tmp_path / name).write_text("id,body,topic\n1,Goal,sport\n")
    else:
        write(tmp_path / name, [{"id": "1", "body": "Goal", "topic": "sport"}])
    bad(command(*train(name)), name, "no column 'text'", "'body'", "set corpus.columns.text=")


def test_an_unknown_label(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [*ROWS[:4], {**ROWS[4], "topic": "sprot"}, *ROWS[5:]])
    outcome = command(*train("rows.jsonl"))
    bad(outcome, "rows.jsonl: line 5, field 'topic'", "unknown label", "did you mean 'sport'?", "'sprot'")


def test_two_unknown_labels_are_both_listed(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{**ROWS[0], "topic": "sprot"}, *ROWS[1:4], {**ROWS[4], "topic": "rain"}])
    outcome = command(*train("rows.jsonl"))
    assert (outcome.status, outcome.left) == (2, [])
    told = outcome.error[outcome.error.index("error: ") :].splitlines()
    assert len(told) == 3
    assert "2 rows cannot be used" in told[0]
    assert "line 1, field 'topic'" in told[1]
    assert "line 5, field 'topic'" in told[2]


def test_a_label_column_that_is_empty_in_all_rows(command: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,text,section\n" + "".join(f"{n},Goal {n},\n" for n in range(5)))
    (tmp_path / "configs" / "corpus").mkdir(parents=True)
    (tmp_path / "configs" / "corpus" / "mine.yaml").write_text(
        "defaults: [corpus_schema, _self_]\nname: mine\npath: rows.csv\n"
        "topic: {columns: [section], labels: [news, sport]}\n"
    )
    outcome = command("train", "task=topic", "--config-dir", "configs", "corpus=mine")
    bad(outcome, "corpus mine", "'section' is empty in all 5 rows")


def test_a_task_that_the_corpus_has_no_labels_for(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    outcome = command("train", "task=stance", "corpus=file", "corpus.path=rows.jsonl")
    bad(outcome, "corpus file has no labels for task stance; it is labelled for topic")


def test_invalid_utf_8(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"other", "öther".encode("latin-1"))
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines))
    bad(command(*train("rows.jsonl")), "rows.jsonl: line 3", "not valid UTF-8", "0xF6")


def test_malformed_json_on_line_7_of_10(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [*ROWS[:6], '{"id": "a7", "text": ', *ROWS[7:10]])
    bad(command(*train("rows.jsonl")), "rows.jsonl: line 7", "not valid JSON", '{"id": "a7", "text":')


def test_duplicate_ids(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [*ROWS, {**ROWS[3], "text": "Another text."}])
    bad(command(*train("rows.jsonl")), "rows.jsonl: line 25, field 'id'", "stands already", "line 4", "'a3'")


def test_an_unset_slantwise_corpora(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLANTWISE_CORPORA")
    outcome = command("train", "task=topic", "corpus=bbc_news")
    bad(outcome, "environment variable SLANTWISE_CORPORA is not set; corpus.root needs it")


def test_a_corpus_that_is_not_where_slantwise_corpora_says(command: Command, tmp_path: Path) -> None:
    bad(command("train", "task=topic", "corpus=bbc_news"), f"{tmp_path}/corpora/bbc-news/bbc does not exist")


def test_too_few_articles_to_split(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:2])
    outcome = command(*train("rows.jsonl"))
    assert (outcome.status, outcome.left) == (2, []), outcome.error


# --- configuration ---


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "classifer=linear"], ["unknown key classifer", "did you mean classifier?"]),
        (["train", "split.sead=1"], ["unknown key split.sead", "did you mean seed?"]),
        (["train", "+split.sead=1"], ["unknown key split.sead"]),
        (["train", "split.seed=soon"], ["split.seed", "'soon'", "Integer"]),
        (["train", "corpus.columns=[text]"], ["corpus.columns", "a list"]),
        (["train", "split=statified"], ["split=statified: no such option", "did you mean stratified?"]),
        (["train", "tracking=null"], ["tracking=null"]),
        (["train", "split.test=1.5"], ["split.test=1.5; expected a share between 0 and 1"]),
        (["train", "corpus=file"], ["corpus.path"]),
        (["train", "topic"], ["cannot read 'topic'; expected key=value"]),
        (["score"], ["input, model, output must be given"]),
        (["score", "model=m", "output=o.jsonl"], ["input must be given, as in input=…"]),
        (["score", "inputs=m"], ["unknown key inputs", "did you mean input?"]),
        (["evaluate"], ["model must be given"]),
        (["evaluate", "model=m", "split=dev"], ["split=dev; expected one of train, validation, test, all"]),
        (["export", "output=m"], ["runs is empty"]),
        (["publish"], ["run_dir must be given"]),
        (["scoer"], ["unknown command 'scoer'", "score"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_configuration_that_cannot_be(command: Command, arguments: list[str], parts: list[str]) -> None:
    bad(command(*arguments), *parts)


# --- models and scoring ---


@pytest.mark.parametrize("name", ["score", "evaluate"])
def test_a_model_directory_that_is_not_one(command: Command, tmp_path: Path, name: str) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "model").mkdir()
    given = {"score": ["input=rows.jsonl"], "evaluate": ["corpus=sample"]}[name]
    outcome = command(name, "model=model", "output=out.jsonl", *given)
    bad(outcome, "model is not a model directory", "slantwise.json")


def test_a_model_that_does_not_exist(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    bad(command("score", "model=no", "input=rows.jsonl", "output=out.jsonl"), "no does not exist; expected a model")


def test_a_model_in_a_store_that_does_not_exist(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    outcome = command("score", "model='models:/news@champion'", "input=rows.jsonl", "output=out.jsonl")
    bad(outcome, "models:/news@champion", "MLFLOW_TRACKING_URI")


def test_a_damaged_model(command: Command, tmp_path: Path, trained: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    shutil.copytree(trained / "model", tmp_path / "model")
    (tmp_path / "model" / "heads" / "topic" / "arrays.npz").write_bytes(b"")
    outcome = command("score", "model=model", "input=rows.jsonl", "output=out.jsonl")
    bad(outcome, "model/heads/topic/arrays.npz was changed or truncated")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("no.jsonl", None, ["no.jsonl does not exist"]),
        ("empty.jsonl", "", ["empty.jsonl is empty"]),
        ("rows.txt", "Goal\n", ["rows.txt: format unknown by its ending"]),
        ("rows.csv", "id,body\n1,Goal\n", ["rows.csv has no column 'text'; it has 'id', 'body'"]),
        ("rows.jsonl", '{"id": 1, "body": "Goal"}\n', ["rows.jsonl has no column 'text'; it has 'id', 'body'"]),
        ("blank.jsonl", "\n\n", ["no rows"]),
        ("rows.parquet", "Goal", ["rows.parquet cannot be read as Parquet"]),
    ],
)
def test_an_input_that_cannot_be_scored(
    command: Command, tmp_path: Path, trained: Path, name: str, content: str | None, parts: list[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    bad(command("score", f"model={trained}", f"input={name}", "output=out.jsonl"), *parts)


@pytest.mark.parametrize(("name", "part"), [("out.jsonl", "out.jsonl exists"), ("out.txt", "ends in .jsonl")])
def test_an_output_that_cannot_be(command: Command, tmp_path: Path, trained: Path, name: str, part: str) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "out.jsonl").write_text("precious")
    bad(command("score", f"model={trained}", "input=rows.jsonl", f"output={name}"), f"output={name}", part)
    assert (tmp_path / "out.jsonl").read_text() == "precious"


def test_an_evaluation_or_export_that_exists(command: Command, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "out").mkdir()
    bad(command("evaluate", f"model={trained}", "output=out"), "output=out exists")
    bad(command("export", f"runs=[{trained}]", "output=out"), "output=out exists")
    bad(command(*train("rows.jsonl"), "run_dir=out"), "run_dir=out exists")


def test_an_evaluation_on_a_corpus_without_the_model_s_labels(command: Command, tmp_path: Path, trained: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"id": str(n), "text": f"Goal {n}", "frames": ["economic"]} for n in range(9)])
    outcome = command("evaluate", f"model={trained}", "corpus=file", "corpus.path=rows.jsonl", "output=out")
    bad(outcome, "corpus file has labels for framing", "the model holds topic")


def test_two_runs_of_one_task_in_one_export(command: Command, trained: Path) -> None:
    bad(command("export", f"runs=[{trained},{trained}]", "output=out"), str(trained), "another model of task topic")
