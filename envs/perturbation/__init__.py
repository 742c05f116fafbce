"""Perturbations of any text environment: the wrapper, the operators, the words they use."""
