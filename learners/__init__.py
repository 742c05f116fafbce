"""Learners under Ray Train: behaviour cloning, verifier, DPO (TRL, DeepSpeed) and router."""
