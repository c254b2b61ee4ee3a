"""The error a user of the evaluation sees."""


class EvaluationError(ValueError):
    """A sweep folder, a prediction table or an argument cannot be evaluated.

    The message says what, where, what was expected and what to do; the command line prints it
    without a traceback.
    """
