"""What the three agents share: a kitchen with a lamp, two tools, and how the outcome is told."""

import json
import sys

TASK = "Goal: take the lamp\nYou stand at the door of a kitchen."
calls: list[list[str]] = []


def look(place: str) -> str:
    """Look around.

    Args:
        place: where to look
    """
    calls.append(["look", place])
    return f"[seen {place}] There is a lamp on the table."


def take(thing: str) -> str:
    """Take a thing.

    Args:
        thing: what to take
    """
    calls.append(["take", thing])
    return f"[took {thing}]"


def tell(answer: object) -> None:
    """Print what was done and said, as one line of JSON."""
    print(json.dumps({"calls": calls, "answer": str(answer)}))


def asked() -> tuple[str, bool]:
    """The model's name, and whether to stream."""
    return sys.argv[1], "--stream" in sys.argv[2:]
