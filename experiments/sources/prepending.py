"""Prepending: what a prompt's hidden states owe to what stands before it.

    python experiments/sources/prepending.py

The same prompt with a prefix in front is run, and its states are put into the run without, role by role and layer by layer: the
tokens stand elsewhere there, so they are found by role. Where nothing changes, the state does not know of the prefix.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

import interp


def prepended(prompt: interp.Prompt, prefix: str) -> interp.Prompt:
    """The same prompt behind a prefix, its roles moved along."""
    roles = {role: (start + len(prefix), stop + len(prefix)) for role, (start, stop) in prompt.roles.items()}
    return replace(prompt, text=prefix + prompt.text, roles=roles)


def table(model: interp.Model, pairs: interp.Pairs, prefix: str) -> pd.DataFrame:
    """Change of the logit difference by the states of the prompt behind the prefix, a line a layer."""
    both = interp.Pairs(tuple(replace(pair, corrupted=prepended(pair.clean, prefix)) for pair in pairs))
    where = interp.grid("resid_post", layer=..., position=["IO", "S1", "S2", "END"])
    effects = interp.patch(model, both, where, patching="noising")
    print("logit difference without and with the prefix:", *(float(effects[side].mean()) for side in ("clean", "corrupt")))
    return interp.effect(effects).mean("example").isel(metric=0).to_pandas().round(2)


if __name__ == "__main__":
    model = interp.load("zoo/language-4l")
    first, *others = interp.tasks.ioi(32, seed=0, tokenizer=model.tokenizer)
    print(table(model, interp.Pairs(tuple(others)), prefix=f"{first.clean.text}{first.answers[0]},"))
