"""Intervals of counted shares against scipy and against their definition."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from r2genkit.intervals import wilson


def test_wilson_is_that_of_scipy():
    for whole in (1, 2, 7, 12, 410):
        for part in {0, 1, whole // 2, whole - 1, whole}:
            known = binomtest(part, whole).proportion_ci(0.95, method="wilson")
            assert wilson(part, whole) == pytest.approx((known.low, known.high), abs=1e-12)
    known = binomtest(3, 10).proportion_ci(0.9, method="wilson")
    assert wilson(3, 10, 0.9) == pytest.approx((known.low, known.high))
    assert all(math.isnan(end) for end in wilson(0, 0))


def test_wilson_is_the_set_of_shares_that_the_count_does_not_contradict():
    """Its ends solve (p - x/n)^2 = z^2 p (1 - p) / n."""
    z = 1.959963984540054
    for count, total in ((0, 5), (3, 7), (10, 10), (40, 90)):
        low, high = wilson(count, total)
        assert 0 <= low <= count / total <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                left = (end - count / total) ** 2
                assert left == pytest.approx(z**2 * end * (1 - end) / total)
    assert np.isnan(wilson(0, 0)).all()
