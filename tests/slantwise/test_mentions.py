from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slantwise.mentions import acronym, find_mentions, sentences

SEED = Path(__file__).parents[2] / "seeds" / "000_c69c3c6dcd667f41.txt"


def found(text: str, target: str) -> list[str]:
    return [text[start:end] for start, end in find_mentions(text, target).ranges]


@pytest.fixture(scope="module")
def seed() -> str:
    return SEED.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("target", "forms"),
    [
        ("Syrian Army", {"Syrian Army", "Syrian Army’s"}),
        ("Russia", {"Russia"}),
        ("Hay'at Tahrir al-Sham", {"Hay’at Tahreer Al-Sham", "HTS"}),
        ("Turkey", {"Turkey", "Turkey’s"}),
    ],
)
def test_each_target_of_the_seed_is_found_by_name(seed: str, target: str, forms: set[str]) -> None:
    assert find_mentions(seed, target).kind == "name"
    assert set(found(seed, target)) == forms


def test_the_seeds_acronym_is_found_wherever_it_stands(seed: str) -> None:
    assert found(seed, "Hay'at Tahrir al-Sham").count("HTS") == seed.count("HTS")


def test_marked_span_wins_over_the_name() -> None:
    mentions = find_mentions("He said that Smith left.", "Smith", (0, 2))
    assert (mentions.kind, mentions.ranges) == ("marked", ((0, 2),))


@pytest.mark.parametrize("span", [(3, 3), (40, 50)])
def test_span_that_selects_nothing_gives_way_to_the_name(span: tuple[int, int]) -> None:
    assert find_mentions("So Smith left.", "Smith", span).ranges == ((3, 8),)


def test_name_is_found_at_word_boundaries_only() -> None:
    assert find_mentions("The Iranian team left Tehran.", "Iran").kind == "none"


def test_possessive_and_plural_are_mentions() -> None:
    assert found("The union’s plan. Two unions agreed.", "Union") == ["union’s", "unions"]


def test_transliteration_is_a_mention() -> None:
    assert found("Muhammed Gadafi spoke.", "Mohammed Gaddafi") == ["Muhammed Gadafi"]


def test_short_words_are_not_taken_for_one_another() -> None:
    assert find_mentions("They sell iron.", "Iran").kind == "none"


@pytest.mark.parametrize(
    ("target", "short"),
    [("United Nations", "UN"), ("Bank of England", "BE"), ("Hay'at Tahrir al-Sham", "HTS"), ("EU", "")],
)
def test_acronym_skips_function_words(target: str, short: str) -> None:
    assert acronym(target) == short


def test_acronym_counts_in_capitals_only() -> None:
    assert found("The UN met. It is un-American.", "United Nations") == ["UN"]


def test_dotted_acronym_is_a_mention() -> None:
    assert found("The U.S. troops left.", "United States") == ["U.S."]


def test_short_acronym_within_a_line_of_capitals_is_no_mention() -> None:
    assert find_mentions("THE TOWN IS CLOSED", "Islamic State").kind == "none"


def test_acronym_that_the_text_defines_is_a_mention() -> None:
    assert found("Acme Rail (known to all) and Borealis Power (aka BPX) met. BPX won.", "Borealis Power") == [
        "Borealis Power",
        "BPX",
        "BPX",
    ]


def test_last_word_of_a_name_is_a_mention_after_the_full_name() -> None:
    assert found("Jane Miller came. Miller spoke. A miller worked.", "Jane Miller") == ["Jane Miller", "Miller"]


def test_content_words_stand_in_where_the_name_is_missing() -> None:
    mentions = find_mentions("Then the army moved.", "Syrian Army")
    assert (mentions.kind, mentions.ranges) == ("words", ((9, 13),))


def test_content_words_count_where_most_of_them_stand() -> None:
    text = "Rain fell. A snake bit the emperor in Tokyo. The emperor slept."
    assert found(text, "Emperor was bitten by a snake") == ["snake", "emperor"]


def test_target_of_function_words_has_no_mention() -> None:
    assert find_mentions("This is the one that was.", "the of").kind == "none"


def test_title_and_initials_end_no_sentence() -> None:
    text = "Mr. Hill met George W. Bush. They ate.\nThen rain"
    assert [text[a:b].strip() for a, b in sentences(text)] == ["Mr. Hill met George W. Bush.", "They ate.", "Then rain"]


@given(st.text(max_size=80), st.text(max_size=20))
def test_ranges_are_sorted_disjoint_and_inside_the_text(text: str, target: str) -> None:
    ends = 0
    for start, end in find_mentions(text, target).ranges:
        assert ends <= start < end <= len(text)
        ends = end


@given(st.text(alphabet="Ab. !?\n\"'", max_size=60))
def test_sentences_cover_all_that_is_not_blank(text: str) -> None:
    assert "".join(text[a:b] for a, b in sentences(text)).split() == text.split() or not text.strip()
