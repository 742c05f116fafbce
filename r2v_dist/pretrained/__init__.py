"""Pretrained models by name: where they come from, and where they lie on this machine."""
