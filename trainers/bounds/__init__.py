"""Bounds on what a network can output when its input moves inside a box."""

from trainers.bounds.ball import ball
from trainers.bounds.interval import IntervalPass, IntervalResult

__all__ = ["IntervalPass", "IntervalResult", "ball"]
