"""Intervals of shares that are counted, not resampled."""

from __future__ import annotations

import math

from scipy.stats import norm


def wilson(part: float, whole: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of independent trials (Wilson 1927).

    Unlike p ± 2 SE it never leaves [0, 1], and it has a width where none or all count.

    Args:
        part: trials that count; may be a fraction where a vote is shared.
        whole: all trials.
        level: coverage.

    Returns:
        (low, high); (NaN, NaN) without any trial.
    """
    if whole <= 0:
        return math.nan, math.nan
    z = float(norm.ppf(0.5 + level / 2))
    share = part / whole
    middle = share + z * z / (2 * whole)
    half = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole**2))
    scale = 1 + z * z / whole
    # Rounding would leave a hair between the end and a share of exactly 0 or 1.
    low = 0.0 if part == 0 else (middle - half) / scale
    high = 1.0 if part == whole else (middle + half) / scale
    return max(0.0, low), min(1.0, high)
