"""The gateway: a trained router behind an OpenAI-compatible endpoint. No Ray, no engine."""
