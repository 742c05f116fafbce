"""What a deployed agent knows at a step: routers and features see this and the SLM's answer,
nothing else.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepContext:
    """Where the agent stands. `draw` names the random stream of this step (task, z, t), equal for
    all arms; no score is made of it.

    `observations` are all so far, the one to act on at the end, and `actions` the executed actions,
    one fewer. `verifier_scores` belong to this step's candidates, in their order, and are empty
    without a verifier; `chosen_index` is the candidate that acts if the SLM does, the first where
    nobody verifies; `verifier_bests` are the best scores of the earlier steps (nan where nothing
    was scored). `budget` is the most teacher calls this episode may make; `max_steps` and `budget`
    are None where there is no limit. `true_risk` is what independent branches from here say; the
    oracle alone has it.

    Hysteresis alone reads, of the earlier steps: who acted (`actors`), the router's score (None
    where it gave none), the length of the SLM's prompt (0 where it was not asked), and how many
    seconds ago it was (`ages`, empty without a clock).
    """

    t: int
    draw: tuple[object, ...]
    goal: str = ""
    observations: tuple[str, ...] = ("",)
    actions: tuple[str, ...] = ()
    escalations: int = 0
    max_steps: int | None = None
    budget: int | None = None
    verifier_scores: tuple[float, ...] = ()
    chosen_index: int = 0
    verifier_bests: tuple[float, ...] = ()
    true_risk: float | None = None
    actors: tuple[str, ...] = ()
    scores: tuple[float | None, ...] = ()
    prompt_tokens: tuple[int, ...] = ()
    ages: tuple[float, ...] = ()
