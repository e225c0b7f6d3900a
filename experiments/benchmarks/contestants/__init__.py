"""Contestants of the benchmarks: one file a library, every one answering the same question with its own means."""
