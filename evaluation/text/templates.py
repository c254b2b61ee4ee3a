"""Templates of plain text, whose fields must all be given."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from evaluation.text.format import number


def templates() -> Environment:
    """Those beside this file by name, or others from strings; `number` is a filter."""
    environment = Environment(
        loader=PackageLoader("evaluation", "text"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = number
    return environment
