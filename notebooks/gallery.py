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
# # Gallery
#
# Every figure that `interp.views` draws, each of a real run, with the question that it answers and the lines that make
# it. A view takes a result and returns a plotly figure; nothing is shown or changed behind your back, so figures can be
# edited, combined and saved like any other. Point at a cell, a line or a bar to read its number, its interval and n.
#
# The first parts are of small networks that ship with the package. The last one repeats the most used views on SmolLM2
# with 135 million parameters, if you have it.

# %%
import os
from pathlib import Path

import numpy as np
import xarray as xr

import interp
from interp import views
from interp.interventions import Constant, Rotation
from interp.models import zoo

model = interp.load("zoo/language-4l")
pairs = interp.tasks.ioi(64, seed=0, tokenizer=model.tokenizer)
print(pairs[0].clean.text, "→", *pairs[0].answers)
print(pairs[0].corrupted.text, "→", *pairs[0].wrong)

# %% [markdown]
# # Maps of a sweep
#
# ## `heatmap`: where does an intervention matter?
#
# Layer by position: at which tokens, and until which layer, the answer is held. Positions by number need prompts that line
# up, so there is one template here. Where the prompts have different words, the axis has their role, such as `{IO}`. Outlined
# cells survive a test over the whole map. With `store=` the run is kept in a folder.

# %%
aligned = interp.tasks.ioi(32, seed=0, templates=[0], order="ABBA", tokenizer=model.tokenizer)
by_position = interp.grid("resid_pre", layer=..., position=...)
stream = interp.patch(model, aligned, by_position, ["logit_diff", "prob"], store="runs", name="gallery: stream")
views.heatmap(stream)

# %% [markdown]
# The same question again is answered from the store, and a sweep that was stopped goes on with the units that are missing:

# %%
again = interp.patch(model, aligned, by_position, ["logit_diff", "prob"], store="runs", name="gallery: stream")
assert again.equals(stream)
interp.Store("runs").runs(name="gallery: stream").T

# %% [markdown]
# Layer by head: which heads move it. All positions of a head are patched together, so templates may be mixed; intervals are
# then over templates.

# %%
heads = interp.patch(model, pairs, interp.grid("z", layer=..., head=...), store="runs", name="gallery: heads")
views.heatmap(heads)

# %% [markdown]
# The numbers behind a map are tables. `top` has beside each effect what is left of it when the same examples do not both
# choose and measure it (`effect_adjusted`), and whether it differs from 0 for having looked at all cells (`p_adjusted`):

# %%
interp.top(heads, 5)

# %%
interp.summary(heads).sel(metric="logit_diff", layer=1).to_dataframe().round(3)

# %% [markdown]
# A third axis becomes a slider. Here it is training: a model with two layers, stored while it learnt to continue lists of
# words that repeat. Heads of one network seed are shown; some of them matter only late.

# %%
checkpoints = zoo.checkpoints("induction-forming")
checkpoints = checkpoints[checkpoints["step"].isin([0, 200, 280, 340, 400, 500, 1000])]


def without_a_head(one: interp.Model) -> xr.Dataset:
    lists = interp.tasks.induction(16, seed=0, tokenizer=one.tokenizer)
    return interp.patch(one, lists, interp.grid("z", layer=..., head=...), ["logit_diff", "prob"], patching="noising")


forming = interp.over(checkpoints, without_a_head)
views.heatmap(forming.sel(seed=0), "effect", slider="checkpoint")

# %% [markdown]
# ## `curve`: how does it change over layers, or over training?
#
# One line a role of the prompt, over layers: the name that occurs twice loses its hold where the last token gets it.

# %%
roles = interp.grid("resid_pre", layer=..., position=["IO", "S1", "S2", "END"])
views.curve(interp.patch(model, pairs, roles), x="layer")

# %% [markdown]
# One line a head, over training, with a band over three network seeds:

# %%
views.curve(forming.sel(layer=1), "effect", x="checkpoint", metric="prob")

# %% [markdown]
# ## `tracing`: is it in the stream, the MLPs or attention?
#
# The three maps of causal tracing, in the same colours from the corrupted to the clean value. Outlined cells survive a test
# over all three.

# %%
kinds = {site: interp.grid(site, layer=..., position=...) for site in ("resid_post", "mlp_out", "attn_out")}
views.tracing(interp.patch(model, aligned, kinds, metric="prob"))

# %% [markdown]
# ## `tokens`: the same numbers, read as text
#
# One layer of the first map, for three prompts: which words the network has to keep at that depth.

# %%
views.tokens(stream.sel(layer=1), "effect", example=[0, 1, 2])

# %% [markdown]
# ## `maps`: does the map depend on the choices?
#
# The same heads in both directions and two corruptions, with what each map flags ringed.

# %%
chosen = interp.compare_choices(model, pairs, subject="S2", metric=["logit_diff", "prob"])
views.maps(chosen.maps())

# %% [markdown]
# ## `specification_curve`: in how many of the analyses does it matter?
#
# One head under every direction, corruption, metric, way of putting examples together and template. Each mark in the rows
# below is an analysis with that choice, black where the head stands out by two standard deviations.

# %%
last = interp.grid("z", layer=..., head=..., position=["END"])
views.specification_curve(interp.multiverse(model, pairs, last, ["counterfactual", "mean", "resample", "zero"]))

# %% [markdown]
# # Looking inside one pass
#
# ## `lens`: what would every layer say?

# %%
views.lens(interp.lens(model, aligned))

# %% [markdown]
# ## `attention`: where does a head look?
#
# All heads are in one figure, with a menu of layers and a slider of heads; one alone is a figure for print.

# %%
patterns = interp.attention(model, aligned)
views.attention(patterns)

# %%
views.attention(patterns, layer=1, head=3)

# %% [markdown]
# ## `dla`: who writes the answer?
#
# What every head and MLP adds to the logit difference directly, everything behind it left out. The bars add up to the total.

# %%
views.dla(interp.dla(model, pairs), top=12)

# %% [markdown]
# By the token that a head attends to it is a map, of prompts that line up:

# %%
views.dla(interp.dla(model, aligned, by="source"), top=8)

# %% [markdown]
# ## `head_to_head`: who reads whom, by the weights alone?
#
# How much of what one head writes another one reads as its keys. No prompt is run.

# %%
views.head_to_head(interp.weights.composition(model, "k"))

# %% [markdown]
# # Circuits
#
# ## `circuit`: which connections matter?
#
# Every edge between two heads or MLPs is patched alone. The slider says how strong an edge must be to be drawn; for print,
# give `threshold=` instead.

# %%
edges = interp.patch_edges(model, interp.tasks.ioi(16, seed=0, tokenizer=model.tokenizer), store="runs", name="gallery: edges")
views.circuit(edges)

# %%
views.circuit(edges, threshold=0.1, width=views.COLUMN)

# %% [markdown]
# ## `paths`: through what does it flow from the words to the answer?

# %%
views.paths(edges, top=16)

# %% [markdown]
# ## `compare`: is the cheap estimate right?
#
# Attribution estimates all cells from two passes; patching runs each. Cells on the dashed line agree, the largest
# disagreements are named.

# %%
nodes = [interp.Site("z", layer=i, head=j) for i in range(4) for j in range(4)]
nodes += [interp.Site("mlp_out", layer=i) for i in range(4)]
exact = interp.patch(model, pairs, nodes, patching="noising")
estimated = interp.attribute(model, pairs, nodes, patching="noising")
views.compare(estimated, exact)

# %% [markdown]
# ## `faithfulness`: how much of the network does the behaviour need?
#
# A circuit keeps some heads and MLPs; all others get their values of the corrupted prompt, together. It is chosen on the
# pairs above and measured on others, which `mark_in_sample` checks: had one of them been used to choose, every figure would
# say so. The nodes are ranked by the exact effect, by the estimate, and at random with three seeds.

# %%
others = interp.tasks.ioi(32, seed=1, tokenizer=model.tokenizer)
sizes = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 19]


def keeping(kept: list[interp.Site]) -> interp.Intervention:
    return interp.Intervention([interp.Change(node) for node in nodes if node not in kept])


def circuits(ranked: list[interp.Site]) -> xr.Dataset:
    """The first nodes of a ranking, as many as ``sizes`` say."""
    run = interp.patch(model, others, [keeping(ranked[:size]) for size in sizes], patching="noising")
    run = run.assign_coords(size=("cell", sizes)).assign_attrs(total=len(nodes))
    return interp.effects.mark_in_sample(run, selected_on=exact)


def strongest_first(result: xr.Dataset) -> list[interp.Site]:
    harm = interp.effect(result).mean("example").sel(metric="logit_diff").values
    return [nodes[i] for i in np.argsort(harm)]


at_random = [circuits([nodes[i] for i in np.random.default_rng(seed).permutation(len(nodes))]) for seed in range(3)]
found = {
    "exact": circuits(strongest_first(exact)),
    "estimated": circuits(strongest_first(estimated)),
    "random": xr.concat([interp.recovery(one) for one in at_random], "seed"),
}
views.faithfulness(found, unit="nodes")

# %% [markdown]
# ## `pareto`: which method finds the better small circuits?
#
# Beside the rankings a greedy search, which gives up the node that is missed least, again and again. A step tries every node
# that is left, in one sweep.

# %%
kept, left = list(nodes), []
while len(kept) > 1:
    tried = [[node for node in kept if node is not candidate] for candidate in kept]
    values = interp.patch(model, pairs, [keeping(one) for one in tried], patching="noising")["value"]
    kept = tried[int(values.sel(metric="logit_diff").mean("example").argmax("cell"))]
    left.append(kept)
greedy = interp.patch(model, others, [keeping(one) for one in left], patching="noising")
found["greedy"] = greedy.assign_coords(size=("cell", [len(one) for one in left])).assign_attrs(total=len(nodes))
views.pareto(found, unit="nodes", log=False)

# %% [markdown]
# ## `roc`: does a method find the circuit that is really there?
#
# A network whose weights are formulas, so that its eight edges are known: a head of layer 0 copies the token before, one of
# layer 1 looks up by it. Patching from another prompt cannot see the edges that carry positions, since both prompts have the
# same ones; taking contributions away can.

# %%
tokenizer = zoo.induction_tokenizer()
formula = interp.load(zoo.induction_construction(), tokenizer=tokenizer, name="induction by formulas")
ids = zoo.induction_sequences(200, seed=0)
texts = tokenizer.batch_decode(ids)
says = [f" {tokenizer.decode(token)}" for token in formula.module(ids).logits[:, -1].argmax(-1)]
differ = [(*texts[i : i + 2], *says[i : i + 2]) for i in range(0, 200, 2) if says[i] != says[i + 1]]
counted = interp.pairs(*map(list, zip(*differ, strict=True)), task="what follows")

(copy_layer, copy_head), (look_layer, look_head) = zoo.INDUCTION_HEADS
copies, looks = f"L{copy_layer}H{copy_head}", f"L{look_layer}H{look_head}"
known = {f"embed → {head}.{slot}" for head in (copies, looks) for slot in "qkv"}
known |= {f"{copies} → {looks}.k", f"{looks} → logits"}

from_another = interp.patch_edges(formula, counted)
taken_away = interp.patch_edges(formula, counted, source=Constant(0.0))
names = from_another["edge"].values
truth = xr.DataArray([name in known for name in names], coords={"edge": names}, dims="edge")
assert int(truth.sum()) == len(known)
views.roc({"another prompt": from_another, "zero": taken_away}, truth)

# %% [markdown]
# ## `iia`: is a variable held in a subspace?
#
# The receiver's name, looked for in 16 of 128 directions at the last token: directions are trained (DAS) to carry it from one
# prompt to another, and judged on other prompts. An accuracy means little without its controls: subspaces at random, and the
# whole vector.

# %%
layers, seeds = range(4), range(3)
spaces = {
    (layer, seed): interp.Change(f"L{layer}.resid_post", "END", featurizer=Rotation(128, 16, seed=seed))
    for layer in layers
    for seed in seeds
}
learners = list(spaces.values())


def accuracy(result: xr.Dataset) -> xr.DataArray:
    """By layer and seed."""
    values = result["value"].sel(metric="accuracy").mean("example").values
    return xr.DataArray(values.reshape(len(layers), -1), {"layer": list(layers)}, ("layer", "seed"))


untrained = interp.patch(model, others, learners, "accuracy")
interp.training.fit(model, pairs, learners, epochs=4, lr=1e-2)
trained = interp.patch(model, others, learners, "accuracy")
whole = interp.patch(model, others, [interp.Change(f"L{layer}.resid_post", "END") for layer in layers], "accuracy")
table = xr.Dataset(
    {"iia": accuracy(trained), "random_subspace": accuracy(untrained), "full_vector": accuracy(whole).isel(seed=0)},
    attrs={"model": model.name, "task": "ioi"},
)
views.iia(table)

# %% [markdown]
# # Keeping figures
#
# HTML always works and stays interactive. PDF, SVG and PNG are drawn by a Chrome or Chromium; where there is none, the error
# says what to install. `views.COLUMN` and `views.PAGE` are the widths of a column and of a page.

# %%
Path("figures").mkdir(exist_ok=True)
views.save(views.heatmap(heads), "figures/heads.html")
if views.can_export():
    views.save(views.heatmap(heads, width=views.COLUMN), "figures/heads.pdf")
    views.save(views.heatmap(stream, width=views.PAGE, template="plotly_dark"), "figures/stream.png")
sorted(path.name for path in Path("figures").iterdir())

# %% [markdown]
# # A real model
#
# SmolLM2 with 30 layers of 9 heads, from a local folder; without it the same lines run on the small model.

# %%
cache = os.environ.get("INTERP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "interp")
folder = Path(cache, "SmolLM2-135M-Instruct")
larger = interp.load(folder if folder.is_dir() else "zoo/language-4l")
few = interp.tasks.ioi(8, seed=0, templates=[0], order="ABBA", tokenizer=larger.tokenizer)
larger

# %% [markdown]
# Where the answer is held: at the repeated name for two thirds of the layers, then at the last token.

# %%
larger_stream = interp.patch(larger, few, by_position)
views.heatmap(larger_stream)

# %%
views.tokens(larger_stream.isel(layer=larger_stream.sizes["layer"] // 2), "effect", example=[0, 1])

# %% [markdown]
# Which kind of layer moves it there, at the tokens that have a role in the task:

# %%
spots = ["IO", "S1", "S2", "END"]
families = {site: interp.grid(site, layer=..., position=spots) for site in ("resid_post", "mlp_out", "attn_out")}
views.tracing(interp.patch(larger, few, families, metric="prob"))

# %% [markdown]
# Which heads, at the last token alone; grey cells are within the rounding noise that the run measured of itself. The estimate
# finds the same heads and makes the strongest one weaker than it is.

# %%
larger_heads = interp.grid("z", layer=..., head=..., position="END")
larger_exact = interp.patch(larger, few, larger_heads)
views.heatmap(larger_exact)

# %%
views.compare(interp.attribute(larger, few, larger_heads), larger_exact)

# %% [markdown]
# What each head and MLP writes, what each layer would say, and where the strongest head looks:

# %%
views.dla(interp.dla(larger, interp.tasks.ioi(16, seed=0, tokenizer=larger.tokenizer)))

# %%
views.lens(interp.lens(larger, few), "answer_rank")

# %%
best = interp.top(larger_exact, 1).iloc[0]
views.attention(interp.attention(larger, few), layer=int(best["layer"]), head=int(best["head"]))

# %% [markdown]
# And who reads whom, of all of its heads:

# %%
views.head_to_head(interp.weights.composition(larger, "v"))
