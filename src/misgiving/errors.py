"""Failures that are explained to a person in one line: what is wrong, where, and what helps."""


class ExplainedError(Exception):
    """A failure whose message names culprit and remedy; the command line prints only that."""

    exit_code = 1


class UsageError(ExplainedError, ValueError):
    """An argument or option has a value that cannot be used."""

    exit_code = 2


class DataError(ExplainedError, ValueError):
    """A file, folder or table cannot be used as it is."""


class TrainingError(ExplainedError, RuntimeError):
    """Training cannot go on."""


class StoppedError(ExplainedError):
    """The person, or the system, has stopped the command."""

    exit_code = 130


class ProcessLostError(ExplainedError):
    """Another process of a command has ended, so that this one cannot go on."""
