"""Options of a command from the signature of the function that it calls."""

import argparse
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import DocstringStyle, parse


def add_options(parser: argparse.ArgumentParser, function: Callable[..., Any], names: str) -> None:
    """Offer parameters of a function as options; type, default and help are the function's own.

    Args:
        parser: Parser of the command.
        function: With annotations and a Google docstring.
        names: The parameters offered, in order: `out` by position, `hashes+:hash` for one or more
            of them, each shown as HASH, `store?` by position or not at all; `--seed` by name, which
            must be given if it has no default,
            `--num_folds:folds` under another name, `--unseal_test?` with a value or without, which
            then is True.
    """
    parameters, types = inspect.signature(function).parameters, get_type_hints(function)
    documented = parse(function.__doc__ or "", DocstringStyle.GOOGLE)
    helps = {entry.arg_name: entry.description or "" for entry in documented.params}
    for name in names.split():
        marked, _, shown = name.removeprefix("--").partition(":")
        parameter = marked.rstrip("?+")
        shown = (shown or parameter).replace("_", "-")
        settings = _by_type(types[parameter])
        settings["help"] = _help(helps[parameter])
        if marked.endswith("+"):
            settings |= {"nargs": "+", "type": str}
        if marked.endswith("?"):
            settings |= {"nargs": "?", "const": True}
        if not name.startswith("--"):
            parser.add_argument(parameter, metavar=shown.upper(), **settings)
            continue
        default = parameters[parameter].default
        if default is inspect.Parameter.empty:
            settings["required"], default = True, None
        if default is not None and default is not False and default not in ("", ()):
            text = f"{default:.3g}" if isinstance(default, float) else str(default)
            settings["help"] += f" (default: {text})"
        if "type" in settings:
            settings["metavar"] = "PATH" if settings["type"] is Path else shown.upper()
        parser.add_argument(f"--{shown}", dest=parameter, default=default, **settings)


def _help(description: str) -> str:
    """A description as argparse's own: from a small letter to no full stop."""
    text = " ".join(description.split()).rstrip(".").replace("%", "%%")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _by_type(annotation: Any) -> dict[str, Any]:
    """How argparse makes a value of a text, or which texts there are."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        # What can be typed: neither None nor an object that only Python can make.
        typed = (a for a in arguments if get_origin(a) is Literal or a in (int, float, str, Path))
        return _by_type(next(typed))
    if annotation is bool:
        return {"action": "store_true"}
    if origin is Literal:
        return {"choices": arguments}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"type": lambda text: [part for part in text.split(",") if part]}
    return {"type": annotation}
