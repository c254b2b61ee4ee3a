"""What the reference pages are made from: YAML files with comments, dataclasses, constructors."""

import inspect
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse

REQUIRED = "required"

_WORDS = {
    int: "integer", float: "number", bool: "true or false", str: "text", Path: "path",
    type(None): "null", Any: "anything",
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """A key of a YAML file, or an argument of a constructor.

    Attributes:
        name: Dotted path, or the argument's name.
        type: In words; "" where nothing is known of it.
        default: As YAML writes it, in backticks; or `required`.
        text: What it means.
    """

    name: str
    type: str
    default: str
    text: str


def yaml_keys(path: Path) -> Iterator[Key]:
    """Each leaf of a YAML file, in order; a class with its `init_args` is one leaf.

    A comment stands at the end of its key's line, goes on below it in lines of its own that are
    indented further than the key, or stands above the key in lines of its own as far left.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    root: Any = yaml.compose("\n".join(lines))
    for name, key, value in _leaves(root):
        row, column = key.start_mark.line, key.start_mark.column
        above, below = row - 1, row + 1
        while above >= 0 and _is_comment(lines[above], most=column):
            above -= 1
        while below < len(lines) and _is_comment(lines[below], least=column + 1):
            below += 1
        words = [comment_of(line) for line in lines[above + 1 : below]]
        yield Key(name, "", f"`{_written(value)}`", " ".join(filter(None, words)))


def comment_of(line: str) -> str:
    """The comment that a line of YAML ends with, or is; "" for none."""
    match = re.search(r"(?:^|\s)#\s?(.*)$", line)
    return match[1].strip() if match else ""


def parameters(cls: type) -> dict[str, Key]:
    """The settings of a class, those of its bases included where it hands `**settings` on."""
    texts: dict[str, str] = {}
    for base in cls.__mro__:
        texts = _texts(base) | texts
    found: dict[str, Key] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        constructor: Any = vars(base)["__init__"]
        hints = get_type_hints(constructor)
        signature = list(inspect.signature(constructor).parameters.values())[1:]
        for each in signature:
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                default = REQUIRED if each.default is each.empty else shown(each.default)
                key = Key(each.name, words_of(hints[each.name]), default, texts.get(each.name, ""))
                found.setdefault(each.name, key)
        if all(each.kind != each.VAR_KEYWORD for each in signature):
            break
    return found


def dataclass_keys(cls: type, prefix: str = "") -> Iterator[tuple[str, type, list[Key]]]:
    """A dataclass with its fields, then each that it holds: dotted place, class, keys."""
    hints, texts, inner = get_type_hints(cls), _texts(cls), []
    keys = []
    for field in fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        held = [each for each in (hint, *get_args(hint)) if is_dataclass(each)]
        kind = "the keys below" + " or null" * (type(None) in get_args(hint))
        keys.append(
            Key(name, kind if held else words_of(hint), _default(field), texts.get(field.name, ""))
        )
        inner += [(name, each) for each in held]
    yield prefix.removesuffix("."), cls, keys
    for name, each in inner:
        yield from dataclass_keys(each, f"{name}.")  # type: ignore[arg-type]


def words_of(hint: Any) -> str:
    """A type as a reader of YAML needs it: `integer or null`."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        # A bare `off` reaches Python as False; it is listed by its name.
        return _or([f"`{plain(value)}`" for value in inner if value is not False])
    if origin in (Union, types.UnionType):
        return _or([words_of(each) for each in inner])
    if origin is tuple:
        listed = len(inner) == 2 and inner[1] is Ellipsis
        return f"list of {words_of(inner[0])}" if listed else f"{len(inner)} × {words_of(inner[0])}"
    if hint is dict or origin in (dict, Mapping):
        return "mapping"
    return f"class ({hint.__name__})" if inspect.isclass(hint) else "class"


def summary(cls: type) -> str:
    """The first sentence of a class's docstring, on one line."""
    return _clean(parse(cls.__doc__ or "").short_description)


def shown(value: Any) -> str:
    """A default as YAML writes it, in backticks."""
    return "as below" if is_dataclass(value) else f"`{plain(value)}`"


def plain(value: Any) -> str:
    """A Python value as YAML writes it, on one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value or '""'
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n...")[0].strip()


def _texts(cls: type) -> dict[str, str]:
    described = parse(cls.__doc__ or "").params
    return {entry.arg_name: _clean(entry.description) for entry in described}


def _clean(text: str | None) -> str:
    """Docstring text as Markdown on one line."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text or "")
    return " ".join(text.replace("``", "`").split())


def _default(field: "Field[Any]") -> str:
    if field.default_factory is not MISSING:
        return shown(field.default_factory())
    return REQUIRED if field.default is MISSING else shown(field.default)


def _leaves(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        held = {each.value for each, _ in value.value} if _is_block(value) else set()
        if held and "class_path" not in held:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, key, value


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) and not node.flow_style


def _is_comment(line: str, *, least: int = 0, most: int = 1000) -> bool:
    match = re.match(r"\s*#", line)
    return bool(match) and least <= line.index("#") <= most


def _written(node: yaml.Node) -> str:
    """A value as the file has it, on one line; a class as `path {init_args}`."""
    if _is_block(node):
        held = {key.value: value for key, value in node.value}
        path = held["class_path"].value
        arguments = held.get("init_args")
        if arguments is None or _is_block(arguments):
            return str(path)
        return f"{path} {_written(arguments)}"
    buffer = node.start_mark.buffer or ""
    text = str(buffer)[node.start_mark.pointer : node.end_mark.pointer]
    return " ".join(text.rstrip("\0").split())


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
