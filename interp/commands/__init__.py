"""Commands of the command line, one class each: those on stores, and the table of methods.

What a command works with is imported when it runs: help and the shell's completion wait for no pandas.
"""
