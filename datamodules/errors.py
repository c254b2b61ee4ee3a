"""The error a user of the data path sees."""


class DataError(ValueError):
    """Something a user brought (a file, a table, a store, a split) is not usable.

    The message says what, where, what was expected and what to do; the command line prints it
    without a traceback.
    """


class StorageError(DataError):
    """A folder cannot be written: the machine's fault, and no file's that is read."""
