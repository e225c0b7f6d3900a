"""What a model holds at one place, read out: lenses, direct attribution, attention."""
