"""How much shares that were measured on some examples say about all others."""

from __future__ import annotations

import math
from functools import lru_cache

LEVEL = 0.95
_Z = 1.959964


def wilson(num_successes: int, num_trials: int, z: float = _Z) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 % by default (Wilson 1927)."""
    n, share = num_trials, num_successes / num_trials
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def can_be_told_apart(first: int, second: int, num_examples: int) -> bool:
    """Whether two networks that are right on so many of the same examples differ, at 95 %."""
    return largest_p_value(first, second, num_examples) < 1.0 - LEVEL


@lru_cache(maxsize=65536)
def largest_p_value(first: int, second: int, num_examples: int) -> float:
    """Of the hypothesis that two networks are equally often right, told by their counts alone.

    Both were asked the same examples, so the test is McNemar's, exact and two-sided: of the
    examples on which they disagree, is each right on half? How many those are depends on the
    examples, which counts do not tell. The p-value grows with them, so the largest is where as
    many as the counts allow were decided differently: whatever the examples were, it is not
    larger. (McNemar 1947; Fagerland, Lydersen and Laake 2013 on the exact test.)
    """
    low, high = sorted((first, second))
    only_low = min(low, num_examples - high)
    return _two_sided(only_low, 2 * only_low + high - low)


def _two_sided(count: int, total: int) -> float:
    """2 P(X <= count) for X binomial over `total` fair coins, where count <= total / 2; at most 1.

    Summed from the largest term downwards, until the terms no longer count.
    """
    log_choose = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    term = math.exp(log_choose - total * math.log(2.0))
    tail = 0.0
    for k in range(count, -1, -1):
        tail += term
        if term <= tail * 1e-16:
            break
        term *= k / (total - k + 1)
    return min(1.0, 2.0 * tail)
