"""Counterfactual labels: which states, which branches, what their ends say."""
