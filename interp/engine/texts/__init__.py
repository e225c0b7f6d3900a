"""Text written under interventions: what is asked, how it runs, what comes of it."""
