"""The environment's own oracle as a language model: it reads hidden state, so reports call it
privileged.
"""

from r2v_dist.language_model import Answer, Candidate, Request, whole


class ExpertModel:
    """The environment's own oracle: it reads hidden state, so it is reported as a privileged
    oracle.
    """

    async def sample(self, request: Request) -> Answer:
        """The oracle's action; no candidate where the task can no longer be solved."""
        assert request.oracle is not None
        action = whole(request.oracle() or "")
        return Answer((Candidate(action),) if action.strip() else (), "expert")
