"""A store in the browser: find runs, look at their maps, at the examples behind a cell, and at two runs side by side.

    $ interp view runs

Answers this machine only, reads one store, and writes nothing (but the store may renew its index). Needs the extra ``app``.
"""
