# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where is it? Localising indirect-object identification
#
# *"When Mary and John went to the store, John gave a drink to"* – *Mary*. Which parts of a network make it say so?
# There are many standard ways to ask, and they do not ask the same thing. This tutorial goes through them on one
# small model, each in a few lines: patching, path patching, gradients and what they miss, knockouts, mediation,
# causal tracing; and then asks what one should ask of all of them: does it depend on how I looked?
#
# All results are xarray, with every example kept; `recovery`, `damage`, `effect` and every figure are functions of
# them. `interp methods` lists what there is.

# %%
import os
from pathlib import Path

import interp
from interp.engine.embeddings import embedding_std

model = interp.load("zoo/language-4l")
pairs = interp.tasks.ioi(64, seed=0, tokenizer=model.tokenizer)
print(pairs[0].clean.text, "→", *pairs[0].answers)
print(pairs[0].corrupted.text, "→", *pairs[0].wrong)
interp.methods.table()[["id", "function"]]

# %% [markdown]
# ## Which heads, at which token
#
# Each head's output at each role, put from the clean run into the corrupted one. `recovery` 1 means that the clean
# answer is back.

# %%
heads = interp.grid("z", layer=..., head=..., position=["S2", "END"])
patched = interp.patch(model, pairs, heads)
interp.top(patched, 5)

# %%
interp.views.heatmap(patched.sel(position="END"))

# %% [markdown]
# The other direction, noising, asks whether a head is *needed*. Where two heads can each do the work alone, denoising
# finds both and noising neither; where both are needed it is the other way round.

# %%
at_end = interp.grid("z", layer=..., head=..., position=["END"])
noised = interp.patch(model, pairs, at_end, patching="noising")
interp.views.heatmap(noised.sel(position="END"))

# %% [markdown]
# What attention adds, in windows of two layers, beside single layers: a peak of a window that is more than its
# layers' sum says that they work together.

# %%
for width in (1, 2):
    window = interp.patch(model, pairs, interp.grid("attn_out", position=["S2", "END"], window=width))
    print(width, interp.recovery(window).sel(metric="logit_diff").round(2).values.tolist())

# %% [markdown]
# ## Through which paths
#
# A head that matters may say the answer itself, or tell another head where to look. Path patching separates them:
# only the direct path to the logits; or only what reaches the queries, keys or values of later heads.

# %%
strongest = [
    f"L{layer}H{head}" for layer, head in zip(*(interp.top(noised, 2)[axis] for axis in ("layer", "head")), strict=True)
]
first = sorted(strongest)[0]
later = [f"L{n}H{head}" for n in range(int(first[1]) + 1, model.sizes["layer"]) for head in range(model.sizes["head"])]
routes = {"logits": "logits"} | {slot: [f"{head}.{slot}" for head in later] for slot in ("q", "k", "v")}
paths = interp.path_patch(model, pairs, heads, routes)
{name: interp.damage(one.to_dataset()).round(2).max().item() for name, one in paths.children.items()}

# %%
interp.views.heatmap(paths["logits"].to_dataset().sel(position="END"))

# %% [markdown]
# ## By gradient, and what gradients miss
#
# Attribution patching estimates all heads from two forward passes and one backward pass. `verify` patches the largest
# and a random sample of the others exactly, and says how far the estimate can be trusted.

# %%
estimate = interp.attribute(model, pairs, at_end, patching="noising")
interp.verify(model, pairs, at_end, estimate, top=4, sample=8, patching="noising")

# %%
star = interp.atp_star(model, pairs, interp.grid("q", layer=..., head=..., position=["END"]), patching="noising")
star["score"].sel(metric="logit_diff").mean("example").squeeze("position").round(2).to_pandas()

# %% [markdown]
# ## What attention reads
#
# Cutting the last token off from a name, in all heads, layer by layer or in windows; and what each group of tokens
# brings to the last token, decoded (Token Lens).

# %%
cut = interp.knockout(model, pairs, ["END"], ["IO", "S1", "S2"], window=2)
interp.views.curve(cut.sel(metric="logit_diff", position="END"))

# %%
lens = interp.token_lens(model, pairs, {"IO": "IO", "S": ["S1", "S2"]})
lens

# %% [markdown]
# ## How much goes through, and how much past
#
# Causal mediation divides the whole effect of the other prompt into what goes through a head (indirect) and what goes
# past it (direct). With odds as the response and ratios, as in the paper:

# %%
mediated = interp.mediate(model, pairs, at_end)
shares = interp.effects.mediation(mediated, "ratio", "median").sel(metric="odds")
print(f"total effect {shares.total.item():.1f}")
interp.views.heatmap(shares["indirect"].squeeze("position"), title="Natural indirect effect (median ratio)")

# %% [markdown]
# ## Is an ablated model the same model?
#
# Other heads answer to an ablation. `self_repair` divides the total effect of each head into its direct effect and
# what makes up for it: other heads, MLPs, and the last norm, which divides by less. The terms sum exactly.

# %%
repair = interp.self_repair(model, pairs, at_end, "mean")
columns = ["total", "direct", "heads", "mlps", "norm"]
means = repair[columns].sel(metric="logit_diff").mean("example").squeeze("position")
means.to_dataframe()[columns].round(2).sort_values("direct").head(4)

# %% [markdown]
# An ablated head may also say something that no prompt makes it say. Zero is far from what most heads write; the
# other prompt's value is what heads do write.

# %%
for kind, source in (("zero", interp.interventions.zero()), ("other prompt", None)):
    off = interp.off_distribution(model, pairs, at_end, source=source, patching="noising", scales=False)
    print(kind, "flags", int(off["flagged"].sum()), "of", off["flagged"].size, "heads")

# %% [markdown]
# ## Does it depend on how I looked?
#
# The same heads under every direction × corruption × metric × way of putting examples together × template: in how
# many of the analyses does a head stand out by two standard deviations?

# %%
noise = interp.Change("embed", "S2", interp.Noise(3 * embedding_std(model, pairs, "S2")), interp.Add())
abc = interp.tasks.ioi(64, seed=0, tokenizer=model.tokenizer, corruption="abc")
ways = {
    "names swapped": None,
    "three other names": abc,
    "noise on S2": noise,
    "mean": "mean",
    "resample": "resample",
    "zero": "zero",
}
analyses = interp.multiverse(model, pairs, at_end, ways)
interp.views.specification_curve(analyses)

# %% [markdown]
# What carries the answer under swapped names need not stand out when every name is new, where the model has nothing
# to tell apart. A head that matters in half of the analyses is a finding about those analyses.
# `experiments/multiverse` does this for all heads of SmolLM2.

# %% [markdown]
# ## Where a fact is recalled
#
# Causal tracing asks the same of facts: noise on the subject's embeddings, one state restored. With SmolLM2 at hand,
# some facts that it knows; without it the small model's names, so that the lines run.

# %%
cache = os.environ.get("INTERP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "interp")
folder = Path(cache, "SmolLM2-135M-Instruct")
larger = interp.load(folder, name="SmolLM2-135M-Instruct") if folder.is_dir() else model
if folder.is_dir():
    asked = interp.tasks.facts(24, seed=0, tokenizer=larger.tokenizer).check(larger, by="top1").kept[:4]
    traced = interp.trace(larger, asked, draws=2, window=10)
else:
    traced = interp.trace(model, pairs[:8], "S2", draws=2, window=2)
interp.views.tracing(traced)

# %% [markdown]
# A map of few facts is noisy. [`experiments/causal_tracing`](../experiments/causal_tracing) has fifty, with four draws:
#
# ![Causal tracing of fifty facts](../experiments/causal_tracing/traced-SmolLM2-135M-Instruct.svg)
#
# An early site, states and MLPs at the subject's last token, and a late one, states and attention at the last token.
# They meet at layer 23: the state at the last token recovers half of the effect in 2 of 50 facts before it, and in 46
# behind it, where those of the subject's tokens recover next to nothing. The band of attention is ten layers wide
# because its windows are: restored alone, attention of layer 23 brings back half as much, and any other hardly anything.
