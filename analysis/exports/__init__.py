"""The ways in which a ticket ships, each one run, compared with the PyTorch model and timed."""

from analysis.exports.add import add_exports
from analysis.exports.routes import ROUTES

__all__ = ["ROUTES", "add_exports"]
