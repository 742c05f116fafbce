"""Small tokenizers whose chat templates have the structure of four families of models. The
templates are written for these tests; only their control tokens are those of the families."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

# No system role, and roles have to alternate: it says so instead of rendering.
GEMMA = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}
{%- if (m.role == 'user') != (loop.index0 is even) %}\
{{ raise_exception('roles alternate') }}{% endif %}
{{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else 'user') ~ '\\n' ~ \
m.content | trim ~ '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

# A system message in any case, with a date; the contents are trimmed.
LLAMA = """{{ bos_token }}{% set own = messages[0].role == 'system' %}
{%- set now = strftime_now('%d %b %Y') if strftime_now is defined else '1 Jan 2000' %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' ~ now ~ '\\n\\n' }}
{%- if own %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}\
{{ '<|eot_id|>' }}
{%- for m in messages %}
{{- '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' ~ m.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\
{% endif %}"""

# A system message of its own where none is given.
QWEN25 = """{% if messages[0].role != 'system' %}\
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}\
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# Answers after the last user message are written with their reasoning, earlier ones without.
QWEN3 = """{% set last = namespace(user=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}\
{% endfor %}
{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' }}
{%- if m.role == 'assistant' and loop.index0 > last.user %}\
{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{{- m.content.split('</think>')[-1].lstrip('\\n') ~ '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}\
{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

FAMILIES = {
    "gemma-2": (GEMMA, "<bos>", "<end_of_turn>", ("<start_of_turn>",)),
    "llama-3.1": (
        LLAMA,
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
    ),
    "qwen2.5": (QWEN25, None, "<|im_end|>", ("<|im_start|>",)),
    "qwen3": (QWEN3, None, "<|im_end|>", ("<|im_start|>",)),
}
"""Template, BOS, end of a turn, and the other control tokens."""


@cache
def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """It has no pad token, and puts BOS before whatever it encodes with its special tokens."""
    template, bos, end, others = FAMILIES[family]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([""], trainer)
    control = [token for token in (bos, end, *others) if token is not None]
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    if family == "qwen3":
        marks = ("<think>", "</think>")
        backend.add_tokens([AddedToken(text, normalized=False, special=False) for text in marks])
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=end)
    tokenizer.chat_template = template
    return tokenizer
