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
# # First look at a model
#
# One prompt, one small transformer that ships with the package, and every way of looking at it that takes a line or two:
# what it says, what it holds, what each layer would answer, where heads look, what they add to the answer, and what their
# weights say without any prompt. Then we change one thing and look again, and at the end ask whether one prompt was enough.
#
# You need to know PyTorch; nothing of this library is assumed. `notebooks/first_patch` goes on from here to sweeps over
# many prompts, `notebooks/edit_and_generate` to edits.

# %%
import pandas as pd

import interp

model = interp.load("zoo/language-4l")  # a hub id, a local folder, a GGUF file or any nn.Module would do as well
model

# %% [markdown]
# ## Where one can look
#
# A **site** is a named tensor in the forward pass, called the same in every architecture: `resid_post` is the residual
# stream behind a block, `z` what a head has gathered, `pattern` its attention, `mlp_out` what the MLP adds. `L1H3.z` is
# head 3 of layer 1; both count from 0.

# %%
model.sites()

# %% [markdown]
# ## What it says
#
# Two people, one of them gives something: who gets it? The model was trained on sentences of this kind. It knows few
# words; those of `interp.tasks.ioi` are among them.

# %%
text = "One morning Aaron and Daniel met at the market, and Aaron handed a basket to"
answer, wrong = " Daniel", " Aaron"  # as tokens, with the space before them

ran = model.run(text)
ran

# %%
ran.next(3)[["token", "prob"]]

# %%
assert ran.next(1).token.item() == answer
assert ran.logits.shape == (1, 17, 687)  # ordinary tensors: prompt, position, vocabulary

# %% [markdown]
# ## What it holds
#
# `cache` keeps the sites that are named, and no others, with a name on every axis and the tokens as a coordinate. The
# result is an `xarray.Dataset`: `.sel` takes labels, `.values` is a numpy array.

# %%
held = interp.cache(model, text, ["resid_post", "z"])
held

# %% [markdown]
# The length of the residual stream, by token and layer:

# %%
tokens = held.token.values[0]
length = (held.resid_post**2).sum("d_model").isel(example=0) ** 0.5
pd.DataFrame(length.values.T, tokens, held.layer.values).round(1)

# %% [markdown]
# ## What each layer would answer
#
# The **logit lens** decodes the stream behind every block as if it were the last one, through the model's own final norm
# and unembedding. `answer` asks for one token's probability besides. "embed" is what enters block 0.

# %%
lens = interp.lens(model, text, answer)
interp.views.lens(lens)

# %%
last = lens.isel(example=0, position=-1)
pd.DataFrame({"says": last.token.isel(rank=0).values, "p(Daniel)": last.answer_prob.values.round(3)}, last.depth.values)

# %% [markdown]
# At the last token the answer is not there behind block 0 and is nearly settled behind block 1. So block 1 is the place to
# look at.

# %%
p = last.answer_prob.values
assert p[1] < 0.01 < 0.95 < p[2]

# %% [markdown]
# ## Where heads look
#
# `attention` gives the patterns of all heads, and numbers that say what a head mostly attends to. The view shows one head;
# the slider below it chooses which.

# %%
attention = interp.attention(model, text, layers=1)
interp.views.attention(attention)

# %%
looks = attention.pattern.isel(example=0, layer=0, position=-1)
at = [tokens[i] for i in looks.argmax("source_position").values]
pd.DataFrame({"looks at": at, "weight": looks.max("source_position").values.round(3)}, [f"L1H{h}" for h in range(4)])

# %% [markdown]
# From the last token, head 1 looks at Daniel and head 3 at Aaron, each with all of its attention. One looks at the answer,
# the other at the name that must *not* be said.

# %%
assert (at[1], at[3]) == (answer, wrong)
assert looks.max("source_position").values[[1, 3]].min() > 0.99

# %% [markdown]
# ## What they add to the answer
#
# The residual stream is a sum, and logits are (but for the last norm's scale, which is held) linear in it. So the
# difference of two logits is a sum over heads and MLPs: **direct logit attribution**. It is exact, and it is about the
# direct path alone: what a head does by way of later layers is counted to those.

# %%
shares = interp.dla(model, text, answer, wrong)
interp.views.dla(shares)

# %%
shares.contribution.isel(example=0).to_series().nlargest(4).round(2)

# %%
assert abs(shares.total.item() - shares.logit_diff.item()) < 1e-4

# %% [markdown]
# `m1` is the MLP of layer 1. It reads what the heads of its layer write, so it may well pass on their finding. The two
# heads come next, and L1H3 adds much although it looks at the wrong name. How?

# %% [markdown]
# ## What the weights say, without a prompt
#
# A head that attends to `x` adds `x @ ov` to the stream. That matrix is never formed; it is kept as two factors.

# %%
ov = interp.weights.ov(model, "L1H3")
ov, ov.singular_values()[:3]

# %% [markdown]
# Between embedding and unembedding, the same matrix says which tokens a head speaks for when it looks at a token, and which
# it speaks against. Of L1H3 the latter:

# %%
full = interp.weights.full_ov(model, "L1H3")
full.table(3, [wrong, answer], largest=False).token.to_pandas()

# %% [markdown]
# Looking at Aaron, it lowers Aaron more than any other token; and the same for Daniel. The **copying score** says this of
# all tokens at once: 1 for a head that speaks for what it looks at, −1 for one that speaks against it.

# %%
copies = interp.weights.copying_score(model)
interp.views.heatmap(copies)

# %% [markdown]
# Now everything points at the same two heads, by different roads:

# %%
names = [f"L1H{h}" for h in range(4)]
added = shares.by_head.sel(layer=1).isel(example=0).values.round(2)
pd.DataFrame({"looks at": at, "adds": added, "copying": copies.sel(layer=1).values.round(2)}, names)

# %% [markdown]
# L1H1 looks at the answer and, by its weights, speaks for what it looks at. L1H3 looks at the giver and speaks against him,
# which leaves the other person.

# %%
assert copies.sel(layer=1, head=3) < -0.9 < 0.9 < copies.sel(layer=1, head=1)
assert added[3] > added[1] > 0.5 > abs(added[[0, 2]]).max()

# %% [markdown]
# ## Who feeds them
#
# **Composition scores** say how much of what one head writes another one reads: as key (`"k"`), as query or as value. Two
# random matrices score 1/√128 = 0.09 here, so only what stands out from the rest means something.

# %%
keys = interp.weights.composition(model, "k")
interp.views.head_to_head(keys)

# %%
keys.sel(receiver="L1H1").dropna("sender").to_series().round(3)

# %% [markdown]
# L1H1 takes its keys from L0H2 more than from the others. What are these two? On a list of words that is said twice, L0H2
# attends to the token before, and L1H1 to the token that followed the last time: a previous-token head and an induction
# head, the textbook pair.

# %%
listed = "iron button horse magnet leather iron button horse magnet leather"
heads = interp.attention(model, listed).isel(example=0)
print("L0H2 to the token before:   ", round(heads.previous_token.sel(layer=0, head=2).item(), 2))
print("L1H1 to what followed then: ", round(heads.induction.sel(layer=1, head=1).item(), 2))

# %%
assert heads.previous_token.max() == heads.previous_token.sel(layer=0, head=2) > 0.9
assert heads.induction.max() == heads.induction.sel(layer=1, head=1) > 0.99
assert keys.sel(receiver="L1H1").idxmax() == "L0H2"

# %% [markdown]
# ## Change one thing and look again
#
# Weights and patterns suggest; an intervention decides. An edit is a function of the activation `h` and of a context
# `ctx`, which says where it is; it returns the new activation. If L1H3 speaks against the giver, then with its sign
# turned, at the last token alone, it should speak for him.


# %%
def turned(h, ctx):
    return -h


def silent(h, ctx):
    return 0 * h


changes = [interp.Change("L1H3.z", -1, edit=silent), interp.Change("L1H3.z", -1, edit=turned)]
ran = model.run(text, [None, *changes])  # None is the model as it is
ran.next(2)[["intervention", "token", "prob"]]

# %% [markdown]
# Silent, it leaves the right answer in place but less sure of it; turned, the model says Aaron. Every way of looking takes
# the same changes as `given`, so that one sees what they did elsewhere:

# %%
again = interp.dla(model, text, answer, wrong, given=changes[1])
both = {"before": shares.contribution, "after": again.contribution}
pd.DataFrame({k: c.isel(example=0).to_series() for k, c in both.items()}).loc[["L1H1", "L1H3", "m1"]].round(2)

# %% [markdown]
# The MLP has changed sides as well: it was passing on what L1H3 wrote. L1H1 writes what it wrote; its share shrinks with
# the last norm's scale alone.

# %%
said = ran.next(1).token.tolist()
assert said == [answer, answer, wrong]
assert again.contribution.sel(term="m1") < 0
rescaled = shares.contribution.sel(term="L1H1") * shares.scale / again.scale
assert abs(rescaled - again.contribution.sel(term="L1H1")).item() < 1e-4

# %% [markdown]
# And if L0H2 feeds L1H1, then without L0H2, at all tokens, L1H1 should look elsewhere:

# %%
without = interp.Change("L0H2.z", edit=silent)
model.run(text, without)

# %%
elsewhere = interp.attention(model, text, layers=1, heads=1, given=without).pattern.squeeze().values[-1]
opposed = interp.dla(model, text, answer, wrong, given=without).contribution.sel(term="L1H1").item()
print(f"L1H1 looks at{tokens[elsewhere.argmax()]} with {elsewhere.max():.2f} and adds {opposed:.1f}")

# %% [markdown]
# It looks mostly at Aaron, and what it now says against the answer outweighs all the others: the model says Aaron.

# %%
assert model.run(text, without).next(1).token.item() == wrong == tokens[elsewhere.argmax()]
assert opposed < -10

# %% [markdown]
# ## One prompt is an anecdote
#
# All of this was one sentence. Pairs of a task go where the text went, with their own answers and wrong answers:

# %%
pairs = interp.tasks.ioi(64, seed=0, tokenizer=model.tokenizer)
every = interp.dla(model, pairs)
interp.views.dla(every)

# %% [markdown]
# L1H3 stays, L1H1 is next to nothing. Which tokens does L1H1 look at? Prompts differ in length, and shorter ones end in NaN,
# so "the last token" is another position in each:

# %%
patterns = interp.attention(model, pairs, layers=1, heads=1)
end = (patterns.token != "").sum("position") - 1
seen = patterns.pattern.isel(layer=0, head=0).isel(position=end).argmax("source_position")
name = patterns.source_token.isel(source_position=seen).values
before = patterns.source_token.isel(source_position=seen - 1).values
of_answer = pd.Series([str(n) == pair.answers[0] for n, pair in zip(name, pairs, strict=True)], name="sees the answer")
of_answer.value_counts()

# %%
terms = every.contribution.sel(term=["L1H1", "L1H3"]).to_pandas()
terms.groupby(of_answer).mean().round(2)

# %% [markdown]
# In every prompt L1H1 looks at the name behind the first "and", which is the answer in half of them, and what it adds to the
# difference of the two names does not depend on whether it is. Pattern, copying score and share all spoke for it as the
# head that names the answer, and on our prompt that was chance. (It is not idle: `edit_and_generate` ablates it.) L1H3
# speaks for the answer in every prompt. To find out what a head is *for*, ask many prompts, and intervene; `first_patch`
# does both.

# %%
assert set(before) == {" and"}
assert 24 <= of_answer.sum() <= 40
assert (terms["L1H3"] > 0).all()
assert terms["L1H1"].groupby(of_answer).mean().abs().max() < 0.5
