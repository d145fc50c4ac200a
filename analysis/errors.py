"""Errors that a person who asks for results sees: what, where, the value, the rule, what to do."""


class FrontError(ValueError):
    """The question about a study has no answer."""


class TicketError(ValueError):
    """A ticket folder cannot be written, or is not what it claims to be."""


class CertificateKept(UserWarning):
    """An earlier certificate says more than the new one, which was not written."""
