"""The simulated world as a Gymnasium env, and a simulated SLM whose failure probability in every
state is known.

The env is a pure function of (task, z, action prefix). Its text shows what a router may know (step,
part, jam, cue, symptom); the difficulty and what a wrong action would do stay hidden.
"""

from typing import Any

import gymnasium
import numpy as np

from envs.simulated.world import Ints, World, luck, worker_draws
from envs.spaces import UnicodeText

CUES = ("clear", "legible", "faint", "smudged", "unreadable")
SYMPTOMS = ("runs quietly", "hums", "rattles", "shakes")
_PIECES = ("cog", "shaft", "spring", "plate", "valve", "hinge")
GOAL = "Fit every part before the shift ends. Clear the line when it is jammed."


class SimulatedEnv(gymnasium.Env[str, str]):
    """One task under one seed. Reward is 1.0 on the step that fits the last part, else 0.0.

    `terminated` means all parts fitted or the piece broken, `truncated` the end of the shift.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 -- Gymnasium's own convention

    def __init__(
        self, task: int = 0, z: int = 0, world: World | None = None, render_mode: str | None = None
    ) -> None:
        self.observation_space = UnicodeText(max_length=512, min_length=0)
        self.action_space = UnicodeText(max_length=64, min_length=0)
        self.render_mode = render_mode
        self.world = world or World()
        self._task = np.array([task])
        self._z = np.array([z])
        self._luck = luck(self.world, self._task, self._z)
        self._t = self._part = 0
        self._jammed = self._broken = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start over. The seed changes nothing: what happens is set by task and z."""
        super().reset(seed=seed)
        self._t = self._part = 0
        self._jammed = self._broken = False
        return self.render(), {"goal": GOAL}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do one action; whatever is not the right one is wrong, and none raises."""
        if " ".join(action.split()).lower() == self.expert_action():
            self._part += not self._jammed
            self._jammed = False
        elif self._luck.fatal_NT[0, self._t]:
            self._broken = True
        else:
            self._jammed = True
        self._t += 1
        won = self._part == self.world.parts
        terminated = won or self._broken
        truncated = not terminated and self._t == self.world.max_steps
        info: dict[str, Any] = {"goal": GOAL}
        if terminated or truncated:
            info["stop_reason"] = "won" if won else "lost" if self._broken else "step_limit"
        return self.render(), float(won), terminated, truncated, info

    def expert_action(self) -> str:
        """The right action now."""
        return "clear the jam" if self._jammed else f"fit the {self._piece()}"

    def slm_action(self, replica: int = 0) -> str:
        """What the simulated SLM does here: the right action, but wrong with the probability that
        `World` gives this state.
        """
        slip_VD = self.world.slip_VD("slm", self._jammed)
        slip = slip_VD[self._luck.symptom_N[0], self._luck.difficulty_NT[0, self._t]]
        return (
            "wait"
            if worker_draws("slm", self._task, self._z, replica, self._t)[0] < slip
            else self.expert_action()
        )

    def render(self) -> str:
        """The last observation."""
        if self._broken:
            return "The piece broke."
        if self._part == self.world.parts:
            return "All parts are fitted."
        if self._t == self.world.max_steps:
            return "The shift is over."
        state = (
            "Error: the line is jammed." if self._jammed else f"The slot wants a {self._piece()}."
        )
        cue = CUES[self._luck.cue_NT[0, self._t]]
        line = SYMPTOMS[self._luck.symptom_N[0]]
        place = (
            f"Step {self._t + 1} of {self.world.max_steps}, part {self._part + 1} of "
            f"{self.world.parts}."
        )
        return f"{place} {state}\nThe label is {cue}. The line {line}."

    def _piece(self) -> str:
        place: Ints = self._task * self.world.parts + self._part
        return _PIECES[int(place[0]) % len(_PIECES)]
