"""The core of r2v: no ray, torch or vllm is imported by importing any module of this package."""

__version__ = "0.1.0"
