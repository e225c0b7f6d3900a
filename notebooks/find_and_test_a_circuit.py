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
# # Find and test a circuit
#
# A *circuit* is some edges of a network's graph: who reads what of whom in the residual stream. Everything else is
# ablated, and one asks what is left of the behaviour. This tutorial finds circuits for indirect objects in a small
# model in four ways – exact effects, gradients, greedy pruning and learned masks – and then does what is most often
# left out: it tests them on other prompts, beside random circuits of the same size, and in a network whose circuit
# is known edge by edge.

# %%
import numpy as np

import interp
from interp.circuits import circuits_of, overlap, stability, strongest
from interp.models.zoo import KNOWN

model = interp.load("zoo/language-4l")
pairs = interp.tasks.ioi(96, seed=0, tokenizer=model.tokenizer)
discovery, held_out = pairs.split()
print(len(discovery), "pairs to find a circuit on,", len(held_out), "of other templates to test it on")

graph = interp.graph(model)
print(graph, graph.edges[:3], "…", graph.edges[-1])

# %% [markdown]
# ## What each edge does, exactly and to first order
#
# `patch_edges` lets one reader see one writer's contribution from the other prompt, for every edge: the truth about
# single edges, as rows of one sweep. `attribute_edges` estimates the same from gradients: in the base run (EAP), or
# along a path (EAP-IG).

# %%
exact = interp.patch_edges(model, discovery)
eap = interp.attribute_edges(model, discovery)
eap_ig = interp.attribute_edges(model, discovery, along="embeddings")
interp.top(exact, 8)

# %%
interp.views.compare(eap, exact)

# %%
interp.views.compare(eap_ig, exact)

# %% [markdown]
# ## From scores to a circuit
#
# The strongest edges, what leads nowhere dropped. The circuit remembers which examples made it.

# %%
circuit = strongest(eap_ig, graph, 25, name="EAP-IG, 25 edges").pruned()
print(circuit, "·", *circuit.nodes)
interp.views.circuit(exact.assign(in_circuit=circuit.dataset()["in_circuit"]))

# %% [markdown]
# ## Does it do what the model does?
#
# Faithfulness f is 1 where the circuit alone gives the model's logit difference, and 0 where it is no better than
# nothing. All sizes of all rankings and twenty random circuits of each size are rows of one sweep, on prompts of
# other templates than those that made the scores; the figure says so.

# %%
found = interp.evaluate_circuits(
    model, held_out, {"exact": exact, "EAP-IG": eap_ig}, sizes=[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0], random=10
)
interp.views.faithfulness(found, log=True)

# %%
interp.effects.circuit_areas(found)

# %% [markdown]
# ## At which tokens? In which neurons?
#
# A graph's nodes can be told apart: by tokens, where an edge is between the same tokens of its ends, for tokens meet
# inside of heads alone; and in coordinates, such as neurons, beside which the node itself is the rest. Everything here
# takes such a graph. The three strongest neurons of an MLP, by attribution patching, are nodes here, and none of them is
# strong enough to enter: the MLP does it with many.

# %%
neurons = interp.attribute(model, discovery, interp.grid("mlp_post", layer=1, unit=..., position=["END"]))
strong = [f"L1.mlp_post[{unit}]" for unit in np.argsort(-np.abs(interp.damage(neurons).values.ravel()))[:3]]
told_apart = interp.graph(model, coordinates=strong, spans=["S2", "END"])
by_token = interp.attribute_edges(model, discovery, along="embeddings", graph=told_apart)
smallest = strongest(by_token, told_apart, 24, name="at tokens").pruned()
alone = interp.patch_circuits(model, held_out, smallest)
print(f"{smallest}; logit difference {float(alone['value'].mean()):.2f} of {float(alone['clean'].mean()):.2f}")
print(*(repr(edge) for edge in smallest.edges), sep="\n")

# %% [markdown]
# ## Leaving out one edge after the other: ACDC
#
# Edges are left out from the logits backwards, as long as the divergence from the full model rises by less than a
# threshold. The decisions are those of asking one by one; they are foretold from estimates, asked about many at once
# and read in order, and an edge into a reader from which nothing leads to the logits any more goes without asking.

# %%
pruned = interp.acdc(model, discovery[:24], threshold=[0.001, 0.01, 0.1])
for cell, one in enumerate(circuits_of(pruned, graph)):
    asked, unasked = (int(pruned[name][cell]) for name in ("evaluated", "unasked"))
    print(f"{one!r}: divergence {float(pruned['value'][0, cell].mean()):.3f}; {asked} rows, {unasked} edges by rule")
interp.views.circuit(pruned.isel(cell=1))

# %% [markdown]
# ## Masks by gradient: edge pruning
#
# Every edge has a mask between 0 and 1, learned to keep the divergence small at a size that is asked for. Seeds and
# sizes are learned together, as rows of the same passes. The circuit that is read off is measured with whole edges.

# %%
learned = interp.edge_pruning(model, discovery[:24], [0.8, 0.9], seeds=2, steps=200, batch=8)
for cell, one in enumerate(circuits_of(learned, graph)):
    print(f"{one!r}: divergence {float(learned['value'][0, cell].mean()):.3f}")

# %% [markdown]
# ## Are these the same circuit?
#
# Overlap is not quality: circuits that share most of their edges may do different things, and the reverse. But a
# circuit that changes whenever other prompts are drawn is no finding.

# %%
by_acdc, by_mask = circuits_of(pruned, graph)[1], circuits_of(learned, graph)[1]
for name, other in (("ACDC", by_acdc), ("edge pruning", by_mask)):
    shared = overlap(circuit, other)
    print(f"{name}: {shared.both} edges shared, Jaccard {shared.jaccard:.2f} (by chance {shared.chance:.2f})")

stable = stability(eap_ig, graph, [10, 25, 100])
print(
    "Jaccard of circuits from resampled prompts:",
    dict(zip([10, 25, 100], stable["jaccard"].values.round(2).tolist(), strict=True)),
)

# %% [markdown]
# ## Where the truth is known
#
# A network that was compiled from a program: every edge of its circuit is known. Zero ablation and the squared
# distance of the logits find it exactly.

# %%
known = KNOWN["reverse"]()
compiled = interp.load(known.net, tokenizer=known.tokenizer, name=known.name)
zero = interp.Constant(0.0)
effects = interp.patch_edges(compiled, known.pairs, "l2", graph=known.truth.graph, source=zero)
flow = interp.information_flow(compiled, known.pairs, graph=known.truth.graph)["score"]
interp.views.roc({"exact": effects, "information flow": flow}, known.truth.dataset()["in_circuit"])

# %% [markdown]
# ## Which heads, without a counterfactual: gates
#
# Causal head gating learns a gate on every head, pulled open and pulled shut. Where both leave it open the behaviour
# needs it; where both shut it, it is in the way.

# %%
gates = interp.gate_heads(model, discovery, seeds=4, updates=60, batch=16)
interp.views.gates(gates)

# %% [markdown]
# ## Keep it
#
# A circuit is JSON, with what made it; `interp.interop.eap_ig` and `mib` read and write the formats of others.

# %%
text = circuit.to_json()
assert interp.circuits.Circuit.from_json(text) == circuit
print(text[:300], "…")
print(np.round(circuit.share, 3), "of all edges")
