"""What the soak takes for growth, and whom it hears."""

from random import Random
from typing import Any, cast

import pytest
from chaos.samples import Sample
from chaos.service import TENANTS
from chaos.trend import trends
from chaos.visitors import Visitors


@pytest.mark.parametrize(("growth", "verdict"), [(0.0, "flat"), (0.05, "grows")])
def test_a_figure_that_grows_is_told_from_one_that_fluctuates(growth: float, verdict: str) -> None:
    random = Random(1)

    def sample(number: int) -> Sample:
        """One every 5 s for half an hour; the process was started again in the second half."""
        start, at = 1 + (number > 270), number * 5.0
        level = 1e8 * (1 + growth * number / 360) + 5e6 * start + random.gauss(0, 5e5)
        parts = {"gateway": (start, 90.0 + at % 1350, round(level), 50)}
        stored = random.randrange(100, 120)
        return Sample(at, parts, stored, 3 * number, 5 * stored, 60, 3_000_000, 3 * stored, 10**6, 900 * number)

    found = trends([sample(number) for number in range(360)])
    assert found.pop("resident memory of gateway")["verdict"] == verdict
    assert {trend["verdict"] for trend in found.values()} == {"flat"}


def test_the_receiver_of_a_soak_hears_of_every_tenants_jobs() -> None:
    visitors = Visitors(cast(Any, None), seed=1)
    try:
        assert len({visitors._receiver.url(tenant) for tenant in TENANTS}) == len(TENANTS)
    finally:
        visitors._receiver.close()
