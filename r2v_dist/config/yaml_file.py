"""From a YAML file and `key.path=value` overrides to a mapping; whatever is wrong is one line of a
UsageError.

Scalars are read as YAML 1.2 reads them: `on` and `1:30` are text. What people disagree about
(`010`) is refused.
"""

import re
import reprlib
from pathlib import Path
from typing import Any

import yaml

from r2v_dist.errors import UsageError

_LARGEST_FILE = 1 << 20
_LONGEST_NUMBER = 30
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20
_SHORT.maxlevel = 3


class WrittenInt(int):
    """An integer that knows how it was written."""

    text: str


class WrittenFloat(float):
    """A number that knows how it was written."""

    text: str


def shown(value: object) -> str:
    """A value of any size in one line."""
    return _SHORT.repr(value)


def read_mapping(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The file's keys with the overrides applied; the values of overrides are YAML."""
    raw = _parse(_read_text(path), str(path))
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: a run config is a mapping of keys")
    seen = set[str]()
    for override in overrides:
        key = override.partition("=")[0]
        if key in seen:
            raise UsageError(f"override {override!r}: {key} is given twice; keep one")
        seen.add(key)
        _apply(raw, override)
    return raw


class _Loader(yaml.SafeLoader):
    """Knows the scalars of YAML 1.2's core schema and merge keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 -- PyYAML copies it when a resolver is added


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), list(_first)
    )


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> WrittenInt:
    number = WrittenInt(loader.construct_yaml_int(node))
    number.text = node.value
    return number


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> WrittenFloat:
    number = WrittenFloat(loader.construct_yaml_float(node))
    number.text = node.value
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such config; the shipped ones are in configs/") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a directory; name the configuration file in it") from None
    except OSError as error:
        raise UsageError(f"{shown(str(path))}: cannot be read ({error.strerror})") from None
    if len(data) > _LARGEST_FILE:
        raise UsageError(f"{path}: larger than a configuration can be; name a YAML file")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path}: UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}: line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from None


def _parse(text: str, where: str) -> Any:
    """The value that a YAML text stands for. Raises UsageError that begins with `where`."""
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, (), where, set(), set())
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UsageError(f"{where}: not YAML: {' '.join(str(error).split())[:400]}") from None
    except RecursionError:
        raise UsageError(f"{where}: nested too deeply to be a configuration") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # Values whose tag (`!!int`) they do not fit.
        raise UsageError(f"{where}: not YAML: a value does not fit its tag ({error})") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_node(
    node: yaml.Node, path: tuple[str, ...], where: str, above: set[int], done: set[int]
) -> None:
    """Refuse what YAML allows and nobody means. Raises UsageError with the key and its lines."""
    if id(node) in above:
        raise UsageError(f"{where}: {_dotted(path)} holds itself by an alias; write it out")
    if id(node) in done:
        return
    done.add(id(node))
    inside = above | {id(node)}
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, path, where)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _check_node(item, (*path, str(position)), where, inside, done)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            _check_node(key, path, where, inside, done)
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            line = key.start_mark.line + 1
            if name in lines:
                raise UsageError(
                    f"{where}: key {_dotted((*path, name))} stands twice, in lines {lines[name]} "
                    f"and {line}; keep one"
                )
            lines[name] = line
            _check_node(value, (*path, name), where, inside, done)


def _check_scalar(node: yaml.ScalarNode, path: tuple[str, ...], where: str) -> None:
    line = node.start_mark.line + 1
    text = node.value
    if _NO_TEXT.search(text):
        raise UsageError(f"{where}: line {line}: {_dotted(path)} holds a character that is no text")
    if node.style is not None:
        return
    if _LEADING_ZERO.fullmatch(text):
        raise UsageError(
            f"{where}: line {line}: {_dotted(path)} = {text}: a number that begins with 0 is read "
            "differently by different programs; leave the 0 out, or put text in quotes"
        )
    if node.tag == "tag:yaml.org,2002:int" and len(text) > _LONGEST_NUMBER:
        raise UsageError(
            f"{where}: line {line}: {_dotted(path)}: a number of {len(text)} digits; write a "
            f"smaller one"
        )


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the value"


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise UsageError(f"override {override!r}: write key=value, for example seed=1")
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        inner = section.get(parent, {})
        if not isinstance(inner, dict):
            raise UsageError(f"override {override!r}: {parent} is not a section")
        section[parent] = dict(inner)  # a copy, since an alias may stand for the same section
        section = section[parent]
    section[last] = _parse(value, f"override {shown(override)}")
