"""interp: find out by intervention which parts of a network cause its behaviour."""
