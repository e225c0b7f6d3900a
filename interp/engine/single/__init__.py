"""One run of some prompts: what it says, what it holds, and what it does while it is changed."""
