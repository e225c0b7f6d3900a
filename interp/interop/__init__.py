"""Other libraries' formats, in and out. Nothing is read or written yet; their hook names are understood by ``interp.sites``."""
