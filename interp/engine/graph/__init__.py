"""The residual stream as a graph: its edges, and what each of them carries."""
