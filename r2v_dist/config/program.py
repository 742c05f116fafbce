"""An agent program as an environment: the part of a run's configuration."""

from typing import Any

from pydantic import Field

from r2v_dist.config.base import Section
from r2v_dist.config.places import UserPath

_LONGEST_S = 1e6


class ProgramConfig(Section):
    """`env.kind: program`: any agent program that speaks to an OpenAI-compatible endpoint."""

    tasks: UserPath
    """JSON lines, one a task: `id`, `command` (a list, `{folder}` is the folder of this file), and
    optionally `check` (a second command), `split` and `goal`. Tasks without a split are dealt out
    by `env.splits`."""
    first_request_s: float = Field(60.0, gt=0, le=_LONGEST_S)
    """Deadline from the start of the program to its first request, in seconds."""
    step_s: float = Field(60.0, gt=0, le=_LONGEST_S)
    """Deadline from an answer to the program's next request or its end, in seconds."""
    episode_s: float = Field(600.0, gt=0, le=_LONGEST_S)
    """Deadline of an episode, in seconds."""
    check_s: float = Field(60.0, gt=0, le=_LONGEST_S)
    """Deadline of the check, in seconds."""
    pass_environment: tuple[str, ...] = ()
    """Environment variables that the program gets besides PATH, HOME, LANG and its endpoint."""
    sandbox: bool = False
    """Whether program and check run in a sandbox of bubblewrap. Else they are plain processes of
    this machine, with the rights of whoever starts the run."""
    shown: tuple[UserPath, ...] = ()
    """Folders and files that a sandbox shows, read-only, besides /usr, the interpreter with its
    packages, and the folder of `tasks`."""

    def content(self) -> dict[str, Any]:
        """The keys that decide what an episode is; where files lie is none of them."""
        content = self.model_dump(mode="json", exclude={"tasks", "shown"})
        # A newer key counts only where it is set, so that what was finished stays finished.
        if not self.sandbox:
            del content["sandbox"]
        return content
