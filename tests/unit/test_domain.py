"""Stream ids, topics and store names."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gatelog.core.domain import (
    STORE_CHARACTERS_MAX,
    category_of,
    category_of_topic,
    check_store_name,
    check_stream_id,
    topic_of,
    topic_pattern,
)
from gatelog.core.errors import InvalidStreamIdError, SettingsError

KAFKA_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
CATEGORIES = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="-"), min_size=1, max_size=18
)


@pytest.mark.parametrize("stream", ["Order-42", "Größe-1", "a-b-c", "File-dir/with space", "C-" + "é" * 126])
def test_legal_stream_ids(stream: str) -> None:
    assert check_stream_id(stream) == stream


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        ("", "is empty"),
        (42, "not a string"),
        ("Order", "lacks a category"),
        ("-42", "lacks a category"),
        ("Order-", "lacks a category"),
        ("Order-\n", "control character"),
        ("Order-\x00", "control character"),
        ("Order-\x7f", "control character"),
        ("Order-\u2028", "line separator"),
        ("Order-\ud800", "surrogate"),
        ("Order-" + "x" * 250, "has 256 bytes"),
        ("Order-" + "é" * 125, "has 256 bytes"),
        ("é" * 37 + "-1", "category of over 72 bytes"),
    ],
)
def test_illegal_stream_ids(stream: object, why: str) -> None:
    with pytest.raises(InvalidStreamIdError, match=why):
        check_stream_id(stream)  # type: ignore[arg-type] # one of them is no string


@given(st.text(max_size=300))
def test_every_text_is_legal_or_refused(text: str) -> None:
    try:
        check_stream_id(text)
    except InvalidStreamIdError:
        return
    assert len(text.encode()) <= 255
    assert "\n" not in text
    assert category_of(text)
    assert text.startswith(category_of(text) + "-")


@given(CATEGORIES)
def test_every_legal_category_is_a_legal_topic(category: str) -> None:
    check_stream_id(f"{category}-1")
    topic = topic_of("s" * STORE_CHARACTERS_MAX, category)
    assert category_of_topic("s" * STORE_CHARACTERS_MAX, topic) == category
    assert KAFKA_TOPIC.fullmatch(topic)
    assert re.search(topic_pattern("s" * STORE_CHARACTERS_MAX), topic)


@given(CATEGORIES, CATEGORIES)
def test_no_two_categories_share_a_topic(one: str, other: str) -> None:
    assume(one != other)
    # Kafka takes topics that differ only in "." and "_" for the same.
    assert topic_of("s", one).replace(".", "_") != topic_of("s", other).replace(".", "_")


def test_a_pattern_fits_one_store_only() -> None:
    assert not re.search(topic_pattern("shop"), topic_of("shop2", "Order"))
    assert not re.search(topic_pattern("shop"), topic_of("my", "shop.Order"))


@pytest.mark.parametrize("name", ["", "1a", "A", "a_b", "a.b", "a-b", "a" * 33, "a\n", 'a";--'])
def test_illegal_store_names(name: str) -> None:
    with pytest.raises(SettingsError, match="not legal"):
        check_store_name(name)
