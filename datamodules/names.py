"""The one rule for names: what becomes a part of a path, of a script or of a page."""

import re

RULE = (
    "of letters (a to z), digits, '.', '_' and '-', not begin with '.' or '-', and be of at most "
    "64 characters"
)
"""The rule in words, after "must be"."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Whether a text can be a name: of a split, a sweep, an architecture, a modality."""
    return bool(_NAME.fullmatch(text))
