"""Windows: what of an article an encoder gets to read, token by token."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from slantwise.article import Example
from slantwise.errors import ConfigurationError, ScoringError
from slantwise.windows import Encoded, Windower, Windowing, cut_facts

# Each word of an article is one token, and no two are the same, so that a token says where it stood.
SPECIALS = ["<pad>", "<s>", "</s>"]
WORDS = [f"w{i}" for i in range(700)]
VOCABULARY = {word: i for i, word in enumerate([*SPECIALS, "a", "b", "City", "Mayor", "x", *WORDS])}
TEMPLATES = {
    "bert": ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
    "none": ("$A", "$A $B"),
}


def tokenizer(template: str = "bert") -> Tokenizer:
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="x"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single, pair = TEMPLATES[template]
    specials = [(name, VOCABULARY[name]) for name in SPECIALS]
    made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=specials)
    return made


def article(n: int, mentions: dict[int, str] | None = None) -> str:
    """n words, those at the given places replaced."""
    return " ".join((mentions or {}).get(i, WORDS[i]) for i in range(n))


def encode(examples: list[Example], template: str = "bert", pair: bool = True, **settings: Any) -> Encoded:
    return Windower(tokenizer(template), Windowing(**{"max_tokens": 64, "overlap": 8, **settings})).encode(
        examples, pair
    )


def windows(encoded: Encoded) -> list[list[int]]:
    return [encoded.ids[a:b].tolist() for a, b in zip(encoded.ends[:-1], encoded.ends[1:], strict=True)]


def places(encoded: Encoded) -> list[list[int]]:
    """For each window the places of the article's words in it."""
    first = VOCABULARY["w0"]
    return [[token - first for token in window if token >= first] for window in windows(encoded)]


SETTINGS = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(32, 100),
        "long": st.sampled_from(["windows", "head", "head_tail"]),
        "overlap": st.integers(0, 15),
        "max_windows": st.integers(1, 6),
    }
)
LENGTHS = st.lists(st.integers(0, 600), min_size=1, max_size=4)
TARGETS = st.none() | st.integers(1, 10).map(lambda n: " ".join(["City"] * n))


# --- nothing is lost without a word ---


@given(LENGTHS, TARGETS, SETTINGS)
def test_every_token_is_in_a_window_or_counted_as_cut(lengths: list[int], target: str | None, settings: Any) -> None:
    encoded = encode([Example(article(n), target) for n in lengths], **settings)
    held: list[set[int]] = [set() for _ in lengths]
    for owner, found in zip(encoded.owners.tolist(), places(encoded), strict=True):
        held[owner] |= set(found)
    missing = [n - len(found) for n, found in zip(lengths, held, strict=True)]
    assert (encoded.tokens, encoded.cut_tokens) == (sum(lengths), sum(missing))
    assert encoded.cut_articles == sum(m > 0 for m in missing)


@given(LENGTHS, TARGETS, SETTINGS)
def test_no_window_exceeds_max_tokens(lengths: list[int], target: str | None, settings: Any) -> None:
    encoded = encode([Example(article(n), target) for n in lengths], **settings)
    assert encoded.lengths.max() <= settings["max_tokens"]


@given(LENGTHS, SETTINGS)
def test_no_article_has_more_than_max_windows(lengths: list[int], settings: Any) -> None:
    encoded = encode([Example(article(n)) for n in lengths], **settings)
    assert np.bincount(encoded.owners, minlength=len(lengths)).max() <= settings["max_windows"]


@given(st.integers(0, 600), st.integers(1, 10), SETTINGS)
def test_the_target_is_whole_at_the_end_of_every_window(n: int, length: int, settings: Any) -> None:
    encoded = encode([Example(article(n), " ".join(["City"] * length))], **settings)
    ending = [VOCABULARY["City"]] * length + [VOCABULARY["</s>"]]
    for window, second in zip(windows(encoded), encoded.second.tolist(), strict=True):
        assert window[second:] == ending


def test_an_article_that_fits_exactly_is_one_window_and_one_word_more_is_two() -> None:
    encoded = encode([Example(article(62)), Example(article(63))])
    assert encoded.owners.tolist() == [0, 1, 1]


# --- which parts of a long article ---


@given(st.integers(63, 600), st.integers(0, 31))
def test_windows_cover_start_and_end_and_share_the_overlap(n: int, overlap: int) -> None:
    found = places(encode([Example(article(n))], overlap=overlap, max_windows=99))
    assert (found[0][0], found[-1][-1]) == (0, n - 1)
    for before, after in pairwise(found):
        assert len(set(before) & set(after)) >= overlap
        assert before[0] < after[0]


def test_of_a_very_long_article_the_windows_are_evenly_spread() -> None:
    starts = [found[0] for found in places(encode([Example(article(662))], max_windows=4))]
    assert starts == [0, 200, 400, 600]


def test_head_keeps_the_start() -> None:
    assert places(encode([Example(article(300))], long="head")) == [list(range(62))]


def test_head_tail_keeps_a_quarter_from_the_start_and_the_rest_from_the_end() -> None:
    assert places(encode([Example(article(300))], long="head_tail")) == [[*range(15), *range(300 - 47, 300)]]


MENTIONS = st.sets(st.integers(0, 598), min_size=1, max_size=4)


@given(MENTIONS, st.integers(32, 100), st.integers(0, 15))
def test_windows_lie_around_the_mentions(at: set[int], max_tokens: int, overlap: int) -> None:
    text = article(600, {place + step: word for place in at for step, word in enumerate(("City", "Mayor"))})
    found = windows(encode([Example(text, "City Mayor")], max_tokens=max_tokens, overlap=overlap))
    tokens = [VOCABULARY[word] for word in text.split()]
    mentions = {i for i in range(599) if text.split()[i : i + 2] == ["City", "Mayor"]}
    ranges = []
    for window in found:
        words = window[1:-4]  # <s> article </s> City Mayor </s>
        start = next(i for i in range(600) if tokens[i : i + len(words)] == words)
        ranges.append(range(start, start + len(words)))
    assert all(any(mention in r for r in ranges) for mention in mentions), "a mention that no window holds"
    assert all(any(mention in r for mention in mentions) for r in ranges), "a window without a mention"


def test_a_single_mention_has_text_on_both_sides() -> None:
    (found,) = places(encode([Example(article(600, {300: "City", 301: "Mayor"}), "City Mayor")]))
    assert found[0] < 285
    assert found[-1] > 315


def test_of_a_name_that_is_spoken_of_throughout_only_max_windows_are_read() -> None:
    text = article(600, dict.fromkeys(range(0, 600, 20), "City"))
    assert len(windows(encode([Example(text, "City")], max_windows=3))) == 3


def test_a_marked_mention_decides_where_the_window_lies() -> None:
    text = article(600, {100: "City", 500: "City"})
    at = text.rindex("City")
    (found,) = places(encode([Example(text, "City", (at, at + 4))]))
    assert found[0] > 400


def test_a_target_that_is_never_mentioned_leaves_the_windows_evenly_spread() -> None:
    found = places(encode([Example(article(300), "City")], max_windows=99))
    assert (found[0][0], found[-1][-1]) == (0, 299)


def test_without_pairs_the_target_is_in_no_window_but_its_mentions_still_decide() -> None:
    encoded = encode([Example(article(600, {300: "City", 301: "Mayor"}), "City Mayor")], pair=False)
    assert encoded.second.tolist() == encoded.lengths.tolist()
    (found,) = places(encoded)
    assert found[0] > 200
    assert found[-1] < 400


# --- special tokens ---


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_short_article_is_encoded_as_the_tokenizer_does(template: str) -> None:
    text, made = article(9), tokenizer(template)
    assert windows(encode([Example(text)], template)) == [made.encode(text).ids]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_short_pair_is_encoded_as_the_tokenizer_does(template: str) -> None:
    text, made = article(9), tokenizer(template)
    assert windows(encode([Example(text, "City Mayor")], template)) == [made.encode(text, "City Mayor").ids]


def test_the_second_segment_begins_where_the_tokenizer_says() -> None:
    encoded = encode([Example(article(9), "City Mayor"), Example(article(9))])
    expected = tokenizer().encode(article(9), "City Mayor").type_ids
    segments = encoded.padded(np.array([0]), 0)[2]
    assert segments[0].tolist() == expected
    assert encoded.padded(np.array([1]), 0)[2].sum() == 0


def test_special_tokens_that_an_article_writes_out_are_text() -> None:
    made = tokenizer()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["</s>"])
    assert VOCABULARY["</s>"] in made.encode("w1 </s> w2", add_special_tokens=False).ids
    encoded = Windower(made, Windowing(64, overlap=8)).encode([Example("w1 </s> w2", "City")])
    assert windows(encoded)[0].count(VOCABULARY["</s>"]) == 2  # those of the template


def test_truncation_and_padding_of_the_tokenizer_are_switched_off() -> None:
    made = tokenizer()
    made.enable_truncation(5)
    made.enable_padding(length=200)
    encoded = Windower(made, Windowing(64, overlap=8)).encode([Example(article(30))])
    assert encoded.lengths.tolist() == [32]


# --- the borders ---


def test_an_empty_text_is_one_window_of_special_tokens() -> None:
    encoded = encode([Example(""), Example("", "City")])
    ends = VOCABULARY["<s>"], VOCABULARY["</s>"]
    assert windows(encoded) == [list(ends), [*ends, VOCABULARY["City"], ends[1]]]
    assert (encoded.tokens, encoded.cut_articles) == (0, 0)


def test_no_examples_give_no_windows() -> None:
    encoded = encode([])
    assert (encoded.n, windows(encoded), encoded.starts.tolist()) == (0, [], [0])


def test_a_target_that_leaves_no_room_is_an_error_that_names_it() -> None:
    with pytest.raises(ScoringError, match=r"City City.* has 46 tokens and leaves room for 15 .* max_tokens=64"):
        encode([Example(article(9), " ".join(["City"] * 46))])


def test_the_longest_target_that_leaves_room_is_accepted() -> None:
    encoded = encode([Example(article(100), " ".join(["City"] * 45))])
    assert {len(found) for found in places(encoded)} == {16}


def test_owners_stand_in_the_order_of_the_examples() -> None:
    encoded = encode([Example(article(n)) for n in (5, 200, 0, 100)])
    assert encoded.owners.tolist() == [0, 1, 1, 1, 1, 2, 3, 3]
    assert encoded.starts.tolist() == [0, 1, 5, 6, 8]


def test_more_examples_than_one_chunk_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    import slantwise.windows

    examples = [Example(article(n), target) for n in (5, 200, 9, 100, 7) for target in (None, "City", "Mayor")]
    whole = encode(examples)
    monkeypatch.setattr(slantwise.windows, "CHUNK", 4)
    assert windows(encode(examples)) == windows(whole)


@given(LENGTHS, TARGETS, st.randoms(use_true_random=False))
def test_padded_windows_hold_their_tokens_in_front_and_the_pad_behind(
    lengths: list[int], target: str | None, random: Any
) -> None:
    encoded = encode([Example(article(n), target) for n in lengths])
    chosen = np.array(random.choices(range(len(encoded.owners)), k=5))
    ids, mask, segments = encoded.padded(chosen, 7)
    assert ids.shape == mask.shape == segments.shape == (5, encoded.lengths[chosen].max())
    for row, number in enumerate(chosen):
        window, second = windows(encoded)[number], int(encoded.second[number])
        assert ids[row].tolist() == window + [7] * (ids.shape[1] - len(window))
        assert mask[row].tolist() == [1] * len(window) + [0] * (ids.shape[1] - len(window))
        assert np.flatnonzero(segments[row]).tolist() == list(range(second, len(window)))


def test_cut_facts_say_what_share_is_cut() -> None:
    encoded = encode([Example(article(62)), Example(article(124)), Example(article(62)), Example("")], long="head")
    assert cut_facts(encoded) == {"cut_articles": 0.25, "cut_tokens": 0.25, "windows_per_example": 1.0}


def test_all_mistakes_of_a_windowing_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Windowing(max_tokens=20, long="tail", overlap=11, max_windows=0)
    for part in ("max_tokens=20", "long='tail'", "overlap=11", "max_windows=0"):
        assert part in str(raised.value)


def test_only_windows_have_an_overlap_that_must_fit() -> None:
    Windowing(64, "windows", overlap=32)
    Windowing(48, "head", overlap=32)
    with pytest.raises(ConfigurationError, match="overlap=32; expected 0 to half of max_tokens=48"):
        Windowing(48, "windows", overlap=32)
