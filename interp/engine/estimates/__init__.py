"""Effects estimated from gradients, which are not runs of what they estimate."""
