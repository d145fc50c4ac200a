"""What can go wrong in one trial; every message says what, where, the rule and what to do next."""


class TrainerError(ValueError):
    """A trial cannot go on because of something that its author can mend."""


class DataError(TrainerError):
    """A data set is missing, unreadable or outside the rules."""


class ModelError(TrainerError):
    """A network cannot be built for this input, or a user's network breaks its contract."""


class TrainingDiverged(TrainerError):
    """The loss or the weights are no longer finite."""


class TopologyError(TrainerError):
    """A mask cannot be made as asked."""


class UnsupportedLayer(TrainerError):
    """No bound is known for a layer of this network."""


class VerificationError(TrainerError):
    """Verification was asked for something that it cannot decide soundly."""
