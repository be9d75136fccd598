"""The comparison from files to page: everyone on the same examples, and clear words where that cannot be."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.core.global_hydra import GlobalHydra

from data.config import CorpusConfig
from data.corpus import Corpus, load_corpus
from data.prepare import clean_corpus
from evaluation import compare
from evaluation.compare import comparison_figures, with_names, write_comparison
from evaluation.compare_page import comparison_table, p_text, render, rounded, verdict
from evaluation.contest import CompareConfig, Entry, prepare, read_entries, read_source
from evaluation.metrics import compute
from evaluation.predictions import AnswerColumns, Predictions
from slantwise.cleaning import Cleaner
from slantwise.errors import ConfigurationError, CorpusError
from tests.conftest import Row, WriteJsonl
from tests.training.test_run import TrackingConfig, make_config, run

PAYLOAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 7 * 7 }} $x$"
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}
TASKS = ("topic", "framing", "stance")
AWAY = TrackingConfig(enabled=False)


class Page(HTMLParser):
    """Element names and the text, and the elements left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def predictions(corpus: Corpus, task: str, seed: int, noise: float = 0.6, share: float = 1.0) -> Predictions:
    """Predictions of the corpus's first articles that are right more often the less noise there is."""
    clean = clean_corpus(corpus, corpus.task(task), Cleaner())
    labelled = clean.examples(range(int(share * len(clean))))
    n_labels = len(labelled.task.labels)
    gold = labelled.gold if labelled.gold.ndim == 2 else np.eye(n_labels)[labelled.gold]
    scores = (1 - noise) * gold + noise * np.random.default_rng(seed).random(gold.shape)
    if labelled.task.kind == "multiclass":
        scores /= scores.sum(axis=1, keepdims=True)
    return Predictions(
        labelled.task, "test", labelled.ids, [e.text for e in labelled.examples], labelled.gold,
        scores.astype(np.float32), scores > 0.5 if gold is labelled.gold else scores.argmax(axis=1), labelled.groups,
        [e.target for e in labelled.examples], labelled.sources,
    )  # fmt: skip


def rows_of(made: Predictions, names: dict[str, str] | None = None, prefix: str = "") -> list[dict[str, Any]]:
    """The rows that another tool would write, in another order than the corpus."""
    named, labels, rows = names or {}, made.task.labels, []
    for i in np.random.default_rng(0).permutation(len(made)):
        row: dict[str, Any] = {named.get("id", "id"): made.ids[i]}
        if made.task.has_target:
            row[named.get("target", "target")] = made.targets[i]
        if made.task.kind == "multilabel":
            row[named.get("labels", "labels")] = [labels[j] for j in np.flatnonzero(made.predicted[i])]
        else:
            row[named.get("label", "label")] = labels[made.predicted[i]]
        scores = made.probabilities[i].tolist()
        rows.append(row | {prefix + label: p for label, p in zip(labels, scores, strict=True)})
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    return path


def configured(**changes: Any) -> CompareConfig:
    config = CompareConfig(models=[], corpus=CorpusConfig(path="none"), judged_split="all", permutations=99, output="")
    config.evaluation.resamples = 50
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def compared(corpus: Corpus, models: Sequence[Any], **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    chosen = configured(**changes)
    sources = {entry.name: [read_source(path, chosen) for path in entry.paths] for entry in read_entries(models)}
    found = prepare(sources, corpus, chosen)
    names = ["macro_f1", "log_loss", "ece", *(["accuracy"] if found.task.kind == "multiclass" else ["example_f1"])]
    return comparison_figures(found, corpus, names, chosen)


@pytest.fixture
def written(tiny_corpus: Corpus, tmp_path: Path) -> Callable[..., Path]:
    """written(task, seed, noise) -> a predictions.parquet as a run writes it."""

    def write(task: str, seed: int, noise: float = 0.6, share: float = 1.0) -> Path:
        path = tmp_path / f"run-{task}-{seed}" / "predictions.parquet"
        path.parent.mkdir()
        predictions(tiny_corpus, task, seed, noise, share).write(path)
        return path

    return write


# --- What another tool wrote ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_another_tools_file_gives_the_same_figures_as_our_own(
    task: str, ending: str, tiny_corpus: Corpus, written: Callable[..., Path], write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    ours, theirs = written(task, 1), tmp_path / f"theirs.{ending}"
    rows = rows_of(predictions(tiny_corpus, task, 1))
    if ending == "csv":
        write_csv(theirs, rows)
    elif ending == "jsonl":
        write_jsonl(rows, theirs.name)
    else:
        pq.write_table(pa.Table.from_pylist(rows), theirs)
    figures, changed = compared(tiny_corpus, [str(ours), str(theirs)], judged_task=task)
    one, other = (model["estimates"] for model in figures["models"])
    assert {name: each["value"] for name, each in other.items()} == pytest.approx(
        {name: each["value"] for name, each in one.items()}, abs=1e-6
    )
    assert one["macro_f1"] == other["macro_f1"]
    assert one["macro_f1"]["value"] == pytest.approx(compute(predictions(tiny_corpus, task, 1))["macro_f1"])
    assert changed == []
    assert figures["verdict"] == [
        f"No difference: theirs is right and wrong where run-{task}-1 is, on all 72 examples."
    ]


def test_columns_labels_and_prefixes_can_be_mapped(
    tiny_corpus: Corpus, written: Callable[..., Path], tmp_path: Path
) -> None:
    names = {"id": "doc", "target": "entity", "label": "answer"}
    rows = rows_of(predictions(tiny_corpus, "stance", 1), names, prefix="p_")
    for row in rows:
        row["answer"] = {"favor": "pro", "against": "con", "neutral": "neutral"}[row["answer"]]
    theirs = write_csv(tmp_path / "theirs.csv", rows)
    columns = AnswerColumns(id="doc", target="entity", label="answer", probability_prefix="p_")
    figures, _ = compared(
        tiny_corpus, [str(written("stance", 1)), str(theirs)], judged_task="stance", columns=columns,
        label_map={"pro": "favor", "con": "against"},
    )  # fmt: skip
    one, other = (model["estimates"]["log_loss"]["value"] for model in figures["models"])
    assert other == pytest.approx(one, abs=1e-6)


def test_scores_of_the_score_command_can_be_judged(
    tiny_corpus: Corpus, written: Callable[..., Path], write_jsonl: WriteJsonl
) -> None:
    made = predictions(tiny_corpus, "topic", 1)
    rows = [{"id": row.pop("id"), "topic": {"label": row.pop("label"), "probabilities": row}} for row in rows_of(made)]
    columns = AnswerColumns(label="topic.label", probability_prefix="topic.probabilities.")
    figures, _ = compared(
        tiny_corpus, [str(written("topic", 1)), str(write_jsonl(rows, "scores.jsonl"))], columns=columns
    )
    one, other = (model["estimates"]["log_loss"]["value"] for model in figures["models"])
    assert other == pytest.approx(one, abs=1e-6)


def test_a_file_without_probabilities_is_compared_by_its_labels(
    tiny_corpus: Corpus, written: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"id": row["id"], "label": row["label"]} for row in rows_of(predictions(tiny_corpus, "topic", 2))]
    rows[0]["label"] = ""  # abstained
    theirs = write_csv(tmp_path / "theirs.csv", rows)
    figures, changed = compared(tiny_corpus, [str(written("topic", 1)), str(theirs)])
    estimates = figures["models"][1]["estimates"]
    assert estimates["ece"] == {"value": None, "low": None, "high": None, "reason": "theirs has no probabilities"}
    assert figures["comparisons"][0]["differences"]["accuracy"]["p"] is not None
    assert changed
    assert all(flip["gained"] is None for flip in changed)
    page = Page(render(figures, changed, ""))
    assert "no probabilities: log loss, calibration error and average precision are undefined" in page.text


def test_missing_unknown_and_doubled_ids_are_all_named_at_once(
    tiny_corpus: Corpus, written: Callable[..., Path], tmp_path: Path
) -> None:
    rows = sorted(rows_of(predictions(tiny_corpus, "topic", 1)), key=lambda row: str(row["id"]))
    theirs = write_csv(tmp_path / "theirs.csv", [*rows[2:], rows[5], {**rows[0], "id": "zzz"}])
    with pytest.raises(CorpusError) as error:
        compared(tiny_corpus, [str(written("topic", 1)), str(theirs)])
    message = str(error.value)
    for part in ("2 without a prediction (a000, a001)", "1 unknown to the corpus (zzz)",
                 "1 predicted more than once (a005)", "theirs.csv", "each of the 72 examples"):  # fmt: skip
        assert part in message


def test_answers_to_the_rest_of_the_corpus_are_left_out(
    tiny_corpus: Corpus, written: Callable[..., Path], tmp_path: Path
) -> None:
    theirs = write_csv(tmp_path / "theirs.csv", rows_of(predictions(tiny_corpus, "topic", 1)))
    figures, _ = compared(tiny_corpus, [str(written("topic", 1, share=0.5)), str(theirs)])
    assert figures["examples"] == 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "helth"}, "field 'label': no label of the task; expected one of health, sport, weather"),
        ({"id": ""}, "field 'id': empty"),
        ({"health": 1.5}, "field 'health': expected a probability between 0 and 1"),
        ({"health": "high"}, "field 'health': expected a probability"),
        ({"health": 0.0, "sport": 0.0, "weather": 0.1}, "must add up to 1"),
    ],
)
def test_values_that_cannot_be_used_are_named_with_their_line(
    change: dict[str, Any], message: str, tiny_corpus: Corpus, written: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = tiny_corpus
    names = ("health", "sport", "weather")
    config = CorpusConfig(name="tiny", path=str(tmp_path / "tiny.jsonl"))
    config.topic.labels = list(names)
    corpus = load_corpus(config)
    rows = rows_of(predictions(corpus, "topic", 1))
    rows[1] |= change
    theirs = write_csv(tmp_path / "theirs.csv", rows)
    other = write_csv(tmp_path / "other.csv", rows_of(predictions(corpus, "topic", 2)))
    with pytest.raises(CorpusError) as error:
        compared(corpus, [str(other), str(theirs)], judged_task="topic")
    assert f"{theirs}: line 3" in str(error.value)
    assert message in str(error.value)


def test_a_missing_column_is_named_once_with_its_option(
    tiny_corpus: Corpus, written: Callable[..., Path], tmp_path: Path
) -> None:
    rows = rows_of(predictions(tiny_corpus, "topic", 1), {"label": "answer"})
    theirs = write_csv(tmp_path / "theirs.csv", rows)
    with pytest.raises(CorpusError, match=r"no column 'label' \(columns.label=…\); it has id, answer") as error:
        compared(tiny_corpus, [str(written("topic", 1)), str(theirs)])
    assert "\n" not in str(error.value)


def test_probabilities_of_some_labels_only_are_refused(
    tiny_corpus: Corpus, written: Callable[..., Path], tmp_path: Path
) -> None:
    rows = rows_of(predictions(tiny_corpus, "topic", 1))
    theirs = write_csv(tmp_path / "theirs.csv", [{k: v for k, v in row.items() if k != "sport"} for row in rows])
    with pytest.raises(CorpusError, match="probabilities of some labels only; the columns sport"):
        compared(tiny_corpus, [str(written("topic", 1)), str(theirs)])


# --- The same examples for everyone -----------------------------------------------------------------------------------


def test_runs_with_different_test_splits_meet_on_what_they_share(
    tiny_corpus: Corpus, written: Callable[..., Path]
) -> None:
    figures, _ = compared(tiny_corpus, [str(written("topic", 1)), str(written("topic", 2, share=0.5))])
    assert figures["examples"] == 36
    assert "judged are the 36 articles that stand in all of them; 36 that do not are left out" in figures["warnings"][0]


def test_a_run_on_another_version_of_the_corpus_is_refused(
    tiny_corpus: Corpus, tiny_rows: list[Row], written: Callable[..., Path], write_jsonl: WriteJsonl
) -> None:
    paths = [str(written("topic", seed)) for seed in (1, 2)]
    relabelled = [{**row, "topic": "sport"} if i == 0 else row for i, row in enumerate(tiny_rows)]
    other = load_corpus(CorpusConfig(name="other", path=str(write_jsonl(relabelled, "other.jsonl"))))
    with pytest.raises(CorpusError, match=r"gold labels of 1 of 72 examples are not those of the corpus"):
        compared(other, paths)
    less = load_corpus(CorpusConfig(name="less", path=str(write_jsonl(tiny_rows[1:], "less.jsonl"))))
    with pytest.raises(CorpusError, match=r"1 of its 72 articles are not in corpus less, such as a000"):
        compared(less, paths)


def test_files_of_other_tools_alone_need_a_split_that_the_corpus_gives(
    tiny_corpus: Corpus, tiny_rows: list[Row], write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    paths = [
        str(write_csv(tmp_path / f"{seed}.csv", rows_of(predictions(tiny_corpus, "topic", seed)))) for seed in (1, 2)
    ]
    with pytest.raises(CorpusError, match="use split=all"):
        compared(tiny_corpus, paths, judged_task="topic", judged_split="test")
    given = [{**row, "split": "test" if i % 4 == 0 else "train"} for i, row in enumerate(tiny_rows)]
    corpus = load_corpus(CorpusConfig(name="given", path=str(write_jsonl(given, "given.jsonl"))))
    figures, _ = compared(corpus, paths, judged_task="topic", judged_split="test")
    assert figures["examples"] == 18


def test_models_of_different_tasks_cannot_be_compared(tiny_corpus: Corpus, written: Callable[..., Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"run-topic-1/predictions.parquet: topic; .*: stance"):
        compared(tiny_corpus, [str(written("topic", 1)), str(written("stance", 1))])


def test_the_task_is_asked_for_where_it_is_not_clear(tiny_corpus: Corpus, tmp_path: Path) -> None:
    paths = [str(write_csv(tmp_path / f"{i}.csv", rows_of(predictions(tiny_corpus, "topic", i)))) for i in (1, 2)]
    with pytest.raises(ConfigurationError, match="share topic, framing, stance; choose one with task="):
        compared(tiny_corpus, paths)


def test_repeated_targets_of_an_article_are_told_apart_by_their_order(
    tiny_rows: list[Row], write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    text = "Praise for the Mayor. Then blame for the Mayor, and much more was said in the city on that day."
    twice = {
        "id": "twice", "text": text,
        "stances": [{"target": "Mayor", "stance": "favor"}, {"target": "Mayor", "stance": "against"}],
    }  # fmt: skip
    corpus = load_corpus(CorpusConfig(name="twice", path=str(write_jsonl([*tiny_rows, twice], "twice.jsonl"))))
    made = predictions(corpus, "stance", 1, noise=0.0)
    rows = sorted(rows_of(made), key=lambda row: -row["favor"])  # the favorable mention comes first again
    figures, changed = compared(
        corpus, [str(write_csv(tmp_path / f"{i}.csv", rows)) for i in "ab"], judged_task="stance"
    )
    assert figures["models"][0]["estimates"]["accuracy"]["value"] == 1.0
    assert changed == []


# --- Entries ----------------------------------------------------------------------------------------------------------


def test_names_come_from_the_path_unless_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("runs/a/model", "runs/b-seed1", "runs/b-seed2"):
        Path(path).mkdir(parents=True)
    Path("out.v2.csv").touch()
    Path("runs/a/predictions.parquet").touch()
    assert read_entries(["runs/a", "out.v2.csv", {"new": "runs/b-seed*"}, "models:/topic@champion"]) == [
        Entry("a", ("runs/a",)),
        Entry("out.v2", ("out.v2.csv",)),
        Entry("new", ("runs/b-seed1", "runs/b-seed2")),
        Entry("models:/topic@champion", ("models:/topic@champion",)),
    ]
    assert read_entries(["runs/a/model", {"b": ["runs/b-seed2", "runs/b-seed1"]}])[0].name == "a"
    assert read_entries(["runs/a/predictions.parquet", "runs/b-seed1"])[0].name == "a"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["a"], "two or more"),
        (["x/a", "y/a"], "a is the name of more than one"),
        (["a", "nothing-*"], "nothing matches"),
        (["a", {"b": "x", "c": "y"}], "one name"),
        (["a", []], "expected a path"),
        (["a", 3], "expected a path"),
        (["a", ["b", "b"]], "more than once"),
    ],
)
def test_entries_that_cannot_be_meant_are_refused(models: list[Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_entries(models)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("models=[old=runs/a,new-1.b=runs/b]", "models=[{old: runs/a},{new-1.b: runs/b}]"),
        ("models=[runs/a,new=[runs/b,runs/c]]", "models=[runs/a,{new: [runs/b,runs/c]}]"),
        ("models=[runs/a, new=runs/s*/model]", "models=[runs/a,{new: runs/s*/model}]"),
        ('models=[old="runs/a,b",runs/c]', 'models=[{old: "runs/a,b"},runs/c]'),
        ("models=[runs/a,models:/x@champion]", "models=[runs/a,models:/x@champion]"),
        ("output=[a=b]", "output=[a=b]"),
    ],
)
def test_names_on_the_command_line_become_hydras_grammar(argument: str, expected: str) -> None:
    assert with_names(argument) == expected


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.txt").touch()
    with pytest.raises(ConfigurationError, match=r"scores.txt; expected a model or run directory, or predictions"):
        read_source(str(tmp_path / "scores.txt"), configured())


# --- Words and pages --------------------------------------------------------------------------------------------------


def told(metric: str = "macro_f1", models: int = 1, groups: int = 410, **difference: Any) -> str:
    d = {"value": 0.021, "low": 0.004, "high": 0.039, "reason": None, "p_holm": 0.02, "shown": True, "needed": 500}
    comparison = {
        "model": "b", "differences": {metric: d | difference}, "mcnemar": {"fixed": 30, "broken": 17},
    }  # fmt: skip
    figures = {"baseline": "a", "metric": metric, "examples": 620, "groups": groups, "unit": "articles"}
    return verdict(figures | {"comparisons": [comparison] * models}, comparison)


def test_verdicts_say_what_was_found() -> None:
    where = "on 620 examples of 410 articles"
    assert told() == f"b is better than a: macro-F1 +.021 [.004, .039], p = .02 {where}."
    assert told("log_loss").startswith("b is worse than a: log loss +.021")
    assert told(groups=620).endswith("on 620 examples.")
    assert "p = .02 (Holm, 2 models)" in told(models=2)
    unclear = {"low": -0.01, "p_holm": 0.3, "shown": False}
    assert told(**unclear, needed=4123) == (
        f"No difference shown between b and a: macro-F1 +.021 [−.010, .039], p = .30 {where}; about 4,100 examples "
        "would be needed to show one of this size."
    )
    assert told(**unclear, needed=None).endswith("it would take more of them, not more examples.")
    assert "do not agree" in told(p_holm=0.06, shown=False)
    assert told(value=None, reason="b has no probabilities") == (
        "b and a cannot be compared by macro-F1: b has no probabilities."
    )


def test_p_values_and_sizes_are_rounded_without_crossing_the_line() -> None:
    assert [p_text(p) for p in (0.0002, 0.004, 0.02, 0.0496, 0.0504, 0.2, 1.0)] == [
        "p < .001", "p = .004", "p = .02", "p = .050", "p = .050", "p = .20", "p = 1.00",
    ]  # fmt: skip
    assert [rounded(n) for n in (7, 84, 415, 12_345)] == ["7", "84", "420", "12,000"]


@pytest.mark.parametrize("task", TASKS)
def test_files_hold_what_was_found(
    task: str, tiny_corpus: Corpus, written: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [str(written(task, seed, noise)) for seed, noise in ((1, 0.8), (2, 0.6), (3, 0.7))]
    figures, changed = compared(tiny_corpus, paths, judged_task=task)
    output = tmp_path / "out"
    page = Page(write_comparison(figures, changed, "seed: 1", output).read_text(encoding="utf-8"))
    assert page.open == []
    assert {"script", "img", "link"} & set(page.elements) == set()
    for sentence in figures["verdict"]:
        assert sentence in page.text
    assert json.loads((output / "compare.json").read_text()) == figures
    flips = pq.read_table(output / "flips.parquet").to_pylist()
    with (output / "flips.csv").open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [flip["id"] for flip in flips]
    for comparison in figures["comparisons"]:
        kinds = [flip["change"] for flip in flips if flip["model"] == comparison["model"]]
        assert kinds.count("fixed") == comparison["mcnemar"]["fixed"]
        assert kinds.count("broken") == comparison["mcnemar"]["broken"]
        assert sum(v for k, v in comparison["mcnemar"].items() if k != "unit") == 72 * (
            len(tiny_corpus.task(task).labels) if task == "framing" else 1
        )
    gains = [abs(flip["gained"]) for flip in flips if flip["model"] == figures["comparisons"][0]["model"]]
    assert gains == sorted(gains, reverse=True)
    assert comparison_table(figures).row_count == 3 * len(figures["models"][0]["estimates"])


def test_only_slices_whose_interval_excludes_zero_are_coloured(
    tiny_corpus: Corpus, written: Callable[..., Path]
) -> None:
    figures, changed = compared(tiny_corpus, [str(written("topic", 1, 0.75)), str(written("topic", 2, 0.7))])
    found = [each["excludes_zero"] for each in figures["comparisons"][0]["slices"]]
    assert len(found) == 6  # three topics, three sources
    assert 0 < sum(found) < 6
    html = render(figures, changed, "")
    table = html[html.index('<section id="slices"') : html.index('<section id="flips"')]
    assert len(re.findall(r'<td class="(?:shown|worse)"', table)) == sum(found)


def test_a_column_that_is_named_becomes_a_slice_with_a_picture_of_its_own(
    tiny_corpus: Corpus, tiny_rows: list[Row], written: Callable[..., Path], write_jsonl: WriteJsonl
) -> None:
    rows = [{**row, "section": ["home", "world"][i % 2], "desk": None} for i, row in enumerate(tiny_rows)]
    corpus = load_corpus(CorpusConfig(path=str(write_jsonl(rows, "rows.jsonl"))), ["section", "desk"])
    models = [str(written("topic", 1)), str(written("topic", 2))]
    figures, changed = compared(corpus, models)
    found = figures["comparisons"][0]["slices"]
    assert {(each["value"], each["n"]) for each in found if each["kind"] == "section"} == {("home", 36), ("world", 36)}
    assert {each["kind"] for each in found} == {"label", "source", "section"}  # of a desk nobody says anything
    html = render(figures, changed, "")
    assert re.findall(r"<h4>by (\w+)", html) == ["label", "source", "section"]
    same = compared(tiny_corpus, models)[0]["comparisons"][0]["slices"]
    assert [each for each in found if each["kind"] != "section"] == same


def test_nothing_in_a_corpus_or_a_name_can_become_markup(
    tiny_rows: list[Row], write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    rows = [
        {
            **row,
            "id": f"{PAYLOAD}{i}",
            "source": PAYLOAD,
            "text": f"{PAYLOAD} {row['text']}",
            PAYLOAD: PAYLOAD + str(i % 2),
        }
        for i, row in enumerate(tiny_rows)
    ]
    corpus = load_corpus(CorpusConfig(name=PAYLOAD, path=str(write_jsonl(rows, "rows.jsonl"))), [PAYLOAD])
    models = []
    for seed in (1, 2):
        path = tmp_path / f"{seed}.parquet"
        predictions(corpus, "stance", seed).write(path)
        models.append({f"{PAYLOAD}{seed}": str(path)})
    figures, changed = compared(corpus, models, judged_task="stance")
    assert PAYLOAD in {each["kind"] for each in figures["comparisons"][0]["slices"]}
    page = Page(render(figures, changed, PAYLOAD))
    assert {"script", "img"} & set(page.elements) == set()
    assert page.open == []
    assert page.text.count(PAYLOAD) > 5


# --- The command ------------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["slantwise compare", *arguments])
    try:
        compare.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_command_judges_a_model_a_run_and_a_file_on_the_test_split_of_the_run(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = Path(run(make_config(tmp_path, tiny_path, tracking=AWAY)).directory)
    made = Predictions.read(directory / "predictions.parquet")
    theirs, output = write_csv(tmp_path / "theirs.csv", rows_of(made)), tmp_path / "out"
    arguments = (
        f"models=[model={directory},run={directory}/predictions.parquet,both=[{directory}/model,{theirs}]]",
        "corpus=file", f"corpus.path={tiny_path}", f"output={output}", "evaluation.resamples=50", "permutations=99",
    )  # fmt: skip
    assert command(monkeypatch, *arguments) == 0
    figures = json.loads((output / "compare.json").read_text())
    assert {path.name for path in output.iterdir()} == {
        "compare.json", "compare.html", "flips.parquet", "flips.csv", "config.yaml",
    }  # fmt: skip
    then = json.loads((directory / "metrics.json").read_text())["macro_f1"]["value"]
    assert [m["estimates"]["macro_f1"]["value"] for m in figures["models"]] == pytest.approx([then] * 3)
    assert [m["runs"] for m in figures["models"]] == [1, 1, 2]
    assert figures["split"] == "test"
    assert figures["examples"] == len(made)
    error = capsys.readouterr().err
    assert "No difference: run is right and wrong where model is" in error
    assert "model has one run" in error
    assert command(monkeypatch, *arguments) == 2
    assert "expected a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models=[a,b]", "split=dev"], "split=dev; expected one of"),
        (["models=[a,b]", "permutations=0"], "permutations=0"),
        (["models=[a,b]"], "a does not exist; expected a model or run directory"),
        (["models=[a,b]", "metrics=accuracy"], "metrics"),
        ([], "models must be given"),
    ],
)
def test_mistakes_in_the_command_are_told_in_a_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *arguments, "corpus=sample") == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
