"""Pages of several sources, merged on position, are what sorting all of it would give."""

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatelog.producer.merging import Page, by_position


def source(positions: Sequence[int]) -> Page:
    async def page(after: int, limit: int) -> Any:  # noqa: ANN401 - rows, as asyncpg's records are asked
        return [{"position": position} for position in positions if position > after][:limit]

    return page


@given(st.dictionaries(st.integers(1, 200), st.integers(0, 3)), st.integers(1, 20))
def test_nothing_is_lost_doubled_or_out_of_order(owners: dict[int, int], rows_max: int) -> None:
    held = [sorted(position for position, owner in owners.items() if owner == number) for number in range(4)]

    async def read() -> list[list[int]]:
        return [
            [row["position"] for row in page] async for page in by_position([source(each) for each in held], rows_max)
        ]

    pages = asyncio.run(read())
    assert [position for page in pages for position in page] == sorted(owners)
    assert all(0 < len(page) <= max(rows_max, len(held)) for page in pages)
