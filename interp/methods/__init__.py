"""One published method a file, in families. None yet: activation patching itself is the engine's ``patch``."""
