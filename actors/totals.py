"""What units of work came to, one or many together."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Totals:
    """Sums over units, for the progress display and the account of costs.

    `judge_malformed` are the states that a judge left undecided, `judge_retries` the times it was
    asked again; units in flight at once share what they count. `quarantined` are the episodes that
    were given up.
    """

    units: int = 0
    episodes: int = 0
    successes: int = 0
    steps: int = 0
    asked: int = 0
    engine_calls: int = 0
    sampled_tokens: int = 0
    drifted: int = 0
    judge_retries: int = 0
    judge_malformed: int = 0
    quarantined: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
        }
        return Totals(**sums)
