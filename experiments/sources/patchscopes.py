"""Patchscopes: what a hidden state holds, said by the model itself (Ghandeharioun et al., arXiv 2401.06102).

    python experiments/sources/patchscopes.py [MODEL]

The state of the last token of a prompt, behind layer l, is put in place of the "?" of a prompt that repeats words; the model
then goes on writing. MODEL is a folder or hub id, by default SmolLM2-135M-Instruct from INTERP_CACHE.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd

import interp

SMOLLM2 = Path(os.environ.get("INTERP_CACHE", "~/.cache/interp")).expanduser() / "SmolLM2-135M-Instruct"
REPEAT = "cat -> cat; 1135 -> 1135; hello -> hello; ? ->"
QUERY = -2
"""Where the "?" is."""
PROMPTS = ("The Eiffel Tower is in Paris", "My sister plays the violin", "He paid in dollars")


def scopes(text: str, layers: list[int], into: list[int]) -> list[interp.Change]:
    """One change a layer of the source and of the target, the source's first."""
    return [
        interp.Change(f"L{target}.resid_post", QUERY, source=interp.Activation(text, layer=layer, positions=-1))
        for layer in layers
        for target in into
    ]


def table(model: interp.Model, layers: list[int], into: list[int]) -> pd.DataFrame:
    """What is written, a line a prompt and layer of the source, a column a layer of the target."""
    lines = {}
    for text in PROMPTS:
        written = interp.generate(model, REPEAT, scopes(text, layers, into), max_new_tokens=3).texts
        for number, layer in enumerate(layers):
            row = written[number * len(into) : (number + 1) * len(into)]
            lines[text, layer] = [texts[0].split(";")[0].strip() for texts in row]
    index = pd.MultiIndex.from_tuples(lines, names=["prompt", "from layer"])
    return pd.DataFrame(list(lines.values()), index=index, columns=[f"into layer {layer}" for layer in into])


if __name__ == "__main__":
    print(table(interp.load(sys.argv[1] if len(sys.argv) > 1 else SMOLLM2), layers=[0, 2, 5, 10, 20], into=[0, 2, 5]))
