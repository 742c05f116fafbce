"""Writes what transformers makes of a model's tokenizer, for `LightTokenizer`:

    python -m actors.language_models.tokenizer_file MODEL_FOLDER TARGET

Runs in a process of its own, because transformers brings torch. The file holds null where a light
tokenizer would not do the same.
"""

import json
import sys
from pathlib import Path
from typing import Any

from actors.language_models.tokenizer import LightTokenizer
from r2v_dist import files

_PROBES = (
    "Goal: go east, open the box3.\n-= Room =-\n  You see  a key . ",
    "def f(x):\n\treturn x != 10_000  # don't\n\n",
    "é 😀 \u200b ﬁ İ 中文\r\n",
    "",
)


def stored_form(tokenizer: Any) -> dict[str, Any] | None:
    """What a `LightTokenizer` is made of; None where it would not do what this tokenizer does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    form = {
        "backend": backend.to_str(),
        "split_special_tokens": bool(tokenizer.split_special_tokens),
        "chat_template": tokenizer.chat_template,
        "template": tokenizer.get_chat_template() if tokenizer.chat_template else None,
        "token_names": tokenizer.special_tokens_map,
        "eos_token_id": tokenizer.eos_token_id,
        "all_special_tokens": tokenizer.all_special_tokens,
        "all_special_ids": tokenizer.all_special_ids,
    }
    return form if _agree(LightTokenizer(form), tokenizer) else None


def _agree(light: LightTokenizer, full: Any) -> bool:
    texts = [*_PROBES, *full.all_special_tokens, "".join(full.all_special_tokens)]
    for text in texts:
        ids = full.encode(text, add_special_tokens=False)
        if light.encode(text, add_special_tokens=False) != ids:
            return False
        if light.decode(ids) != full.decode(ids):
            return False
    return all(light.decode([i]) == full.decode([i]) for i in range(min(len(full), 2000)))


def main() -> None:
    """Write the file that the arguments name."""
    from transformers import AutoTokenizer

    folder, target = sys.argv[1:]
    form = stored_form(AutoTokenizer.from_pretrained(folder))
    files.write_atomically(Path(target), json.dumps(form))


if __name__ == "__main__":
    main()
