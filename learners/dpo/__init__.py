"""Verifier-guided preference learning with a consistency term."""
