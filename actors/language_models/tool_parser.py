"""Calls of tools in the text of a model that an engine of ours samples: read by vLLM's own parsers,
of which each family of models has one.
"""

from typing import Any

from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.language_model import Candidate
from r2v_dist.messages import ToolCall, action_text

UNREADABLE = "(unreadable)"
"""Name of a call that begins and cannot be read: no tool has it, so no candidate with it is sent.
"""


class EngineToolParser:
    """The parser of a name. Making one imports vLLM, which takes seconds."""

    def __init__(self, name: str, folder: str, key: str) -> None:
        try:
            from transformers import AutoTokenizer
            from vllm.tool_parsers import ToolParserManager
        except ImportError as error:
            raise RuntimeFailure(f"{key}: vLLM cannot be imported ({error})") from None
        try:
            parser_class = ToolParserManager.get_tool_parser(name)
        except KeyError:
            raise UsageError(
                f"{key} = {name}: vLLM has no tool parser of that name; its documentation of tool "
                f"calling lists them"
            ) from None
        self._make: Any = parser_class
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def read(self, candidate: Candidate, tools: tuple[str, ...]) -> Candidate:
        """The candidate with its calls. `tools` are their schemas, as JSON text."""
        import json

        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest(
            messages=[{"role": "user", "content": ""}],
            model="slm",
            tools=[json.loads(tool) for tool in tools],
            tool_choice="auto",
        )
        parser = self._make(self._tokenizer, request.tools)
        extraction = parser.extract_tool_calls(candidate.text, request)
        calls = tuple(
            ToolCall(call.function.name, call.function.arguments) for call in extraction.tool_calls
        )
        content = (extraction.content or "").strip()
        start = getattr(parser, "tool_call_start_token", "") or ""
        if not calls and start and start in candidate.text:
            calls = (ToolCall(UNREADABLE, candidate.text),)
            content = ""
        if not calls:
            return candidate
        return Candidate(
            action_text(content, calls), candidate.token_ids, candidate.logprobs, calls, content
        )
