"""Each scenario runs for a few seeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from quicpair import pinned_aioquic

SEEDS = (1, 2, 3)


@pytest.fixture(autouse=True, params=SEEDS)
def seed(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each scenario runs for each of them."""
    with pinned_aioquic(request.param):
        yield request.param
