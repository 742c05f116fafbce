"""vLLM's tool parser as engines' models use it. Importing vLLM takes a while."""

import json
from pathlib import Path

import pytest

from actors.language_models.tool_parser import UNREADABLE, EngineToolParser
from r2v_dist.errors import UsageError
from r2v_dist.language_model import Candidate

TOOL = json.dumps({"type": "function", "function": {"name": "look", "parameters": {}}})


@pytest.mark.slow
def test_calls_are_read_and_what_cannot_be_read_is_no_answer(tiny_model: Path) -> None:
    parser = EngineToolParser("hermes", str(tiny_model), "slm.tool_parser")
    one = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
    read = parser.read(Candidate(f"I look.\n{one}\n{one}", (1, 2), (-0.1,)), (TOOL,))
    assert [(call.name, json.loads(call.arguments)) for call in read.calls] == [
        ("look", {"at": 1})
    ] * 2
    assert read.content == "I look."
    assert (read.token_ids, read.logprobs) == ((1, 2), (-0.1,))
    broken = parser.read(Candidate('<tool_call>\n{"name": "lo'), (TOOL,))
    assert [call.name for call in broken.calls] == [UNREADABLE]
    plain = Candidate("just words")
    assert parser.read(plain, (TOOL,)) is plain
    with pytest.raises(UsageError, match=r"slm\.tool_parser = nope"):
        EngineToolParser("nope", str(tiny_model), "slm.tool_parser")
