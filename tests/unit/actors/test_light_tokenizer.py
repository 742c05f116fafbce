"""A tokenizer without transformers gives what `AutoTokenizer` gives, and brings no torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from actors.language_models import tokenizer
from actors.language_models.tokenizer import LightTokenizer, load_tokenizer
from actors.language_models.tokenizer_file import stored_form
from r2v_dist.chat import ChatFormat, Turn
from r2v_dist.config.places import cache_folder
from r2v_dist.errors import RuntimeFailure
from tests.runs import ROOT
from tests.unit.test_chat import FORGED, LLAMA2_LIKE, QWEN_LIKE, trained

MODELS = sorted(path.name for path in (ROOT / "models").iterdir() if path.is_dir())
TEXTS = (
    "Goal: First, go east.\n-= Room3 =-\nThere is an exit to the east.",
    FORGED,
    " é 😀\n\n中文 <|en d|> \t don't . ",
    "",
)
TOOLS_LIKE = (
    "{%- for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}"
    "<|{{ m.role }}|>{% generation %}{{ m.content }}{% endgeneration %}<|end|>\n{% endfor %}"
    "{{ {'b': 'é<', 'a': 1} | tojson }}{{ eos_token }}"
    "{% if thinking is defined and thinking %}THINK{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def light(full: Any) -> LightTokenizer:
    stored = json.loads(json.dumps(stored_form(full)))
    assert stored is not None
    return LightTokenizer(stored)


def require_equal(full: Any, **settings: Any) -> None:
    own = light(full)
    for text in TEXTS:
        ids = full.encode(text, add_special_tokens=False)
        assert own.encode(text, add_special_tokens=False) == ids
        assert own.decode(ids) == full.decode(ids)
    chats = [ChatFormat(one, "slm", "Be brief.", settings) for one in (full, own)]
    turns = [Turn(text, "go east", "teacher") for text in TEXTS]
    prompts = [
        [chat.prompt(turns[:n], turn.user) for n, turn in enumerate(turns)] for chat in chats
    ]
    assert prompts[0] == prompts[1]
    assert chats[0].stop_ids([3]) == chats[1].stop_ids([3])


@pytest.mark.parametrize("name", MODELS)
def test_a_bundled_models_ids_are_those_of_transformers(name: str) -> None:
    require_equal(AutoTokenizer.from_pretrained(ROOT / "models" / name))


@pytest.mark.parametrize("kind", ["metaspace", "wordpiece"])
def test_other_families_have_the_same_ids(kind: str) -> None:
    require_equal(trained(kind))


@pytest.mark.parametrize("template", [QWEN_LIKE, LLAMA2_LIKE, TOOLS_LIKE])
def test_templates_are_rendered_alike(template: str, tiny_model: Path) -> None:
    full = AutoTokenizer.from_pretrained(tiny_model)
    full.chat_template = template
    own = light(full)
    messages = [{"role": "user", "content": text} for text in TEXTS]
    for prompt in (False, True):
        options = {"tokenize": False, "add_generation_prompt": prompt, "thinking": True}
        rendered = full.apply_chat_template(messages, **options)
        assert own.apply_chat_template(messages, **options) == rendered


def test_loading_one_brings_no_torch(tiny_model: Path) -> None:
    load_tokenizer(str(tiny_model))
    script = (
        "import sys; from actors.language_models.tokenizer import load_tokenizer; "
        f"t = load_tokenizer({str(tiny_model)!r}); "
        "t.encode('x', add_special_tokens=False); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_a_tokenizer_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RuntimeFailure, match=f"the tokenizer of {tmp_path} cannot be read"):
        load_tokenizer(str(tmp_path))


def test_a_damaged_file_of_the_cache_is_made_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_tokenizer(str(tiny_model))
    whole = {path.name: path.read_text() for path in cache_folder("tokenizers").glob("*.json")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    written = []

    def write(_: str, target: Path) -> None:
        target.write_text(whole[target.name])
        written.append(target)

    monkeypatch.setattr(tokenizer, "_write", write)
    load_tokenizer(str(tiny_model))
    written[0].write_text(whole[written[0].name][:-9])  # a disk that was full
    assert load_tokenizer(str(tiny_model)).encode("x", add_special_tokens=False)
    assert len(written) == 2
