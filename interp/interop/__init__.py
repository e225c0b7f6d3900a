"""Other libraries' objects and formats, in and out. Their hook names are understood by ``interp.sites``."""
