"""The fast ways give what the plain ones give: words, n-grams, character n-grams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from slantwise.features import TOKEN, FeatureSettings, Tfidf, char_ngrams, count, ngrams, words
from slantwise.ngrams import NgramIndex, PairTable

TOKENS = st.lists(st.sampled_from(["a", "b", "c", "d", "it's", "_target_", "!"]), max_size=12)


@given(st.text(st.sampled_from("aZé9_ '’!?.,-\n\t\u00a0\u2028“”—–…‘•ßİ²£ж\x1c\x85")) | st.text())
@example("'quoted' rock''n'roll it's '' ' don’t! “so”—yes… £5 é")
def test_words_are_those_of_the_expression(text: str) -> None:
    assert words(text) == TOKEN.findall(text.lower().replace("’", "'"))


@given(documents=st.lists(TOKENS, max_size=6), known=st.lists(TOKENS, max_size=6), longest=st.integers(1, 4))
def test_ngrams_are_counted_as_if_they_were_made(
    documents: list[list[str]], known: list[list[str]], longest: int
) -> None:
    terms = list(dict.fromkeys(term for document in known for term in ngrams(document, 1, longest)))[::-2]
    plain = count([ngrams(d, 1, longest) for d in documents], {term: i for i, term in enumerate(terms)})[0]
    fast = NgramIndex(terms).count(documents)
    assert fast.shape == (len(documents), len(terms))
    np.testing.assert_array_equal(fast.toarray(), plain.toarray())


def test_terms_may_leave_out_the_words_they_begin_with() -> None:
    counts = NgramIndex(["a b c", "b c"]).count([["a", "b", "c", "a", "b"], ["c", "b"], ["b", "c"]])
    assert counts.toarray().tolist() == [[1, 1], [0, 0], [0, 1]]


def test_ngrams_do_not_span_documents() -> None:
    assert NgramIndex(["a b"]).count([["a"], ["b"], [], ["a", "b"]]).toarray().ravel().tolist() == [0, 0, 0, 1]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**62), unique=True, max_size=300), st.lists(st.integers(0, 2**62), max_size=50))
def test_a_table_finds_its_keys_and_no_others(keys: list[int], others: list[int]) -> None:
    place = {key: i for i, key in enumerate(keys)}
    asked = [*keys, *others, *(key + 1 for key in keys)]
    found = PairTable(np.array(keys, np.int64)).find(np.array(asked, np.int64))
    assert found.tolist() == [place.get(key, -1) for key in asked]


def test_a_table_with_colliding_keys() -> None:
    keys = np.arange(0, 1 << 20, 1 << 10, dtype=np.int64)
    assert PairTable(keys).find(keys[::-1]).tolist() == list(range(len(keys)))[::-1]


def test_what_a_term_was_split_into_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tfidf, "KEPT", 5)
    texts = [[f"word{i}", f"word{i + 1}", "the"] for i in range(20)]
    block = Tfidf(FeatureSettings(), lambda token: char_ngrams(token, 2, 4))
    fitted = block.fit_transform(texts)
    again = np.vstack([block.transform(texts[i : i + 3]).toarray() for i in range(0, 20, 3)])
    np.testing.assert_allclose(again, fitted.toarray(), atol=1e-6)
    assert len(block._split) <= 5 + 3 * 3


def test_a_document_gets_the_same_row_in_whatever_company() -> None:
    texts = [["red", "fox", "red"], ["the", "fox"], ["hens"], ["red", "hens", "the", "the"]]
    for block in (
        Tfidf(FeatureSettings(), lengths=(1, 2)), Tfidf(FeatureSettings(), lambda token: char_ngrams(token, 2, 4))
    ):  # fmt: skip
        block.fit_transform(texts)
        together = block.transform(texts).toarray()
        alone = np.vstack([block.transform([text]).toarray() for text in reversed(texts)])[::-1]
        np.testing.assert_array_equal(together, alone)


def test_blocks_equal_scikit_learns_on_unseen_texts() -> None:
    texts = ["the red fox saw the dog", "a dog saw a red red hen", "hens and foxes"]
    unseen = ["a red fox saw hens", "nothing of it", "the the the dog"]
    word = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+").fit(texts)
    char = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit(texts)
    ours = Tfidf(FeatureSettings(), lengths=(1, 2)), Tfidf(FeatureSettings(), lambda token: char_ngrams(token, 2, 4))
    for block, theirs, split in zip(ours, (word, char), (words, str.split), strict=True):
        block.fit_transform([split(text) for text in texts])
        found = block.transform([split(text) for text in unseen]).toarray()
        order = [theirs.vocabulary_[term] for term in block.terms]
        np.testing.assert_allclose(found, theirs.transform(unseen).toarray()[:, order], atol=1e-6)
