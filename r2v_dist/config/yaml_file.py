"""From a YAML file and `key.path=value` overrides to a mapping; whatever is wrong is one line of a
UsageError.

A file may name another with `extends`, and then holds only what differs from it. Scalars are read
as YAML 1.2 reads them: `on` and `1:30` are text. What people disagree about (`010`) is refused.
"""

import os
import re
import reprlib
from pathlib import Path
from typing import Any

import yaml

from r2v_dist.errors import UsageError

_EXTENDS = "extends"
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
    """The keys of the file and of those that it extends, with the overrides applied; the values of
    overrides are YAML.
    """
    raw = _extended(path, ())
    keys = set[str]()
    for override in overrides:
        key = override.partition("=")[0]
        if key in keys:
            raise UsageError(f"override {override!r}: {key} is given twice; keep one")
        if key == _EXTENDS:
            raise UsageError(
                f"override {override!r}: only a file can extend another; name it there"
            )
        keys.add(key)
        _apply(raw, override)
    return raw


def _extended(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a file on top of those of the file that it extends. `below` are the files that
    extend this one.
    """
    raw = _parse(_read_text(path), str(path))
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: a run config is a mapping of keys")
    if _EXTENDS not in raw:
        return raw
    base = _base_of(path, raw.pop(_EXTENDS))
    chain = (*below, path)
    if any(base.samefile(file_below) for file_below in chain):
        files = " -> ".join(file.name for file in (*chain, base))
        raise UsageError(f"{path}: {_EXTENDS} goes round in a circle, {files}; take one out")
    return _merged(_extended(base, chain), raw)


def _base_of(path: Path, name: object) -> Path:
    """The file that `path` extends; its name is relative to the folder of `path`."""
    if not isinstance(name, str) or not name.strip():
        raise UsageError(
            f"{path}: {_EXTENDS} = {shown(name)}: not the name of a file; write one, for example "
            f"base.yaml"
        )
    base = path.parent / name
    if not os.path.isfile(base):
        raise UsageError(
            f"{path}: {_EXTENDS} = {name}: there is no file {base}; a name is relative to the "
            f"folder of {path.name}"
        )
    return base


def _merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """The keys of both; where both have a mapping its keys are merged, else `top` counts."""
    merged = dict(base)
    for key, value in top.items():
        are_mappings = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merged(merged[key], value) if are_mappings else value
    return merged


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
    node: yaml.Node, path: tuple[str, ...], where: str, above: set[int], checked_nodes: set[int]
) -> None:
    """Refuse what YAML allows and nobody means. Raises UsageError with the key and its lines."""
    if id(node) in above:
        raise UsageError(f"{where}: {_dotted(path)} holds itself by an alias; write it out")
    if id(node) in checked_nodes:
        return
    checked_nodes.add(id(node))
    inside = above | {id(node)}
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, path, where)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _check_node(item, (*path, str(position)), where, inside, checked_nodes)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            _check_node(key, path, where, inside, checked_nodes)
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            line = key.start_mark.line + 1
            if name in lines:
                raise UsageError(
                    f"{where}: key {_dotted((*path, name))} stands twice, in lines {lines[name]} "
                    f"and {line}; keep one"
                )
            lines[name] = line
            _check_node(value, (*path, name), where, inside, checked_nodes)


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
