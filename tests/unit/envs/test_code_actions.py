"""What models write round an action, and what is made of it."""

import time

import pytest

from envs.coding.actions import clean, parse_action

CODE = "def f(x):\n    return x"


@pytest.mark.parametrize(
    "answer",
    [
        f"write\n{CODE}",
        f"write\n```python\n{CODE}\n```",
        f"write\n```python\n{CODE}\n```\nThis returns x.",
        f"write\nHere is the solution:\n```python\n{CODE}\n```",
        f"Here is the solution:\n```python\n{CODE}\n```",
        f"write\n```python\n{CODE}\n```\nand its tests:\n```python\nassert f(1)\n```",
        f"write\n~~~python\n{CODE}\n~~~",
        f"write\n````\n{CODE}\n````\n",
        f"write ```python\n{CODE}\n```",
        f"write\n{CODE}\n```\n",
        f"**write**\n{CODE}",
        f"```\nwrite\n{CODE}\n```",
        f"```write\n{CODE}\n```",
        f"```\nwrite\n```\n```python\n{CODE}\n```",
        f"I will write it now.\n\nwrite:\n```py\n{CODE}\n```\nDone.",
        f"write\nFirst:\n```bash\npip install x\n```\n```python\n{CODE}\n```",
        f"First:\n```bash\npip install x\n```\n```python\n{CODE}\n```",
    ],
)
def test_the_first_fenced_program_is_the_solution(answer: str) -> None:
    verb, program = parse_action(answer)
    assert (verb, program.strip("\n")) == ("write", CODE)
    assert parse_action(clean(answer.replace("\n", "\r\n"))) == (verb, program)


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [
        ("Let me see.\n```\ntest\n```", ("test", "")),
        ("That should do.\n`submit`", ("submit", "")),
        ("```\nrun\nprint(1)\n```", ("run", "print(1)")),
        ("I would write", ("I", "")),
        ("```\n```", ("```", "")),
        ("write\n```\n```\n", ("write", "")),
        ("write\n```text\nx = 1\n```", ("write", "x = 1")),
    ],
)
def test_a_verb_is_found_where_it_stands_alone(answer: str, parsed: tuple[str, str]) -> None:
    assert parse_action(answer) == parsed


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_a_fence_in_a_docstring_is_part_of_the_program(quotes: str) -> None:
    program = f"def f(x):\n    {quotes}As in\n```\nf(1)\n```\n    {quotes}\n    return x"
    assert parse_action(f"write\n{program}") == ("write", program)
    assert parse_action(f"write\n```python\n{program}\n```\nDone.") == ("write", program)
    assert parse_action(f"Here:\n```python\n{program}\n```\n```\nx\n```") == ("write", program)


def test_what_no_file_can_hold_is_replaced_and_whole_pairs_are_kept() -> None:
    assert (
        clean("a\ud83d b\udc00 \ud83d\ude00 \U0001f600\r\nc\rd\u2028e\x0c")
        == "a\ufffd b\ufffd \U0001f600 \U0001f600\nc\rd\u2028e\x0c"
    )


@pytest.mark.parametrize(
    "line", ["```", "```text\n```", '```text\n"""\n```', '"""\n```', "~~~text\nx\n~~~", "````\n```"]
)
def test_no_answer_takes_long_to_read(line: str) -> None:
    started = time.process_time()
    for before in ("", "write\n"):
        parse_action((before + f"{line}\n" * 16_384)[:16_384])
    assert time.process_time() - started < 2.0
