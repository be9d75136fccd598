from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from data.examples import LabelledExamples
from slantwise.article import Example
from slantwise.errors import ModelError
from slantwise.features import FeatureSettings, FeatureSpace, Tfidf, char_ngrams, count, ngrams, words
from slantwise.linear import LinearClassifier
from slantwise.task import Task
from training.linear import LinearConfig, fit

STANCE = Task("stance", "multiclass", ("favor", "against", "unrelated"), has_target=True)
PLACES = ("Northfield", "Easton", "Weston", "Southport")


def stance_examples(n: int) -> tuple[list[Example], list[int]]:
    """A text praises its first place and condemns its second; a third place is not in it."""
    examples, gold = [], []
    for i in range(n):
        places = [PLACES[(i + j) % 4] for j in range(3)]
        text = f"Report {i}. The mayor praised {places[0]} for its roads. He condemned {places[1]} for its noise."
        for label, place in enumerate(places):
            examples.append(Example(text, place))
            gold.append(label)
    return examples, gold


def labelled(task: Task, examples: Sequence[Example], gold: Sequence[int]) -> LabelledExamples:
    ids = [str(i) for i in range(len(examples))]
    return LabelledExamples(task, ids, examples, np.array(gold), ids, [None] * len(ids))


@pytest.fixture(scope="module")
def classifier() -> LinearClassifier:
    train, validation = labelled(STANCE, *stance_examples(24)), labelled(STANCE, *stance_examples(8))
    return fit(STANCE, train, validation, LinearConfig(first_label="unrelated", per_target=10, C=[1.0])).classifier


@pytest.fixture
def saved(classifier: LinearClassifier, tmp_path: Path) -> Path:
    classifier.save(tmp_path)
    return tmp_path


def test_word_block_equals_scikit_learns_tfidf() -> None:
    texts = ["the red fox saw the dog", "a dog saw a red red hen", "hens and foxes"]
    ours = Tfidf(FeatureSettings()).fit_transform([ngrams(words(text), 1, 2) for text in texts])
    theirs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+").fit_transform(texts)
    np.testing.assert_allclose((ours @ ours.T).toarray(), (theirs @ theirs.T).toarray(), atol=1e-6)


def test_character_block_equals_scikit_learns_char_wb() -> None:
    texts = ["the red fox", "a red red hen", "hens, foxes"]
    block = Tfidf(FeatureSettings(), lambda token: char_ngrams(token, 2, 5))
    ours = block.fit_transform([text.split() for text in texts])
    theirs = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True).fit_transform(texts)
    np.testing.assert_allclose((ours @ ours.T).toarray(), (theirs @ theirs.T).toarray(), atol=1e-6)


def test_terms_outside_the_index_are_left_out() -> None:
    matrix, _ = count([["a", "b", "a"], ["c"]], {"a": 0})
    assert matrix.toarray().tolist() == [[2.0], [0.0]]


def test_design_in_parts_multiplies_like_the_full_matrix() -> None:
    examples = stance_examples(6)[0]
    design = FeatureSpace(FeatureSettings(per_target=3), has_target=True).fit_transform(examples)
    full = design.take(np.arange(len(design)))
    coefficients = np.random.default_rng(0).normal(size=(full.shape[1], 2)).astype(np.float32)
    np.testing.assert_allclose(design.times(coefficients), full @ coefficients, rtol=1e-4, atol=1e-4)


def test_number_of_features_is_the_width_of_the_matrix() -> None:
    space = FeatureSpace(FeatureSettings(per_target=3), has_target=True)
    design = space.fit_transform(stance_examples(6)[0])
    assert design.take(np.arange(1)).shape[1] == space.n_features


def test_each_distinct_text_is_vectorised_once() -> None:
    examples = [Example("The rain fell.", f"Target {i}") for i in range(5)]
    settings = FeatureSettings(window=0, sentence=False, target=False, relation=False)
    design = FeatureSpace(settings, has_target=True).fit_transform(examples)
    assert [matrix.shape[0] for matrix, _ in design.parts] == [1, 1]


def test_targets_name_is_masked_for_its_own_pair_only() -> None:
    settings = FeatureSettings((1, 1), (0, 0), window=0, sentence=False, target=False, relation=False)
    space = FeatureSpace(settings, has_target=True)
    design = space.fit_transform([Example("Easton beat Weston", "Easton"), Example("Easton beat Weston", "Weston")])
    filled = design.take(np.arange(2)).toarray() > 0
    terms = np.array(space.blocks["word"].terms)
    assert [set(terms[row]) for row in filled] == [{"_target_", "beat", "weston"}, {"_target_", "beat", "easton"}]


def test_frequent_target_has_columns_of_its_own() -> None:
    settings = FeatureSettings((1, 1), (0, 0), window=0, sentence=False, target=False, relation=False, per_target=2)
    space = FeatureSpace(settings, has_target=True)
    design = space.fit_transform([Example("good day", "A"), Example("good night", "A"), Example("good", "B")])
    assert space.own_targets == ["A"]
    # Only "good" occurs in two texts about A.
    assert (design.take(np.arange(3)).toarray()[:, -1] > 0).tolist() == [True, True, False]
    assert space.n_features == len(space.blocks["word"].terms) + 1


def test_same_text_gets_a_stance_for_each_target(classifier: LinearClassifier) -> None:
    examples, gold = stance_examples(40)
    predicted = classifier.predict_proba(examples[-12:]).argmax(axis=1)
    assert predicted.tolist() == gold[-12:]


def test_rows_do_not_depend_on_their_neighbours(classifier: LinearClassifier) -> None:
    examples = stance_examples(6)[0]
    together = classifier.predict_proba(examples)
    alone = np.vstack([classifier.predict_proba([example]) for example in examples])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_probabilities_are_float32_and_sum_to_one(classifier: LinearClassifier) -> None:
    probabilities = classifier.predict_proba([*stance_examples(3)[0], Example("", "Easton"), Example("Rain.", "")])
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_no_examples_give_no_rows(classifier: LinearClassifier) -> None:
    assert classifier.predict_proba([]).shape == (0, 3)


def test_loaded_classifier_predicts_the_same(classifier: LinearClassifier, saved: Path) -> None:
    examples = stance_examples(6)[0]
    np.testing.assert_array_equal(
        LinearClassifier.load(saved).predict_proba(examples), classifier.predict_proba(examples)
    )


@pytest.mark.parametrize("name", ["linear.json", "vocabularies.json", "arrays.npz"])
def test_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=rf"{name}: missing"):
        LinearClassifier.load(saved)


@pytest.mark.parametrize("name", ["linear.json", "vocabularies.json", "arrays.npz"])
def test_damaged_file_is_named(saved: Path, name: str) -> None:
    path = saved / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match=name):
        LinearClassifier.load(saved)


def test_pickled_array_is_refused(saved: Path) -> None:
    np.savez(saved / "arrays.npz", coefficients=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ModelError, match=r"arrays\.npz"):
        LinearClassifier.load(saved)


def test_vocabulary_of_another_model_is_refused(saved: Path) -> None:
    path = saved / "vocabularies.json"
    vocabularies = json.loads(path.read_text(encoding="utf-8"))
    vocabularies["word"].append("another")
    path.write_text(json.dumps(vocabularies), encoding="utf-8")
    with pytest.raises(ModelError, match="word"):
        LinearClassifier.load(saved)


def test_other_format_is_refused(saved: Path) -> None:
    path = saved / "linear.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"format": 99}), encoding="utf-8")
    with pytest.raises(ModelError, match="format 99"):
        LinearClassifier.load(saved)


def test_prediction_side_does_not_import_scikit_learn() -> None:
    code = "import sys, slantwise.linear; sys.exit('sklearn' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_empty_rows_stay_empty() -> None:
    matrix = Tfidf(FeatureSettings()).fit_transform([["a"], [], ["a", "b"], []])
    assert isinstance(matrix, sparse.csr_array)
    assert np.diff(matrix.indptr).tolist() == [1, 0, 2, 0]
