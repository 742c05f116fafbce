"""TextWorld games as a Gymnasium env: deterministic, plain text in and out, and no reward or score
ever in the text.

Observations are cleaned so that only what the game world says is left: the banner, the objective
(it is `info["goal"]`), the status line with the score and the closing score report are cut.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import textworld

from envs.spaces import UnicodeText

_STATUS_LINE = re.compile(r"^>.*\Z", re.MULTILINE | re.DOTALL)
_SCORE_TEXT = re.compile(
    r"^(Your score has just gone .*|You scored .*|Would you like to RESTART.*)$", re.MULTILINE
)
_ROOM_HEADER = re.compile(r"^-= .+ =-$", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
"""What the interpreter takes for orders to itself; some end its process."""
_INPUT_BYTES = 197
"""What the interpreter reads of a line."""
_WON = "*** The End ***"
_LOST = "*** You lost! ***"


def clean_feedback(feedback: str) -> str:
    """What the game world says, one line per paragraph; nothing that tells the score."""
    text = _SCORE_TEXT.sub("", _STATUS_LINE.sub("", feedback))
    text = text.replace(_WON, "You win.").replace(_LOST, "You lost.")
    return "\n".join(line for line in (" ".join(raw.split()) for raw in text.splitlines()) if line)


def clean_introduction(feedback: str) -> str:
    """The first room's description, without banner and objective."""
    header = _ROOM_HEADER.search(feedback)
    return clean_feedback(feedback[header.start() :] if header else feedback)


class TextWorldEnv(gymnasium.Env[str, str]):
    """One compiled game (`.z8`, with the `.json` beside it that TextWorld writes).

    Reward is 1.0 on the step that wins, else 0.0. `terminated` means won or lost, `truncated` the
    step limit.
    `expert=True` tracks the hidden state so that `expert_action()` works (about 1.5 ms a step).
    `admissible=True` adds `info["admissible"]`, the commands the game would accept now.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 -- Gymnasium's own convention

    def __init__(
        self,
        game: str,
        max_steps: int = 20,
        expert: bool = False,
        admissible: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if not Path(game).is_file():
            raise FileNotFoundError(f"game file {game} does not exist")
        world = Path(game).with_suffix(".json")
        if not world.is_file():  # TextWorld would start it, tell no goal and notice no victory
            raise FileNotFoundError(f"game file {game}: no {world.name} beside it")
        self.observation_space = self._seen = UnicodeText(max_length=16_384, min_length=0)
        self.action_space = self._said = UnicodeText(max_length=256, min_length=0)
        self.render_mode = render_mode
        self.max_steps = max_steps
        self._admissible = admissible
        self._expert = expert
        infos = textworld.EnvInfos(
            won=True, objective=True, policy_commands=expert, admissible_commands=admissible
        )
        with warnings.catch_warnings():
            # Jericho warns that it cannot track score and moves of these games; TextWorld tracks
            # what is needed itself.
            warnings.simplefilter("ignore")
            self._game = textworld.start(game, infos)
        self._steps = 0
        self._observation = ""
        self._state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start over. The seed changes nothing: a game is deterministic."""
        super().reset(seed=seed)
        self._steps = 0
        self._state = self._game.reset()
        self._observation = self._seen.clip(clean_introduction(self._state.feedback))
        return self._observation, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Send one command. A command the game does not know costs a step and never raises."""
        self._steps += 1
        # An empty line makes the interpreter print nothing but its prompt, and a line break would
        # be two commands.
        line = " ".join(_CONTROL.sub(" ", self._said.clip(action)).split())
        command = line.encode()[:_INPUT_BYTES].decode(errors="ignore") or "wait"
        self._state, _, _ = self._game.step(command)
        self._observation = self._seen.clip(clean_feedback(self._state.feedback))
        won = bool(self._state.won)
        lost = bool(self._state.lost)
        terminated = won or lost
        truncated = not terminated and self._steps >= self.max_steps
        return self._observation, float(won), terminated, truncated, self._info()

    def expert_plan(self) -> tuple[str, ...]:
        """The planner's commands from here to the end (it reads hidden state); none where the game
        can no longer be won.
        """
        if not self._expert:
            raise ValueError("the expert needs the environment made with expert=True")
        return tuple(self._state.policy_commands or ())

    def expert_action(self) -> str | None:
        """The planner's next command, or None where the game can no longer be won."""
        return next(iter(self.expert_plan()), None)

    def render(self) -> str:
        """The last observation."""
        return self._observation

    def close(self) -> None:
        """Free the interpreter."""
        self._game.close()

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"goal": self._state.objective or "Win the game."}
        if self._admissible:
            info["admissible"] = self._state.admissible_commands
        if self._state.won:
            info["stop_reason"] = "won"
        elif self._state.lost:
            info["stop_reason"] = "lost"
        elif self._steps >= self.max_steps:
            info["stop_reason"] = "step_limit"
        return info
