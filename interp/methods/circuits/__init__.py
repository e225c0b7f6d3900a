"""Circuits: which edges of a network are a behaviour, found and tested."""
