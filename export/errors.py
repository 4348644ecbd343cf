"""The errors of exporting, in the tree of rofo.errors."""

from rofo.errors import RofoError


class CheckpointError(RofoError, ValueError):
    """The checkpoint or its yaml cannot be turned into a network."""

    exit_code = 4


class ParityError(RofoError, RuntimeError):
    """The exported graph does not do what the network does; nothing is written."""

    exit_code = 5


class DownloadError(CheckpointError):
    """The file of a checkpoint cannot be had, or is not the one that was asked for; none is left."""
