"""vLLM as a Ray actor: the engine, the handle that brings it back, weights replaced in place."""
