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
# # Coming from TransformerLens, nnsight or pyvene
#
# Ten things that one does with a language model, in four libraries, on one model with the same weights. Below every task
# stand the three other libraries' functions exactly as they run, then ours, then a table with one number of each library's
# answer and the largest deviation of all its numbers from ours. Where a comparison needs an option, it is said why.
#
# The versions are TransformerLens 4.3 (a `TransformerBridge`), nnsight 0.8 and pyvene 0.1.8, with transformers 5. Each runs
# in a process of its own, because importing it changes the process. Their files are in the folder `coming_from`.

# %%
import sys
import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import interp

here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
if str(here.resolve()) not in sys.path:
    sys.path.insert(0, str(here.resolve()))

from coming_from import question
from coming_from.side_by_side import Peers, show

# %% [markdown]
# ## One model, three pairs of prompts
#
# A GPT-2 with random weights that are large enough for everything to matter, and the tokenizer of a model that ships with
# the package. What it says makes no sense; whether four libraries compute the same thing can be seen all the better.
# A **pair** is a *clean* prompt with an answer and a *corrupted* one that has another; here they differ in one name.

# %%
words = interp.load("zoo/language-4l").tokenizer
torch.manual_seed(0)
shape = {"n_layer": 4, "n_embd": 32, "n_head": 4, "n_positions": 32, "vocab_size": len(words)}
network = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.3, bos_token_id=1, eos_token_id=2))
for parameter in network.parameters():
    if parameter.ndim == 1:  # biases are 0 and gains 1 at the start, which would hide a mistake with either
        parameter.data += 0.2 * torch.randn_like(parameter)

temporary = tempfile.TemporaryDirectory()
folder = temporary.name
words.save_pretrained(folder)
network.save_pretrained(folder)

# %%
model = interp.load(folder)  # a hub id, a folder, a GGUF file or your own nn.Module
pairs = interp.tasks.ioi(3, seed=0, templates=[0], order="ABBA", tokenizer=words)
clean = [pair.clean.text for pair in pairs]
print(model)
print(pairs[0].clean.text, "→", *pairs[0].answers)
print(pairs[0].corrupted.text, "→", *pairs[0].wrong)

# %% [markdown]
# The other libraries get the same prompts as token ids, so that nobody adds a BOS token of its own, and two things to
# intervene with: a steering vector and four orthonormal directions.

# %%
steering = torch.randn(32)
basis = torch.linalg.qr(torch.randn(32, 4)).Q  # width × 4
question.save(
    folder,
    clean=torch.tensor(words(clean).input_ids),
    corrupted=torch.tensor(words([pair.corrupted.text for pair in pairs]).input_ids),
    answer=torch.tensor([words.encode(pair.answers[0], add_special_tokens=False)[0] for pair in pairs]),
    wrong=torch.tensor([words.encode(pair.wrong[0], add_special_tokens=False)[0] for pair in pairs]),
    steering=steering,
    basis=basis,
)
peers = Peers.of(folder)  # some ten seconds, most of them imports

# %% [markdown]
# How the others load it, and two helpers that the pyvene file uses throughout. `q` holds what was saved above. Where a task
# asks for one number a prompt, it is the answer's logit minus the wrong one's after the last token: `logit_diff(logits, q)`
# there, the metric `"logit_diff"` here, which `patch` and its like read from the pairs.

# %%
show("load", "collect", "intervene")

# %% [markdown]
# ## 1 · What comes next?
#
# Run some prompts and read the next token. `next` is a pandas table; `final` has the logits after each prompt's last token.

# %%
show("next_token")

# %%
ran = interp.run(model, clean, logits="last")
ran.next(1)

# %%
peers.compare("next_token", ran.final.log_softmax(-1))

# %% [markdown]
# ## 2 · Keep one activation
#
# Sites are named by role, the same in every architecture: `L2.resid_post` is what leaves block 2. Hook names of
# TransformerLens are understood as well (`"blocks.2.hook_resid_post"`). What comes back has names on every axis and the
# tokens beside it; `interp.run(…, capture=…)` gives plain tensors.

# %%
show("one_activation")

# %%
kept = interp.cache(model, clean, "L2.resid_post")
kept

# %%
peers.compare("one_activation", kept.resid_post.sel(layer=2))

# %% [markdown]
# ## 3 · Attention patterns
#
# Asked for by layer and head, with what each head mostly attends to. Models need not be loaded in a particular way for it;
# nnsight and pyvene read them where the model was loaded with eager attention, and pyvene from a variant that is GPT-2's own.

# %%
show("attention_patterns")

# %%
patterns = interp.attention(model, clean, layers=1)
peers.compare("attention_patterns", patterns.pattern.sel(layer=1))

# %% [markdown]
# ## 4 · Zero a head
#
# `ablate` runs on the clean prompts; `"mean"`, `"resample"` and `"optimal"` are the same call.

# %%
show("zero_a_head")

# %%
without = interp.ablate(model, pairs, interp.grid("z", layer=1, head=2), "zero")
peers.compare("zero_a_head", without.value.sel(metric="logit_diff"))

# %% [markdown]
# ## 5 · Patch the residual stream, layer by position
#
# The run on the corrupted prompts gets the clean run's value at one place at a time. This is what `patch` does unless told
# otherwise; it skips the work that cannot change a number, and says how much that was.

# %%
show("patch_the_stream")

# %%
stream = interp.patch(model, pairs, interp.grid("resid_pre", layer=..., position=...), "logit_diff")
print(f"{float(stream.by_rule.mean()):.0%} of the cells cannot have an effect and were not run")
peers.compare("patch_the_stream", stream.value.sel(metric="logit_diff"))

# %% [markdown]
# ## 6 · Steer
#
# A `Change` says where, with what value and doing what. `patching="noising"` says that it is made in the run on the clean
# prompts rather than the corrupted ones.

# %%
show("steer")

# %%
push = interp.Change("L1.resid_post", source=steering, edit=interp.Add(4))
steered = interp.patch(model, pairs, push, "logit_diff", patching="noising")
peers.compare("steer", steered.value.sel(metric="logit_diff").squeeze("cell"))

# %% [markdown]
# If you would rather write a function of the activation, that is a `Change` too; and `with interp.edited(model, push):` puts it
# in force for everything inside.

# %%
by_function = interp.Change("L1.resid_post", edit=lambda h, ctx: h + 4 * steering)
torch.testing.assert_close(interp.run(model, clean, by_function).final, interp.run(model, clean, push).final)

# %% [markdown]
# ## 7 · The logit lens
#
# What every layer would say if it were the last, through the model's own final norm. Of pairs the answer is theirs; layer
# −1 is what enters block 0. `interp.views.lens` draws it.

# %%
show("logit_lens")

# %%
lens = interp.lens(model, pairs, position=-1)
peers.compare("logit_lens", lens.answer_logit.squeeze("position"))

# %% [markdown]
# ## 8 · Direct logit attribution
#
# How much each head writes along the answer's logit minus the wrong one's, the last norm's scale held. The terms here are
# all of them – embeddings, heads, biases, MLPs – and add up to the logit difference. TransformerLens asks for compatibility
# mode here, which moves value biases out of the heads unless told not to; heads are compared with their bias.

# %%
show("direct_logit_attribution")

# %%
direct = interp.dla(model, pairs)
torch.testing.assert_close(torch.tensor(direct.contribution.sum("term").values), torch.tensor(direct.logit_diff.values))
peers.compare("direct_logit_attribution", direct.by_head)

# %% [markdown]
# ## 9 · Attribution patching
#
# The effect of patching every head, estimated from one backward pass: activation difference × gradient. `attribute` takes the
# arguments of `patch`, so the exact effects beside it are the same line with the other name.

# %%
show("attribution_patching")

# %%
every_head = interp.grid("z", layer=..., head=...)
estimate = interp.effect(interp.attribute(model, pairs, every_head)).sel(metric="logit_diff")
exact = interp.effect(interp.patch(model, pairs, every_head)).sel(metric="logit_diff")
print(f"largest difference from the exact effects: {float(abs(estimate - exact).max()):.2f}")
peers.compare("attribution_patching", estimate.transpose("example", "layer", "head"))

# %% [markdown]
# ## 10 · Interchange in a subspace
#
# Of the last token's stream only the part along four directions is taken from the clean run: an interchange intervention in
# rotated coordinates. The directions are a `featurizer`; a learned one (`interp.interventions.Rotation`) goes in its place, and
# `interp.training.fit` trains it.

# %%
show("interchange_in_a_subspace")

# %%
swap = interp.Change("L2.resid_post", -1, featurizer=interp.Subspace(basis))
swapped = interp.patch(model, pairs, swap, "logit_diff")
peers.compare("interchange_in_a_subspace", swapped.value.sel(metric="logit_diff").squeeze("cell"))

# %% [markdown]
# ## All of it
#
# Largest deviation from our numbers, by task and library. That is rounding: every library adds up in an order of its own.

# %%
assert all(peers.tables[task]["agrees"].all() for task in question.TASKS)
temporary.cleanup()
print(peers.summary().to_string(float_format="{:.0e}".format))

# %% [markdown]
# ## Phrase book
#
# | there | here |
# |---|---|
# | `run_with_cache`, `tracer.cache`, `CollectIntervention` | `interp.cache`, or `interp.run(…, capture=…)` for tensors |
# | a hook function, an assignment in a trace, a pyvene function | `interp.Change(site, edit=function)` |
# | `run_with_hooks`, `model.trace`, `IntervenableModel(…)(base)` | `interp.run(model, prompts, change)` |
# | `model.hooks`, `model.edit` | `with interp.edited(model, change):` |
# | `get_act_patch_…`, a loop over traces, a loop over configs | `interp.patch(model, pairs, interp.grid(…))` |
# | clean and corrupted cache; base and source | `patching="denoising"` (base corrupted, source clean) or `"noising"` |
# | `RotatedSpaceIntervention`, `SubspaceInterchange` | `featurizer=interp.Subspace(basis)`; learned: `Rotation` |
# | `blocks.9.attn.hook_z`, `transformer.h[9].attn.c_proj.input`, `head_attention_value_output` | `L9.z`, one head `L9H6.z` |
#
# You need not leave what you have: `interp.load(bridge)` takes your live `TransformerBridge` with its hooks,
# `backend="nnsight"` runs sweeps in traces, also on the NDIF service, and `interp.interop.pyvene` reads and writes pyvene's
# configs and saved folders. Sites, metrics and results stay those of this page.
