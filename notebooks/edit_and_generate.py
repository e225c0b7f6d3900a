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
# # Edit and generate
#
# Change an activation while a model runs, and see what it says; keep the change in force for a while; let the model write
# under it; take the value from somewhere else. All on the small transformer of `notebooks/first_look`, in which head 3 of
# layer 1 looks at the giver and speaks against him.
#
# You need to know PyTorch; nothing of this library is assumed.

# %%
import pandas as pd
import torch

import interp
from interp import Activation, Add, Change, Scale
from interp.models import zoo

model = interp.load("zoo/language-4l")
text = "One morning Aaron and Daniel met at the market, and Aaron handed a basket to"
model.run(text)

# %% [markdown]
# ## An edit is a function
#
# A `Change` says where, at which tokens, and what is done. What is done may be any function of the activation `h` and a
# context `ctx`: `h` holds the named site at the named tokens alone, and `ctx` tells which they are.


# %%
def turned(h, ctx):
    print(f"{ctx.site}, axes {ctx.axes}, shape {tuple(h.shape)}")
    print(f"example {ctx.rows.tolist()}, positions {ctx.positions.tolist()}, tokens {ctx.tokens.tolist()}")
    return -h


turn = Change("L1H3.z", -1, edit=turned)
ran = model.run(text, [None, turn], capture="L1H3.z")  # None is the model as it is
ran.next(1)[["intervention", "token", "prob"]]

# %% [markdown]
# `capture` returns activations as they are after the edit; `[cell, example, position, …]`, a cell an intervention.

# %%
before, after = ran["L1H3.z"]
assert torch.equal(after[0, -1], -before[0, -1])
assert torch.equal(after[0, :-1], before[0, :-1])
assert ran.next(1).token.tolist() == [" Daniel", " Aaron"]

# %% [markdown]
# Many edits have names and need no function: `Scale(-1.0)` does the same. A function can be anything, so it has no
# identity: a stored sweep of a named edit is found and resumed, one of a function is not. `explain` takes the arguments of
# a sweep, runs nothing and says what would be done; a last line speaks of functions.

# %%
pairs = interp.tasks.ioi(32, seed=0, tokenizer=model.tokenizer)
print(interp.explain(model, pairs, Change("L1H3.z", "END", edit=lambda h, ctx: -h), patching="noising"))

# %%
named = model.run(text, Change("L1H3.z", -1, edit=Scale(-1.0)))
assert torch.allclose(named.final, ran.final[1], atol=1e-5)

# %% [markdown]
# ## Ablation, four ways
#
# To ablate is to put something in a component's place that does not depend on the prompt: zero, the mean over prompts, the
# value of another prompt, or the constant that hurts least, found by gradient. Three heads, on prompts of one template:

# %%
aligned = interp.tasks.ioi(32, seed=0, templates=[0], order="ABBA", tokenizer=model.tokenizer)
heads = [Change("L0H2.z"), Change("L1H1.z"), Change("L1H3.z")]
metrics = ["logit_diff", "prob", "kl"]
found = {
    kind: interp.ablate(model, aligned, heads, kind, metrics, steps=40, progress=False)
    for kind in ("zero", "mean", "resample", "optimal")
}
lost = {kind: one.value.mean("example").to_series() for kind, one in found.items()}
table = pd.DataFrame(lost).rename(index={0: "L0H2", 1: "L1H1", 2: "L1H3"}).swaplevel().sort_index().round(3)
table

# %%
found["zero"].clean.mean("example").to_series().round(3)  # without any of it

# %% [markdown]
# Kinds and metrics each say something else. Without L1H1 the *difference* of the two names grows or shrinks, as the kind has
# it; but the answer's own probability is gone either way: the model then prefers names that are not in the sentence.
# L1H3 tells the two apart: without it the difference vanishes, and half of the probability is left. The optimal constants
# lose the least `kl`, to which they were fitted.

# %%
before = found["zero"].clean.mean("example").to_series()
assert table.loc[("L1H1", "logit_diff"), "resample"] < before["logit_diff"] < table.loc[("L1H1", "logit_diff"), "zero"]
assert table.loc[("L1H1", "prob")].max() < 0.02
assert model.run(text, Change("L1H1.z", edit=Scale(0.0))).next(1).token.item() not in text
assert table.loc[("L1H3", "logit_diff")].max() < 1
assert table.loc[("L1H3", "prob")].between(0.4, 0.6).all()
for head in ("L0H2", "L1H1", "L1H3"):
    assert table.loc[(head, "kl")].idxmin() == "optimal"

# %% [markdown]
# ## In force for a while
#
# Inside `model.edited` everything runs under the interventions: calls of this library, and whatever else calls the module.

# %%
ids = model.tokenizer(text, return_tensors="pt")
turn = Change("L1H3.z", -1, edit=Scale(-1.0))
with model.edited(turn):
    raw = model.module(**ids).logits[0, -1]
    says = interp.lens(model, text).token.isel(example=0, position=-1, rank=0)
print("the module itself:", model.tokenizer.decode([raw.argmax()]))
print("the lens:         ", *says.values)

# %% [markdown]
# Weights can be exchanged in the same manner, by the name of a parameter, a pattern of names, or a head's own matrix. The
# very same parameters are back behind the block.

# %%
digest = model.digest
with interp.reweighted(model, {"L1H3.W_O": lambda w: -w}):
    print(model.run(text))
    assert model.digest != digest
assert model.digest == digest
assert model.run(text).next(1).token.item() == " Daniel"

# %% [markdown]
# ## Writing under a change
#
# `generate` takes the same interventions. Here the unembedding's row of "Emma" is added to the stream behind layer 2, at
# five strengths: they are rows of one batch. `scope` says where an edit of all positions acts: in the prompt, on what is
# new, or on all of it. `compare=True` runs the model as it is beside, on the text that was written.

# %%
emma = interp.weights.token_direction(model, " Emma", fold_norm=False)
steer = Change("L2.resid_post", source=emma, edit=Add())
doses = interp.doses(steer, [0, 10, 20, 40, 80])
written = interp.generate(model, text, doses, scope="prompt", compare=True, max_new_tokens=6)
written.table()[["strength", "text", "logprob", "kl", "perplexity"]].round(2)

# %% [markdown]
# Perplexity is the unedited model's, of the text that the edited one wrote; `kl` is how far its next-token distributions
# are from the unedited ones, a mean over the tokens. A dose of 0 is the model as it is. Now by scope:

# %%
scopes = {}
for scope in ("prompt", "new", "all"):
    made = interp.generate(model, text, doses, scope=scope, compare=True, max_new_tokens=6)
    scopes[scope] = made.table().set_index("strength")[["text", "perplexity"]]
pd.concat(scopes, axis=1).round(1)

# %% [markdown]
# In the prompt it changes who gets the basket and nothing else. On new tokens it comes too late for that – the first new
# token is decided at the prompt's last one – and at high doses breaks the sentence instead.

# %%
texts = {scope: table["text"].tolist() for scope, table in scopes.items()}
assert texts["prompt"][0] == texts["new"][0] == texts["all"][0] == " Daniel."
assert texts["prompt"][-1] == " Emma."
assert all(one.startswith(" Daniel") for one in texts["new"])
assert scopes["new"]["perplexity"].iloc[-1] > 100 * scopes["prompt"]["perplexity"].iloc[-1]

# %% [markdown]
# `score` asks the reverse: how probable is a text that is given? `nll` is in nats a token, here of the name alone.

# %%
endings = [text + " Daniel.", text + " Emma."]
scored = interp.score(model, endings, doses, of=-2)
pd.DataFrame(scored.nll.values, scored.strength.values, ["… Daniel.", "… Emma."]).round(2)

# %%
assert (scored.nll.diff("cell").sel(example=0) > 0).all()
assert (scored.nll.diff("cell").sel(example=1) < 0).all()

# %% [markdown]
# ## Values from elsewhere
#
# A source need not be a constant: `Activation` takes the value of another run, and prompt, layer, site and position may
# each differ from the target's. Take the last token of our sentence behind layer 0, 1, 2 or 3, and put it at the last token
# of a list of words, behind layer 1. What the model goes on to say shows what the state holds – a **Patchscope**.

# %%
words = "magnet table river stone magnet"
states = [Change("L1.resid_post", -1, Activation(text, layer=layer, positions=-1)) for layer in range(4)]
scope = model.run(words, [None, *states]).next(1)[["token", "prob"]].round(2)
scope.set_axis(["the list as it is", *(f"from layer {layer}" for layer in range(4))])

# %% [markdown]
# On its own the list goes on with "table", as it did the first time. From behind layer 1 on, the state carries "Daniel" into
# it; the state behind layer 0 makes no name of the sentence likely.

# %%
assert scope.token.tolist()[0] == " table"
assert scope.token.tolist()[2:] == [" Daniel"] * 3
assert scope.token.tolist()[1] not in (" Daniel", " Aaron")

# %% [markdown]
# The source may also be a mean over prompts, as in **function vectors**. In the next sentences Daniel gives, in another
# place, another thing, to other people. The mean of what L1H3 writes there is put in the place of what it writes in our
# sentence, where Aaron gives:

# %%
others = ["Sara", "Ryan", "Jane", "Ashley", "George"]
daniel_gives = [f"After Daniel and {name} came back from the bank, Daniel gave a toy to" for name in others]
vector = Change("L1H3.result", -1, Activation(daniel_gives, pool="mean", positions=-1))
swapped = model.run(text, [None, vector]).next(1)[["intervention", "token", "prob"]]
swapped

# %% [markdown]
# The model now says Aaron. What the head wrote in other sentences serves in this one: it is about who gives.

# %%
assert swapped.token.tolist() == [" Daniel", " Aaron"]

# %% [markdown]
# ## A base that is changed already, and parts that are held
#
# Effects of components do not add up where one can stand in for another. A hand-made net shows it: L0H0 repeats a token
# (logit 1), and L1H0 does so, more quietly (0.75), only where L0H0 did not. `given` asks a question of a model that is
# changed already; `hold` keeps parts at what they were, so that nothing can react.

# %%
net = interp.load(zoo.backup_construction(), name="backup")
prompts = zoo.backup_prompts(net.module)
first, backup = Change("L0H0.z", edit=Scale(0.0)), Change("L1H0.z", edit=Scale(0.0))


def logit(intervention=None, **options):
    final = net.run(prompts, intervention, **options).final
    return round(final.gather(1, prompts[:, 1:2]).mean().item(), 3)


{
    "as it is": logit(),
    "without the first": logit(first),  # the backup repairs most of it
    "without the backup": logit(backup),  # seems to do nothing
    "without the backup, given that the first is out": logit(backup, given=first),  # it did everything
    "without the first, attention held": logit(first, hold="pattern"),  # its direct effect: no repair
}

# %%
assert (logit(), logit(first), logit(backup), logit(backup, given=first), logit(first, hold="pattern")) == (1, 0.75, 1, 0, 0)

# %% [markdown]
# The same two arguments go to sweeps. L0H2 mostly attends to the token before; without it our task fails. Because later
# heads then look elsewhere?

# %%
one = Change("L0H2.z", edit=Scale(0.0))
free = interp.patch(model, aligned, one, patching="noising")
held = interp.patch(model, aligned, one, patching="noising", hold="pattern")
pd.Series({"as it is": free.clean, "without L0H2": free.value, "and patterns held": held.value}).map(lambda d: float(d.mean()))

# %% [markdown]
# Not for that reason: with every pattern held at what it was, the wrong name is further ahead still. What later parts
# *read* at the tokens that they look at is missing.

# %%
assert held.value.mean() < free.value.mean() < 0 < free.clean.mean()

# %% [markdown]
# ## When does induction form?
#
# `over` asks one question of many models. The zoo has a two-layer model stored 20 times while it learnt to continue
# repeated sequences, from three seeds; we take one seed and a few of its checkpoints. The question: which heads carry the
# repeated word?

# %%
table = zoo.checkpoints("induction-forming")
few = table[(table.seed == 0) & table.step.isin([0, 200, 360, 400, 440, 500, 1000])]
repeats = interp.tasks.induction(16, seed=0, length=8, tokenizer=interp.load(few.name.iloc[0]).tokenizer)
every_head = interp.grid("z", layer=..., head=...)
forming = interp.over(few, lambda model: interp.patch(model, repeats, every_head))
interp.views.heatmap(forming, "effect", slider="checkpoint")

# %%
means = forming.squeeze(["seed", "metric"]).mean("example")
gap = (means.clean - means.corrupt).to_series()
pd.DataFrame({"clean − corrupted": gap, "best head of layer 1": (means.value - means.corrupt).sel(layer=1).max("head")}).round(
    2
)

# %% [markdown]
# Nothing at step 200; between 360 and 500 the clean and the corrupted prompt come apart, and the heads of layer 1 carry the
# difference.

# %%
assert abs(gap[200]) < 0.5 < 3 < gap[400] < 10 < gap[500]
assert (means.value - means.corrupt).sel(layer=1, checkpoint=1000).max() > 3
