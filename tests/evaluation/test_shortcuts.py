"""Probes find the shortcuts that were put into a corpus, and none where there is none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest

from data.examples import LabelledExamples
from evaluation.intervals import Estimate
from evaluation.shortcuts import (
    Fold,
    ProbeData,
    ProbeResult,
    behind_words,
    by_category,
    by_words,
    date_parts,
    held_out,
    held_out_verdict,
    notable_shortcuts,
    probe,
    run_constant,
    run_probe,
    share_above,
    text_blocks,
    unbeaten,
    verdict,
)
from slantwise.article import Example
from slantwise.task import Kind, Task

N = 240
SIGNAL = {0: "clinic nurse fever", 1: "goal referee cup"}
FILLER = "market bridge council street river garden window paper letter morning evening winter".split()


def make_data(
    text: Callable[[int, int], str] = lambda i, label: "",
    source: Callable[[int, int], str | None] = lambda i, label: None,
    target: Callable[[int, int], str] | None = None,
    furniture: Callable[[int, int], str] = lambda i, label: "",
    published: Callable[[int, int], str | None] = lambda i, label: None,
    kind: Kind = "multiclass",
    n: int = N,
) -> ProbeData:
    """Examples whose label is drawn by chance; what the functions add to filler words may depend on it."""
    draw = random.Random(7)
    labels = [draw.randrange(2) for _ in range(n)]
    texts = [" ".join([*draw.choices(FILLER, k=12), text(i, label)]) for i, label in enumerate(labels)]
    task = Task("stance" if target else "topic", kind, ("a", "b"), has_target=target is not None)
    gold = np.array(labels, dtype=np.int64)
    matrix = np.stack([gold == 0, gold == 1], axis=1)
    ids = [f"i{i}" for i in range(n)]
    examples = [Example(x, target(i, labels[i]) if target else None) for i, x in enumerate(texts)]
    sources = [source(i, label) for i, label in enumerate(labels)]
    labelled = LabelledExamples(task, ids, examples, gold if kind == "multiclass" else matrix, ids, sources)
    pages = [furniture(i, label) for i, label in enumerate(labels)]
    dates = [published(i, label) for i, label in enumerate(labels)]
    return ProbeData(labelled, np.arange(n), np.arange(n), pages, dates)


def one_fold(data: ProbeData) -> list[Fold]:
    rows = np.arange(len(data.labelled))
    return [Fold(rows[rows % 3 > 0], rows[rows % 3 == 0])]


def run(data: ProbeData, metric: str = "macro_f1") -> dict[str, ProbeResult]:
    return {r.name: r for r in probe(data, one_fold(data), metric, resamples=200)}


def value(result: ProbeResult) -> float:
    assert result.estimate.value is not None
    return result.estimate.value


def by_label(i: int, label: int) -> str:
    """A name that tells the label nine times in ten."""
    return ("alpha post", "omega post")[label if i % 10 else 1 - label]


def test_outlet_that_tells_the_label_is_found() -> None:
    found = run(make_data(source=by_label))
    assert value(found["source"]) > 0.8
    assert found["source"].estimate.low is not None
    assert found["source"].estimate.low > (found["source"].chance or 1)


def test_outlet_without_a_label_is_not_above_chance() -> None:
    found = run(make_data(text=lambda i, label: SIGNAL[label], source=lambda i, label: f"outlet {i % 5}"))
    assert value(found["text"]) > 0.95
    assert value(found["source"]) < 0.62
    assert not notable_shortcuts(list(found.values()))


def test_furniture_that_tells_the_label_is_found_and_its_absence_told() -> None:
    assert value(run(make_data(furniture=by_label))["furniture"]) > 0.8
    assert run(make_data())["furniture"].estimate == Estimate(None, None, None, "cleaning removed nothing")


def test_length_that_tells_the_label_is_found() -> None:
    assert value(run(make_data(text=lambda i, label: "street " * (40 * label)))["length"]) > 0.95


def test_date_that_tells_the_label_is_found() -> None:
    assert value(run(make_data(published=lambda i, label: f"20{10 + label}-03-{1 + i % 28:02}"))["date"]) > 0.95


def test_target_that_tells_the_label_is_found_by_both_probes() -> None:
    found = run(make_data(target=by_label))
    assert value(found["target"]) > 0.8
    assert value(found["target_majority"]) > 0.8
    assert value(found["target_blind"]) < 0.65


def test_text_without_its_target_is_as_good_where_the_text_alone_tells() -> None:
    found = run(make_data(text=lambda i, label: SIGNAL[label], target=lambda i, label: f"target {i % 6}"))
    assert value(found["target_blind"]) > 0.95
    assert value(found["target_majority"]) < 0.62


def test_targets_are_probed_only_where_the_task_has_one() -> None:
    assert not {"target", "target_majority", "target_blind"} & run(make_data()).keys()


def test_outlet_of_a_multilabel_task_is_found() -> None:
    found = run(make_data(source=by_label, kind="multilabel"), "micro_f1")
    assert value(found["source"]) > 0.8


def test_constant_multilabel_answer_is_the_best_set_of_labels() -> None:
    data = make_data(kind="multilabel")
    gold = np.ones((N, 2), dtype=bool)
    data = replace(data, labelled=replace(data.labelled, gold=gold))
    assert run_constant(data, one_fold(data), "micro_f1").predicted.all()


def test_labels_of_the_test_split_change_no_prediction() -> None:
    data = make_data(text=lambda i, label: SIGNAL[label], source=by_label)
    folds = one_fold(data)
    gold = data.gold.copy()
    gold[folds[0].test] = 1 - gold[folds[0].test]
    turned = replace(data, labelled=replace(data.labelled, gold=gold))
    for make in (lambda d: by_category(d, d.labelled.sources), lambda d: by_words(d, text_blocks(d))):
        before, after = (run_probe(d, folds, make(d), "macro_f1").predicted for d in (data, turned))
        assert np.array_equal(before, after)


def test_unseen_category_gets_the_shares_of_training() -> None:
    data = make_data(source=lambda i, label: "seen" if i % 3 else "unseen")
    fold = one_fold(data)[0]
    shares = by_category(data, data.labelled.sources)(fold.train, fold.test)
    expected = np.bincount(data.gold[fold.train], minlength=2) / len(fold.train)
    assert np.allclose(shares, expected)


def test_labels_that_do_not_occur_in_training_are_survived() -> None:
    data = make_data(text=lambda i, label: SIGNAL[label], source=by_label, furniture=by_label)
    gold = np.zeros(N, dtype=np.int64)
    data = replace(data, labelled=replace(data.labelled, gold=gold))
    assert value(run(data, "accuracy")["text"]) == 1


def test_share_is_of_the_score_above_chance() -> None:
    assert share_above(0.6, 0.5, 0.7, "macro_f1") == pytest.approx(0.5)
    assert share_above(1.5, 2.0, 1.0, "log_loss") == pytest.approx(0.5)
    assert share_above(0.6, 0.5, 0.5, "macro_f1") is None
    assert share_above(None, 0.5, 0.7, "macro_f1") is None


def test_difference_from_an_identical_model_is_nothing() -> None:
    data = make_data(source=by_label)
    folds = one_fold(data)
    model = run_probe(data, folds, by_category(data, data.labelled.sources), "macro_f1")
    found = {r.name: r for r in probe(data, folds, "macro_f1", model, resamples=100)}
    difference = found["source"].difference
    assert difference is not None
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_predictions_of_other_examples_are_refused() -> None:
    data = make_data(source=by_label)
    folds = one_fold(data)
    model = run_probe(data, [Fold(folds[0].test, folds[0].train)], by_category(data, data.labelled.sources), "accuracy")
    with pytest.raises(AssertionError, match="not of the folds' test examples"):
        probe(data, folds, "accuracy", model)


def test_holding_sources_out_takes_their_signal_away() -> None:
    data = make_data(text=lambda i, label: f"sign{i % 6}", source=lambda i, label: f"outlet {i % 6}")
    gold = np.array([i % 6 % 2 for i in range(N)], dtype=np.int64)
    data = replace(data, labelled=replace(data.labelled, gold=gold))
    text, source = held_out(data, "macro_f1", resamples=100)
    assert value(text) > 0.95
    assert value(source) < 0.6
    assert "On sources it has not learned from" in held_out_verdict([text, source])[0]


def test_holding_out_two_sources_is_refused_with_the_reason() -> None:
    data = make_data(text=lambda i, label: SIGNAL[label], source=lambda i, label: f"outlet {i % 2}")
    assert held_out(data, "macro_f1", resamples=50)[1].estimate.reason == (
        "only 2 sources; holding out takes at least 3"
    )


def result(name: str, found: float, share: float | None, difference: tuple[float, float, float]) -> ProbeResult:
    nothing = Estimate(0.2, 0.2, 0.2, None)
    low = Estimate(found, found - 0.02, found + 0.02, None)
    return ProbeResult(name, "macro_f1", 100, low, nothing, 0.3, share, Estimate(*difference, None))


SCORE = Estimate(0.7, 0.65, 0.75, None)


def test_verdict_names_the_strongest_shortcut_its_figures_and_a_remedy() -> None:
    results = [result("source", 0.588, 0.72, (0.11, 0.05, 0.2)), result("length", 0.31, 0.03, (0.39, 0.3, 0.5))]
    sentences = verdict(results, SCORE, "the model")
    assert sentences == [
        "72 % of the score above chance is reachable from the outlet alone (macro-F1 .588 [.568, .608], the model "
        ".700, chance .300); split by source (split.group_by=[source])."
    ]


def test_verdict_warns_where_the_model_does_not_clearly_beat_a_shortcut() -> None:
    results = [result("source", 0.68, 0.95, (0.02, -0.03, 0.07))]
    assert "does not clearly beat the outlet alone" in verdict(results, SCORE)[0]
    assert unbeaten([result("source", 0.6, 0.75, (0.1, 0.04, 0.16))], SCORE) is None


@pytest.mark.parametrize(("low", "high", "told"), [(-0.3, -0.1, True), (-0.3, 0.01, False), (0.1, 0.3, False)])
def test_verdict_warns_where_a_plain_bag_of_words_is_clearly_better(low: float, high: float, told: bool) -> None:
    words = result("text", 0.8, 1.2, ((low + high) / 2, low, high))
    warning = behind_words([words], SCORE)
    told_of = "A plain bag of words (macro-F1 .800 [.780, .820]) is clearly better than the model (.700 [.650, .750])."
    assert warning == (told_of if told else None)
    assert (verdict([words], SCORE, "the model")[0] == warning) == told


def test_verdict_measures_no_shortcut_against_a_model_at_chance() -> None:
    at_chance = Estimate(0.31, 0.25, 0.36, None)
    assert len(verdict([result("source", 0.29, -1.0, (0.02, -0.1, 0.1))], at_chance)) == 1
    chance, outlet = verdict([result("source", 0.5, 19.0, (-0.19, -0.3, -0.1))], at_chance)
    assert "does not clearly beat chance" in chance
    assert "does not clearly beat the outlet alone" in outlet


def test_verdict_says_so_where_there_is_no_shortcut() -> None:
    assert verdict([result("length", 0.31, 0.03, (0.39, 0.3, 0.5))], SCORE) == [
        "No shortcut clearly reaches 25 % of the score above chance."
    ]


@pytest.mark.parametrize(
    ("published", "parts"),
    [("2024-03-04", "y2024 m202403 d0"), ("2024-03-05T10:00:00Z", "y2024 m202403 d1"), ("5 March", ""), (None, "")],
)
def test_date_parts(published: str | None, parts: str) -> None:
    assert date_parts(published) == parts


def test_results_are_json() -> None:
    def known(results: Sequence[ProbeResult]) -> str:
        return json.dumps([asdict(r) for r in results], allow_nan=False)

    assert "text" in known(list(run(make_data(source=by_label)).values()))
