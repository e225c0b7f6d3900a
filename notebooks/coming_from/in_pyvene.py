"""The ten tasks with pyvene 0.1.8. Run by worker.py; ``q`` is question.load's.

pyvene is about interventions: reading is the intervention that collects, and what is done with the values afterwards is torch.
"""

from __future__ import annotations

import pyvene
import torch

from coming_from.question import logit_diff, network


def load(folder):
    return network(folder)  # an IntervenableModel wraps it, one for each intervention


def collect(model, ids, component, layers):
    """What a component holds in some layers: ``[layer, example, …]``."""
    keep = [pyvene.CollectIntervention(keep_last_dim=True) for _ in layers]  # else positions and features are one axis
    where = [{"layer": n, "component": component, "intervention": one} for n, one in zip(layers, keep, strict=True)]
    (_, found), _ = pyvene.IntervenableModel(pyvene.IntervenableConfig(where), model)({"input_ids": ids})
    return torch.stack(found)


def intervene(model, kind, layer, component, base, source=None, locations=None, **more):
    where = {"layer": layer, "component": component} | more
    intervenable = pyvene.IntervenableModel(pyvene.IntervenableConfig([where], intervention_types=kind), model)
    sources = None if source is None else [{"input_ids": source}]
    return intervenable({"input_ids": base}, sources, locations)[1].logits


def next_token(model, q):
    found, _ = pyvene.IntervenableModel(pyvene.IntervenableConfig([]), model)({"input_ids": q.clean})  # the base's own output
    return found.logits[:, -1].log_softmax(-1)


def one_activation(model, q):
    return collect(model, q.clean, "block_output", [2])[0]


def attention_patterns(model, q):
    # "attention_weight" is what enters the module attn_dropout, which in transformers 5 only this variant of GPT-2 calls
    model.transformer.h[1].attn.reorder_and_upcast_attn = True
    return collect(model, q.clean, "attention_weight", [1])[0]


def zero_a_head(model, q):
    every = list(range(q.clean.shape[1]))
    at = [[[[2]] * len(q.clean), [every] * len(q.clean)]]
    where, at = "head_attention_value_output", {"sources->base": (None, at)}
    return logit_diff(intervene(model, pyvene.ZeroIntervention, 1, where, q.clean, locations=at, unit="h.pos"), q)


@torch.no_grad()
def patch_the_stream(model, q):
    layers, positions = range(model.config.n_layer), range(q.clean.shape[1])
    cells = []
    for layer in layers:
        for position in positions:
            at = {"sources->base": position}
            logits = intervene(model, pyvene.VanillaIntervention, layer, "block_input", q.corrupted, q.clean, at)
            cells.append(logit_diff(logits, q))
    return torch.stack(cells).unflatten(0, (len(layers), -1))


def steer(model, q):
    vector = (4 * q.steering).expand(*q.clean.shape, -1)
    logits = intervene(model, pyvene.AdditionIntervention, 1, "block_output", q.clean, source_representation=vector)
    return logit_diff(logits, q)


def logit_lens(model, q):
    stream = [collect(model, q.clean, "block_input", [0])[0], *collect(model, q.clean, "block_output", range(4))]
    read = [model.lm_head(model.transformer.ln_f(hidden[:, -1])) for hidden in stream]
    return torch.stack([each[torch.arange(len(q.answer)), q.answer] for each in read], -1)


def direct_logit_attribution(model, q):
    layers, heads, norm = range(model.config.n_layer), model.config.n_head, model.transformer.ln_f
    z = collect(model, q.clean, "attention_value_output", layers)[:, :, -1].unflatten(-1, (heads, -1))
    final = collect(model, q.clean, "block_output", layers[-1:])[0, :, -1]
    columns = model.lm_head.weight
    reads = (columns[q.answer] - columns[q.wrong]) * norm.weight
    reads = (reads - reads.mean(-1, keepdim=True)) / (final.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    out = torch.stack([block.attn.c_proj.weight.unflatten(0, (heads, -1)) for block in model.transformer.h])
    return torch.einsum("lehs,lhsw,ew->elh", z, out, reads)


def attribution_patching(model, q):
    layers, heads = range(model.config.n_layer), model.config.n_head
    difference = collect(model, q.clean, "attention_value_output", layers)
    difference = difference - collect(model, q.corrupted, "attention_value_output", layers)
    # The slope at an activation is the slope at a zero that is added to it.
    added = [torch.zeros_like(each, requires_grad=True) for each in difference]
    where = [{"layer": n, "component": "attention_value_output", "source_representation": added[n]} for n in layers]
    config = pyvene.IntervenableConfig(where, intervention_types=pyvene.AdditionIntervention)
    _, found = pyvene.IntervenableModel(config, model)({"input_ids": q.corrupted})
    slopes = torch.autograd.grad(logit_diff(found.logits, q).sum(), added)
    return torch.stack([(d * g).unflatten(-1, (heads, -1)).sum((1, 3)) for d, g in zip(difference, slopes, strict=True)], 1)


def interchange_in_a_subspace(model, q):
    where = {"layer": 2, "component": "block_output", "low_rank_dimension": q.basis.shape[1]}
    config = pyvene.IntervenableConfig([where], intervention_types=pyvene.LowRankRotatedSpaceIntervention)
    intervenable = pyvene.IntervenableModel(config, model)
    (intervention,) = intervenable.interventions.values()
    intervention.rotate_layer.weight = q.basis
    at = {"sources->base": q.clean.shape[1] - 1}
    _, found = intervenable({"input_ids": q.corrupted}, [{"input_ids": q.clean}], at)
    return logit_diff(found.logits, q)
