"""SET: sparse evolutionary training."""

from __future__ import annotations

from trainers.topology.methods.drop_grow import DropGrow


class Set(DropGrow):
    """Drops by magnitude and grows at random, unless configured otherwise.

    Mocanu et al. 2018, algorithm 1, adds *new* connections: only weights that were inactive before
    the update are candidates. (The paper drops the smallest positive and the largest negative
    weights, each by the same share; here the smallest |w| of the layer.) A layer without inactive
    weights therefore stays as it is.
    """

    @property
    def may_regrow(self) -> bool:
        """Dropped weights stay dropped until a later update."""
        return False
