"""The error a user of the networks sees."""


class EncoderError(ValueError):
    """A network cannot be built or fed as the configuration asks.

    The message says what, where, what was expected and what to do; the command line prints it
    without a traceback.
    """


def first_line(error: Exception) -> str:
    """The kind of an error of another library and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
