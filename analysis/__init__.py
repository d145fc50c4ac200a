"""What came out of a study: its front, its tickets, their export and their certificates."""

from analysis.certificate import Certificate, verify_ticket
from analysis.errors import FrontError, TicketError
from analysis.export import export_ticket
from analysis.front import Front, load_front
from analysis.graft import GraftReport, graft_ticket
from analysis.pareto import pareto_front
from analysis.plots import plot_front
from analysis.plots_curve import plot_curve
from analysis.registry import register_ticket
from analysis.report import write_report
from analysis.retrain import RetrainReport, retrain_ticket
from analysis.ticket import Ticket, load_ticket, save_ticket

__all__ = [
    "Certificate",
    "Front",
    "FrontError",
    "GraftReport",
    "RetrainReport",
    "Ticket",
    "TicketError",
    "export_ticket",
    "graft_ticket",
    "load_front",
    "load_ticket",
    "pareto_front",
    "plot_curve",
    "plot_front",
    "register_ticket",
    "retrain_ticket",
    "save_ticket",
    "verify_ticket",
    "write_report",
]
