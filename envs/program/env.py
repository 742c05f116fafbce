"""An agent program as a Gymnasium environment.

`reset` starts the program and waits for its first request; `step` answers the request that is open
and waits for the next one, or for the end. So a replay is a new run of the program that is given
the recorded answers; a program that then asks something else has drifted, which the tree notices by
the observation, as with every environment.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium

from envs.program.rendezvous import Asked, Rendezvous
from envs.program.sandbox import PORT, sandboxed
from envs.program.supervised import SupervisedProgram
from envs.spaces import UnicodeText
from r2v_dist.chat import goal_of
from r2v_dist.messages import Heard, Messages, text_of
from r2v_dist.serving.conversation import read_conversation
from r2v_dist.serving.state import StateCache

_TURN_S = 0.05
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")


class ProgramEnv(gymnasium.Env[str, str]):
    """One task. `command` and `check` are JSON lists; the deadlines are in seconds. `info["heard"]`
    has the messages where they are more than one text of a user. `sandbox`: program and check run
    in a sandbox, which shows them the folders of `shown` (a JSON list), read-only.
    """

    waits = True

    def __init__(
        self,
        command: str,
        check: str = "",
        goal: str = "",
        max_steps: int = 20,
        first_request_s: float = 60.0,
        step_s: float = 60.0,
        episode_s: float = 600.0,
        check_s: float = 60.0,
        pass_environment: str = "[]",
        sandbox: bool = False,
        shown: str = "[]",
        expert: bool = False,
    ) -> None:
        self.observation_space = self._seen = UnicodeText(max_length=1 << 20, min_length=0)
        self.action_space = UnicodeText(max_length=1 << 16, min_length=0)
        self.max_steps = max_steps
        self._command: list[str] = json.loads(command)
        self._check: list[str] = json.loads(check) if check else []
        self._given_goal = goal
        self._limits = (first_request_s, step_s, episode_s, check_s)
        self._passed = (*_PASSED, *json.loads(pass_environment))
        self._sandbox = sandbox
        self._shown: list[str] = json.loads(shown)
        self._rendezvous: Rendezvous | None = None
        self._program: SupervisedProgram | None = None
        self._folder = ""
        self._steps = 0
        self._goal = ""
        self._answered = 0
        self._ends = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start the program. The seed changes nothing: what a program does is its own affair."""
        super().reset(seed=seed)
        self._end_program()
        first_s, _, episode_s, _ = self._limits
        self._steps = self._answered = 0
        self._ends = time.monotonic() + episode_s
        self._start()
        request = self._next(first_s)
        if request is None:
            assert self._program is not None
            last_words = self._program.last_words()
            raise RuntimeError(f"the program ended before its first request: {last_words}")
        heard = self._heard(request)
        goal, observation = goal_of(text_of(heard), self._given_goal or None)
        self._goal = goal
        return self._seen.clip(observation), self._info(heard)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer the open request."""
        assert self._rendezvous is not None
        self._steps += 1
        self._rendezvous.answer(action)
        self._answered += 1
        request = self._next(self._limits[1])
        if request is None:
            success = self._succeeded()
            info = {"goal": self._goal, "stop_reason": "won" if success else "lost"}
            return "", float(success), True, False, info
        heard = self._heard(request)
        truncated = self._steps >= self.max_steps
        stop = {"stop_reason": "step_limit"} if truncated else {}
        observation = self._seen.clip(text_of(heard))
        return observation, 0.0, False, truncated, self._info(heard) | stop

    def expert_action(self) -> str | None:
        """None: nobody knows what a program should be told."""
        return None

    def close(self) -> None:
        """End the program and the endpoint."""
        self._end_program()
        self._end_rendezvous()

    def _start(self) -> None:
        base = tempfile.mkdtemp(prefix="r2v-program-")
        self._folder = os.path.join(base, "work")
        os.mkdir(self._folder)
        endpoint = Path(base) / "endpoint" if self._sandbox else None
        if self._rendezvous is None or endpoint is not None:
            self._end_rendezvous()
            self._rendezvous = Rendezvous(endpoint)
        port = self._rendezvous.port or PORT
        environment = self._environment() | {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "OPENAI_API_KEY": self._rendezvous.begin(),
            "NO_PROXY": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
        }
        command = self._placed(self._command, endpoint)
        self._program = SupervisedProgram(command, base, self._folder, environment)

    def _environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in self._passed if name in os.environ}

    def _placed(self, command: list[str], endpoint: Path | None) -> list[str]:
        """The command where it is to run."""
        if not self._sandbox:
            return command
        return sandboxed(command, self._folder, self._shown, endpoint)

    def _next(self, limit_s: float) -> Asked | None:
        """The next request; None where the program has ended. Raises TimeoutError."""
        assert self._program is not None
        assert self._rendezvous is not None
        deadline = min(time.monotonic() + limit_s, self._ends)
        while time.monotonic() < deadline:
            request = self._rendezvous.wait(_TURN_S)
            if request is not None:
                return request
            if self._program.ended():
                return self._rendezvous.wait(0)
        name = "episode_s" if deadline == self._ends else "step_s or first_request_s"
        raise TimeoutError(f"the program asked nothing in time (env.program.{name})")

    def _heard(self, request: Asked) -> Heard:
        """What is new since the last answer."""
        chat = request.chat
        conversation = read_conversation(chat.messages, chat.tools, (), StateCache(16))
        steps = len(conversation.history)
        if steps != self._answered:
            raise RuntimeError(
                f"the program began another conversation: it shows {steps} answers and got "
                f"{self._answered}; one conversation is played"
            )
        return conversation.heard

    def _info(self, heard: Heard) -> dict[str, Any]:
        """Plain text needs nothing beside the observation; only at the first step it must begin as
        the loop would begin it."""
        info: dict[str, Any] = {"goal": self._goal}
        begins_alike = self._steps or text_of(heard).startswith("Goal: ")
        if isinstance(heard, Messages) or not begins_alike:
            info["heard"] = heard
        return info

    def _succeeded(self) -> bool:
        """By the check, or by how the program ended."""
        assert self._program is not None
        if not self._check:
            return self._program.exit_code == 0
        command = self._placed(self._check, None)
        check = SupervisedProgram(
            command, tempfile.mkdtemp(prefix="r2v-check-"), self._folder, self._environment()
        )
        try:
            if not check.ended(self._limits[3]):
                raise TimeoutError("the check did not end in time (env.program.check_s)")
            return check.exit_code == 0
        finally:
            check.close()

    def _end_rendezvous(self) -> None:
        if self._rendezvous is not None:
            self._rendezvous.close()
            self._rendezvous = None

    def _end_program(self) -> None:
        if self._program is not None:
            self._program.close()
            self._program = None
