"""Made-up rollouts that cost what real TextWorld rollouts cost: the same shapes, text lengths and
amount of repetition.

Episodes of one task share its goal, rooms and commands, as they do under many seeds and routers;
numbers never repeat.
"""

import pickle
import random
import struct
from dataclasses import dataclass

from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason
from r2v_dist.language_model import Answer, Candidate, TopTokens
from r2v_dist.seeding import rng_for

STEPS = 8
_EPISODES_A_TASK = 16
_VOCABULARY = 600
_TOP = 20

_ROOMS = ("bedroom", "kitchen", "attic", "cellar", "garden", "study", "office", "pantry")
_THINGS = (
    "red box",
    "old chest",
    "type P safe",
    "wooden crate",
    "latchkey",
    "passkey",
    "milk",
    "folder",
    "shirt",
    "insect",
)
_DIRECTIONS = ("north", "south", "east", "west")
_SENTENCES = (
    "You can see a closed {thing} here.",
    "There is an open {thing} on the floor.",
    "You make out a {thing}, and you hope it is not locked.",
    "There is an exit to the {direction}. Don't worry, there is no door.",
    "There is a closed door leading {direction}.",
    "You need an exit without a door? You should try going {direction}.",
    "The {thing} contains a {other}.",
)
_RESULTS = (
    "You open the {thing}, revealing a {other}.",
    "You pick up the {thing} from the ground.",
    "You put the {thing} into the {other}, and it stays there.",
    "You unlock the {thing} with the {other}.",
    "You can't see any such thing. Your score has not changed.",
)
_COMMANDS = (
    "open {thing}",
    "take {thing}",
    "go {direction}",
    "insert {thing} into {other}",
    "unlock {thing} with {other}",
)
_OPERATORS = ("truncate", "distractor", "stale_observation", "false_error")
_ARMS = ("slm_only", "teacher_only", "random", "entropy")


@dataclass(frozen=True)
class _World:
    """What the episodes of one task have in common."""

    id: str
    goal: str
    observations: list[str]
    commands: list[str]


def make_episodes(count: int) -> list[Episode]:
    """`count` episodes of eight steps; equal counts give equal episodes."""
    worlds = [_world(index) for index in range(-(-count // _EPISODES_A_TASK))]
    episodes = [_episode(worlds[index // _EPISODES_A_TASK], index) for index in range(count)]
    # A collector gets the episodes of a unit by pickle, so units share no text objects.
    received: list[Episode] = []
    for start in range(0, count, len(_ARMS)):
        unit = episodes[start : start + len(_ARMS)]
        received += pickle.loads(pickle.dumps(unit))
    return received


def _world(index: int) -> _World:
    rng = rng_for("benchmark-world", index)
    commands = [_say(_COMMANDS, rng) for _ in range(12)]
    goal = "First, " + ". Then, ".join(rng.sample(commands, 4)) + "."
    return _World(
        f"custom-{rng.getrandbits(63):016x}", goal, [_observation(rng) for _ in range(24)], commands
    )


def _observation(rng: random.Random) -> str:
    """30 to 200 characters, as cleaned TextWorld feedback has."""
    text = (
        _say(_RESULTS, rng)
        if rng.random() < 0.5
        else f"-= {rng.choice(_ROOMS).title()} =-\n{_say(_SENTENCES, rng)}"
    )
    for _ in range(rng.randrange(4)):
        text += "\n" + _say(_SENTENCES, rng)
    return text[:200]


def _say(choices: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice(choices).format(
        thing=rng.choice(_THINGS), other=rng.choice(_THINGS), direction=rng.choice(_DIRECTIONS)
    )


def _episode(world: _World, index: int) -> Episode:
    rng = rng_for("benchmark-episode", index)
    router = _ARMS[index % len(_ARMS)]
    arm = Arm(
        router,
        rng.choice((0.1, 0.25, 0.5)) if router in ("random", "entropy") else None,
        "bc-0123456789ab",
        "expert",
        0,
    )
    key = EpisodeKey(
        "evaluate", "0123456789abcdef", world.id, 2000 + index // len(_ARMS), arm.id, 0
    )
    won = rng.random() < 0.6
    steps = tuple(_step(world, rng) for _ in range(STEPS))
    stop = StopReason.WON if won else StopReason.STEP_LIMIT
    return Episode(key, "test", arm, world.goal, steps, won, stop, rng.choice(world.observations))


def _step(world: _World, rng: random.Random) -> Step:
    clean = rng.choice(world.observations)
    operator = rng.choice(_OPERATORS) if rng.random() < 0.3 else None
    teacher = rng.random() < 0.25
    proposal = _answer(world, rng)
    return Step(
        observation=clean if operator is None else clean + "\n" + _say(_SENTENCES, rng),
        clean_observation=clean,
        perturbations=() if operator is None else (operator,),
        actor="teacher" if teacher else "slm",
        action=proposal.candidates[0].text,
        action_ids=None if teacher else proposal.candidates[0].token_ids,
        executed=operator != "false_error",
        score=rng.random(),
        proposal=proposal,
        teacher_tokens=0,
        prefix=rng.getrandbits(63),
        drift=False,
        chosen_index=0,
    )


def _answer(world: _World, rng: random.Random) -> Answer:
    length = rng.choice((4, 5, 5, 6))
    ids = tuple(rng.randrange(_VOCABULARY) for _ in range(length))
    # An engine's top list is sorted and heavy-tailed: a few likely tokens, then ever less likely
    # ones.
    top = sorted((_float32(-rng.expovariate(0.15)) for _ in range(_TOP)), reverse=True)
    tokens = rng.sample(range(_VOCABULARY), _TOP)
    candidate = Candidate(
        rng.choice(world.commands),
        ids,
        tuple(_float32(-rng.expovariate(2.0)) for _ in range(length + 1)),
    )
    return Answer(
        (candidate,),
        "bc-0123456789ab",
        rng.randrange(80, 700),
        TopTokens.of(zip(tokens, top, strict=True)),
    )


def _float32(value: float) -> float:
    """A float as engines return it: single precision, held in a Python float."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
