"""Where does it happen? Methods that localise a behaviour: one a file, each on the engine."""
