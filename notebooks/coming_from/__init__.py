"""What notebooks/coming_from_elsewhere.py runs: the same ten tasks in three other libraries, and the table that compares."""
