"""Function vectors: heads that carry a task, and their sum as a vector that does it (Todd et al., arXiv 2310.15213).

    python experiments/sources/function_vector.py [MODEL]

Each head's mean output at the last token of in-context prompts is put into prompts with shuffled labels; the heads that help
most are summed, and the sum is added to the residual stream of prompts without examples.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pandas as pd

import interp

SMOLLM2 = Path(os.environ.get("INTERP_CACHE", "~/.cache/interp")).expanduser() / "SmolLM2-135M-Instruct"
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Russia": "Moscow",
    "Cuba": "Havana", "Iran": "Tehran", "Germany": "Berlin", "England": "London", "Greece": "Athens", "China": "Beijing",
}  # fmt: skip


def prompts(*, shuffled: bool, shots: int = 5, seed: int = 0) -> list[tuple[str, str]]:
    """Prompts of some examples and a question, with its answer; labels of the examples are right, or another's."""
    draw, found = random.Random(seed), []
    for country, capital in CAPITALS.items():
        shown = draw.sample([other for other in CAPITALS if other != country], shots)
        labels = [CAPITALS[other] for other in (shown[1:] + shown[:1] if shuffled else shown)]
        lines = [f"{other}: {label}" for other, label in zip(shown, labels, strict=True)]
        found.append(("\n".join([*lines, f"{country}:"]), f" {capital}"))
    return found


def causal_heads(model: interp.Model, best: int) -> list[tuple[int, int]]:
    """The heads whose mean over in-context prompts raises the answer most where labels are shuffled."""
    right = [text for text, _ in prompts(shuffled=False)]
    pairs = [interp.Pair(text, text, answer) for text, answer in prompts(shuffled=True)]
    mean = interp.Activation(right, positions=-1, pool="mean")
    effects = interp.patch(model, pairs, interp.grid("z", layer=..., head=..., position=-1), "logprob", source=mean)
    strongest = interp.top(effects, 3 * best)
    helping = strongest[strongest["effect"] > 0][:best]
    return [(int(layer), int(head)) for layer, head in zip(helping["layer"], helping["head"], strict=True)]


def function_vector(heads: list[tuple[int, int]], layer: int) -> interp.Intervention:
    """The sum of the heads' means, added behind a layer at the last token."""
    right = [text for text, _ in prompts(shuffled=False)]
    sources = [interp.Activation(right, site=f"L{at}H{head}.result", positions=-1, pool="mean") for at, head in heads]
    return interp.Intervention.of(
        *(interp.Change(f"L{layer}.resid_post", -1, source=source, edit=interp.Add()) for source in sources)
    )


def table(model: interp.Model, best: int = 10) -> pd.DataFrame:
    """The capital's log-probability and probability after ``"France:"``, with the vector added behind each layer."""
    heads = causal_heads(model, best)
    pairs = [interp.Pair(f"{country}:", f"{country}:", f" {capital}") for country, capital in CAPITALS.items()]
    layers = range(0, model.sizes["layer"], 3)
    effects = interp.patch(model, pairs, [function_vector(heads, layer) for layer in layers], ["logprob", "prob"])
    means = effects["value"].mean("example").values
    print("heads:", ", ".join(f"L{layer}H{head}" for layer, head in heads))
    print("as it is:", effects["corrupt"].mean("example").values.round(2))
    return pd.DataFrame({"behind layer": layers, "logprob": means[0], "prob": means[1]}).round(2)


if __name__ == "__main__":
    print(table(interp.load(sys.argv[1] if len(sys.argv) > 1 else SMOLLM2)))
