"""Whether a model can be talked to, before anything starts: its chat template is rendered once,
with nothing but its tokenizer.

A run whose template refuses its messages, or whose turns nothing would end, costs hours before it
shows.
"""

import os
from pathlib import Path
from typing import Any

from r2v_dist.chat import ChatFormat
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import UsageError
from r2v_dist.pretrained.places import model_path

_PROBE = 'Goal: Zx1\n-= Room =-\n> say "it\'s" if 1 < 2 & {{ x }}' + " north" * 300
"""A message with large and small letters, with those that HTML escapes, and of some length: a
template that changes or cuts them tells the model another story."""


def check_chat(role: str, model: ModelConfig) -> None:
    """Refuse a vLLM model whose chat template does not suit. Raises UsageError with key, model
    and fix."""
    if model.backend != "vllm" or model.model == "scratch":
        return
    where = f"{role}.model = {model.model}"
    name = str(model_path(model.model, f"{role}.model"))
    local = os.path.isdir(name)
    if local:
        from actors.language_models.factory import eos_ids_of

        eos_ids_of(Path(name))
    check_template(_tokenizer(where, name if local else model.model), where, role, model)


def check_template(tokenizer: Any, where: str, role: str, model: ModelConfig) -> None:
    """As `check_chat`, with the tokenizer at hand. `where` is the beginning of the message."""
    if tokenizer.chat_template is None:
        raise UsageError(
            f"{where}: its tokenizer has no chat template; take an instruction-tuned model, or "
            f"put a chat_template.jinja into its directory"
        )
    system = model.system_prompt
    problem = _problem(ChatFormat(tokenizer, role, system, model.chat_template_kwargs), tokenizer)
    if problem:
        raise UsageError(
            f"{where}: {problem}; take another model, or correct its chat_template.jinja"
        )


def _problem(chat: ChatFormat, tokenizer: Any) -> str:
    """What is wrong with conversations in this format, empty where nothing is."""
    try:
        opening = chat.opening(_PROBE)
        continuation = chat.continuation(_PROBE)
        chat.stop_ids()
        opens = chat.opens_answers()
    except UsageError as error:
        return str(error)
    except Exception as error:  # a boundary: a template is a program of somebody else's
        return (
            f"the chat template fails with {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}"
        )
    if not opens:
        return (
            "the chat template does not open an answer where it is asked to (add_generation_prompt)"
        )
    bos = tokenizer.bos_token_id
    if bos is not None and opening[:2] == [bos, bos]:
        return f"the chat template begins with {tokenizer.bos_token} twice"
    texts = [tokenizer.decode(ids) for ids in (opening, continuation)]
    probe = tokenizer.decode(tokenizer.encode(_PROBE, add_special_tokens=False))
    letters = "".join(probe.split())
    if any(letters not in "".join(text.split()) for text in texts):
        return "the chat template leaves a message out or changes its letters"
    return ""


def _tokenizer(where: str, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # a boundary: a missing file, a silent hub, an unknown kind
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{where}: its tokenizer cannot be loaded ({type(error).__name__}: {reason}); check "
            f"the name or the network"
        ) from None
