"""Causal abstraction: which parts of a network play the parts of a causal model's variables."""
