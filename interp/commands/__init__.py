"""Commands of the command line that work on stores, one class each.

What a command works with is imported when it runs: help and the shell's completion wait for no pandas.
"""
