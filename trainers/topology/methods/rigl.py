"""RigL: rigging the lottery."""

from __future__ import annotations

from trainers.topology.methods.drop_grow import DropGrow


class RigL(DropGrow):
    """Drops by magnitude and grows by the dense gradient, unless configured otherwise.

    Evci et al. 2020, algorithm 1: whatever is not kept is a candidate, so a weight that was just
    dropped can come back at once. It then keeps its value and its optimizer state, because only
    weights that were inactive before are initialised.
    """

    @property
    def may_regrow(self) -> bool:
        """Dropped weights compete for growth."""
        return True
