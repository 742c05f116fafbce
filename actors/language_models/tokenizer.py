"""The tokenizer of a model without transformers, which would bring torch into a process that only
encodes, decodes and renders templates.

Invariant: ids and text are those of the model's `AutoTokenizer`. What is loaded here is what
transformers made of the model's files (`tokenizer_file`), written once a machine and compared
there; where they differ, or a tokenizer is written in Python, `AutoTokenizer` itself is used.
"""

import importlib.metadata
import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.node_lock import node_lock
from r2v_dist.chat import ChatTokenizer
from r2v_dist.config.places import CACHE_VARIABLE, cache_folder, make_cache
from r2v_dist.errors import DamagedFile, RuntimeFailure
from r2v_dist.files import read_json
from r2v_dist.object_storage.mirror import at_hand
from r2v_dist.processes.child import child_command, child_environment
from r2v_dist.seeding import short_hash

_DEADLINE_S = 300.0
"""For transformers to read a tokenizer in a process of its own."""
_FILES = ("*.json", "*.jinja", "*.model", "*.txt")


class LightTokenizer:
    """A fast tokenizer as transformers has set it up; has what `ChatFormat` and `VllmModel` use."""

    def __init__(self, form: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        self._backend = Tokenizer.from_str(form["backend"])
        self._backend.encode_special_tokens = form["split_special_tokens"]
        self._template: str | None = form["template"]
        self._token_names: dict[str, str] = form["token_names"]
        self.chat_template = form["chat_template"]
        self.eos_token_id: int | None = form["eos_token_id"]
        self.all_special_tokens: Sequence[str] = form["all_special_tokens"]
        self.all_special_ids: Sequence[int] = form["all_special_ids"]
        self.added_tokens_decoder: Mapping[int, Any] = self._backend.get_added_tokens_decoder()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of a text."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=False)
        return text

    def apply_chat_template(
        self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool, **settings: Any
    ) -> str:
        """The rendered text; `tokenize` must be false."""
        assert not tokenize
        text: str = self._compiled.render(
            messages=conversation,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **({"tools": None} | self._token_names | settings),
        )
        return text

    @cached_property
    def _compiled(self) -> Any:
        return _compile(self._template or "")


def load_tokenizer(folder: str) -> ChatTokenizer:
    """The tokenizer of a Hugging Face directory. Raises RuntimeFailure where it cannot be read, and
    UsageError where there is no place for the cache.
    """
    target = cache_folder("tokenizers") / f"{_identity(at_hand(Path(folder)))}.json"
    try:
        form = read_json(target)
    except DamagedFile:
        make_cache(target.parent, CACHE_VARIABLE)
        with node_lock("tokenizer"):
            if not _whole(target):
                _write(folder, target)
        form = read_json(target)
    if form is not None:
        return LightTokenizer(form)
    from transformers import AutoTokenizer

    tokenizer: ChatTokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def _whole(target: Path) -> bool:
    """Whether the cache has it. A damaged file is made again."""
    try:
        read_json(target)
    except DamagedFile:
        return False
    return True


def _identity(folder: Path) -> str:
    """Changes with the model's files and with what reads them."""
    paths = sorted(path for pattern in _FILES for path in folder.glob(pattern))
    stats = [(path.resolve(), path.stat()) for path in paths]
    parts = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats]
    readers = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    return short_hash(folder.resolve(), *parts, *readers)


def _write(folder: str, target: Path) -> None:
    """Have another process read the tokenizer, so that this one stays small."""
    command = child_command("-m", "actors.language_models.tokenizer_file", folder, str(target))
    try:
        child = subprocess.run(
            command,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(
            f"the tokenizer of {folder} was not read within {_DEADLINE_S:.0f} s"
        ) from None
    if child.returncode:
        lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
        raise RuntimeFailure(f"the tokenizer of {folder} cannot be read: {''.join(lines[-1:])}")


def _compile(template: str) -> Any:
    """As transformers compiles a chat template."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_generation_blocks(), jinja2.ext.loopcontrols],
    )

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _generation_blocks() -> Any:
    """Blocks that mark what an assistant wrote; they are rendered as their content."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012 -- jinja's own convention

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return GenerationBlocks
