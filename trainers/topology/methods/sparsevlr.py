"""SparseVLR: verified-robust networks from a random sparse start."""

from __future__ import annotations

from trainers.topology.methods.drop_grow import DropGrow


class SparseVlr(DropGrow):
    """Drops by magnitude and grows by the gradient of the certified loss, unless configured.

    Our reading of SparseVLR / VeriSparse (Sahu et al., arXiv:2211.09945), of which only abstracts
    are public: a random sparse network, trained by a certified loss, whose weights (or, with
    granularity: unit, channels and neurons) are replaced at intervals. Rules and figures are ours.
    """

    @property
    def may_regrow(self) -> bool:
        """Dropped weights compete for growth, as in RigL."""
        return True
