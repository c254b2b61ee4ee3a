"""The error a user of the experiments sees."""


class ConfigError(ValueError):
    """A configuration, a sweep or a run folder is not usable.

    The message says what, where, what was expected and what to do; the command line prints it
    without a traceback.
    """
