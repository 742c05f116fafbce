"""One step, one episode, one tree of episodes. No Ray."""
