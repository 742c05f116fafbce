"""Learners: TRL and DeepSpeed under Ray Train, and the script that makes the tiny base models."""
