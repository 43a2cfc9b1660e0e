"""Errors of the script, whose messages are meant for its user."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read, or used for this run."""


class DivergenceError(RuntimeError):
    """The training loss is no longer a finite number."""


class Interrupted(Exception):  # noqa: N818 - a request to stop is no error
    """The process was asked to stop."""
