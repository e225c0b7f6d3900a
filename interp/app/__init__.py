"""A store in the browser: find runs, look at their maps, at the examples behind a cell, and at two runs side by side.

    $ interp view runs

Reads a store and nothing else, writes nothing, answers this machine only. Needs the extra ``app``.
"""
