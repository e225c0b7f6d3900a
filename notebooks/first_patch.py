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
# # A first patch
#
# A small transformer that ships with the package has learnt to tell who receives something: after *"When Mary and
# John went to the store, John gave a drink to"* it says *Mary*. Where in the network is that answer held, and which
# heads move it? We find out by intervention: run the model on a prompt with another answer, put one activation of the
# original run into it, and see how much of the original answer comes back.
#
# You need to know PyTorch; nothing of this library is assumed.

# %%
import interp

model = interp.load("zoo/language-4l")
model

# %% [markdown]
# ## The prompts
#
# A task makes **pairs**. The *clean* prompt has the behaviour; the *corrupted* prompt differs in one name, so that
# the answer flips and everything else stays.

# %%
pairs = interp.tasks.ioi(32, seed=0, tokenizer=model.tokenizer)
print(pairs[0].clean.text, "→", *pairs[0].answers)
print(pairs[0].corrupted.text, "→", *pairs[0].wrong)

# %% [markdown]
# ## Where: the residual stream, layer by position
#
# A **grid** names a family of interventions, one for every combination of its axes; `...` means all. `patch` runs
# them: by default on the corrupted prompt with values from the clean one ("denoising"). Positions by raw index need
# prompts that line up, so we take one template here.

# %%
aligned = interp.tasks.ioi(16, seed=0, templates=[0], order="ABBA", tokenizer=model.tokenizer)
stream = interp.patch(model, aligned, interp.grid("resid_pre", layer=..., position=...), metric=["logit_diff", "accuracy"])
stream

# %% [markdown]
# The result is an `xarray.Dataset` with one number for every cell *and example*: `value` with the intervention,
# `clean` and `corrupt` without. Everything else is a function of these. Recovery is 0 where nothing changed and 1
# where the clean answer is fully back:

# %%
interp.recovery(stream).sel(metric="logit_diff").round(2)

# %%
interp.views.heatmap(stream)

# %% [markdown]
# Cells before the first token that differs are exactly 0, without a forward pass: a causal model cannot know there.
# `by_rule` says which. The noise floor is the effect of writing the base's own values back, measured in the same
# sweep:

# %%
print(f"{float(stream.by_rule.mean()):.0%} of the cells by rule; noise floor {stream.attrs['noise_floor']}")

# %% [markdown]
# ## Who: attention heads
#
# The same call on another grid. Templates may be mixed, since all positions of a head are patched together.

# %%
heads = interp.patch(model, pairs, interp.grid("z", layer=..., head=...))
interp.views.heatmap(heads)

# %%
interp.top(heads, 5)

# %% [markdown]
# ## Your own intervention
#
# A `Change` says where, at which tokens, with what value, doing what. Names of heads are read as people write them,
# and the tokens can be named by their role in the task. Here: knock out the strongest head, at the last token only,
# in the clean run.

# %%
strongest = interp.top(heads, 1).iloc[0]
site = interp.Site("z", layer=int(strongest["layer"]), head=int(strongest["head"]))
knock_out = interp.Change(site, "END", edit=interp.Scale(0.0))
run = interp.patch(model, pairs, knock_out, ["logit_diff", "accuracy"], patching="noising")
print(knock_out)
print(interp.summary(run, "value")["mean"].to_series().round(3))
print("without it:", run["clean"].mean("example").to_series().round(3).to_dict())

# %% [markdown]
# ## Keep it
#
# A store is a folder. A run's id is the digest of what was asked, so the same question finds the same run; everything
# needed to judge a number travels with it.

# %%
store = interp.Store("runs")
store.save(stream, name="stream")
store.save(heads, name="heads")
store.runs()

# %%
assert store.load("heads").equals(heads)
