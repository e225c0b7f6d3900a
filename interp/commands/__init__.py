"""Commands of the command line that work on stores, one class each."""
