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
# # Does the network implement this algorithm?
#
# An algorithm is written down as a **causal model**: variables, and what each is made of. If the network carries it out, then
# there is a place for every variable, and to put there what another input puts there changes the network's answer as it
# changes the algorithm's. This is an **interchange intervention**; how often the two agree is the **interchange intervention
# accuracy** (IIA). This tutorial finds such places, tells algorithms apart that give the same answers, and shows what a high
# accuracy does not say.

# %%
import torch

import interp
from interp.effects.alignment import told_apart
from interp.training.toys import trained_on

torch.manual_seed(0)
quick = {"batch": 128, "lr": 0.02, "progress": False}  # toys: seconds; a language model wants more steps and a smaller lr

# %% [markdown]
# ## An algorithm
#
# Are the first two of four things equal, and the last two, or neither? `WX` and `YZ` are the variables in between.

# %%
task = interp.tasks.hierarchical_equality()
print(task.model)
interp.views.causal_model(task.model.to_xarray())

# %% [markdown]
# Rows for the experiment: a **base**, a **source** for each variable that is swapped, and the label that the algorithm then
# gives. Half of the labels differ from the base's, so that to change nothing scores one half.

# %%
rows = task.counterfactuals(400, ("WX",), seed=0)
test = task.counterfactuals(300, ("WX",), seed=1)
print(rows, "| labels that change:", rows.flip.mean())

# %% [markdown]
# ## A network of which we know the answer
#
# Its weights are formulas: it does compute `WX` and `YZ`, and a random rotation has spread each over all units of a layer. No
# neuron is the variable; a **direction** is. Distributed alignment search (DAS) learns the subspace from the rows.

# %%
net = interp.models.zoo.hierarchical_equality(m=4).rotated(seed=0)
network = interp.load(net, example={"x": net.rows(3, seed=0).inputs}, name="formulas, rotated")
found = interp.das(network, rows, "hidden:output", test=test, rank=[1, 2], seeds=2, steps=150, controls="free", **quick)
print(found.verdict)

# %% [markdown]
# The same alignment does not carry the other variable. Both hypotheses are judged on the same rows, so their difference has a
# paired interval.

# %%
rivals = {"it is WX": (task.model, ("WX",)), "it is YZ": (task.model, ("YZ",))}
judged = interp.interchange(network, test, found.best, hypotheses=rivals, progress=False)
told_apart(judged)[["hypothesis", "rival", "iia", "rival_iia", "difference", "low", "high", "told_apart"]]

# %% [markdown]
# ## A network that was trained
#
# Nobody knows how this one does it. In every layer a rotation is looked for, and beside it the same search is made where there
# is nothing to find: in random weights, in shuffled ones, for shuffled labels, and for a variable of no use to the task. The
# claim is what validation rows chose; it is held against the **largest** of each control.

# %%
task = interp.tasks.equality_of_vectors()
trained = trained_on("equality of vectors", seed=0, steps=2500, least=0.97, progress=False)
places = interp.interventions.Arranged(
    [interp.Change(f"act{layer}:output") for layer in (1, 2, 3)], {"layer": [1, 2, 3]}, site="act"
)
learn, held = (task.counterfactuals(n, ("WX",), seed=seed) for seed, n in enumerate((1024, 512)))
false = task.falsely(1024, seed=2), task.falsely(512, seed=3)
search = interp.das(trained, learn, places, test=held, rank=8, seeds=1, steps=200, false=false, draws=10, **quick)
print(search.verdict)
interp.views.iia(search.effects)

# %% [markdown]
# ## What a high accuracy does not say
#
# A map that bends space finds the variable in the last layer too, where no subspace holds it. But a map that can bend enough
# can find anything: Sutter et al. (arXiv 2507.08802) align any algorithm with any network, random ones among them. So the
# verdict of `nonlinear_das` is only as good as its distance from the same search in random weights; `experiments/dilemma` has
# ten networks and searches that are long enough for the random ones to rise.

# %%
bent = interp.nonlinear_das(
    trained, learn, places, test=held, rank=8, seeds=1, steps=200, controls=("no_op", "random_network"), batch=128, lr=4e-3,
    progress=False,
)  # fmt: skip
print(bent.verdict)
interp.views.iia({"rotation": search.effects, "reversible network": bent.effects})

# %% [markdown]
# ## A language model
#
# Who is given something? A model may hold *which* of two people was named again, the first or the second (`order`), or *who* it
# was (`name`). Both say the same on every prompt, and different things once a value is swapped. Names, places, objects and
# sentences of the test part are none of the training part's.

# %%
model = interp.load("zoo/language-4l", progress=False)
task = interp.tasks.ioi_algorithm(model.tokenizer)
at_end = interp.grid("resid_post", layer=[2], position=["END"])
for name, variables in task.variables.items():
    learn, held = (
        task.counterfactuals(n, variables, seed=seed, model=name, part=part)
        for seed, (part, n) in enumerate((("train", 512), ("test", 200)))
    )
    one = interp.das(
        model, learn, at_end, test=held, rank=16, seeds=1, steps=80, batch=32, lr=1e-2, controls="free", draws=3, progress=False
    )
    print(f"{name}: {one.verdict}\n")

# %% [markdown]
# At the last token of this small model it is the name. In SmolLM2 the same search finds the order there, behind block 20, with
# names and sentences that it has not seen ([`experiments/ioi_order`](../experiments/ioi_order)).
#
# Further: `interp.boundless_das` learns how many dimensions, `interp.binary_masking` chooses units, and
# `interp.interchange_training` trains a network to have an algorithm. Whether a subspace carries one variable and nothing else
# is asked with rows that want something else (`interp.tasks.attributes`, `interp.effects.alignment.disentangled`).
# `interp.tasks.causal_gym` has 29 linguistic tasks. Figures of whole experiments:
# [`das_hierarchical_equality`](../experiments/das_hierarchical_equality), [`dilemma`](../experiments/dilemma),
# [`boundless_price_tagging`](../experiments/boundless_price_tagging).
