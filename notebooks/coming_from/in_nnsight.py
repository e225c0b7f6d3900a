"""The ten tasks with nnsight 0.8, in traces. Run by worker.py; ``q`` is question.load's."""

from __future__ import annotations

import nnsight
import torch

from coming_from.question import logit_diff, network


def load(folder):
    return nnsight.NNsight(network(folder))  # LanguageModel("gpt2") for a model of the hub


def next_token(model, q):
    with model.trace(input_ids=q.clean):
        logits = model.output.logits.save()
    return logits[:, -1].log_softmax(-1)


def one_activation(model, q):
    with model.trace(input_ids=q.clean):
        stream = model.transformer.h[2].output.save()
    return stream.detach()


def attention_patterns(model, q):
    with model.trace(input_ids=q.clean):
        pattern = model.transformer.h[1].attn.output[1].save()  # eager attention only
    return pattern.detach()


def zero_a_head(model, q):
    size = model.config.n_embd // model.config.n_head
    with model.trace(input_ids=q.clean):
        model.transformer.h[1].attn.c_proj.input[:, :, 2 * size : 3 * size] = 0
        logits = model.output.logits.save()
    return logit_diff(logits, q)


@torch.no_grad()
def patch_the_stream(model, q):
    blocks, cells = model.transformer.h, []
    with model.trace(input_ids=q.clean):
        clean = [block.input for block in blocks].save()
    for layer, block in enumerate(blocks):
        for position in range(q.clean.shape[1]):
            with model.trace(input_ids=q.corrupted):
                block.input[:, position] = clean[layer][:, position]
                logits = model.output.logits.save()
            cells.append(logit_diff(logits, q))
    return torch.stack(cells).unflatten(0, (len(blocks), -1))


def steer(model, q):
    with model.trace(input_ids=q.clean):
        model.transformer.h[1].output += 4 * q.steering
        logits = model.output.logits.save()
    return logit_diff(logits, q)


def logit_lens(model, q):
    read = []
    with model.trace(input_ids=q.clean):
        stream = [model.transformer.h[0].input, *[block.output for block in model.transformer.h]].save()
    for hidden in stream:
        logits = model.lm_head._module(model.transformer.ln_f._module(hidden[:, -1]))
        read.append(logits[torch.arange(len(q.answer)), q.answer])
    return torch.stack(read, -1)


def direct_logit_attribution(model, q):
    blocks, norm = model.transformer.h, model.transformer.ln_f
    with model.trace(input_ids=q.clean):
        z = [block.attn.c_proj.input for block in blocks].save()
        final = norm.input.save()
    scale = (final[:, -1].var(-1, correction=0) + norm._module.eps).sqrt()
    columns = model.lm_head._module.weight
    reads = (columns[q.answer] - columns[q.wrong]) * norm._module.weight  # example, width
    reads = (reads - reads.mean(-1, keepdim=True)) / scale[:, None]  # the norm subtracts the mean
    heads = model.config.n_head
    found = []
    for block, mixed in zip(blocks, z, strict=True):
        out = block.attn.c_proj._module.weight.unflatten(0, (heads, -1))  # head, size, width
        written = torch.einsum("ehs,hsw->ehw", mixed[:, -1].unflatten(-1, (heads, -1)), out)
        found.append(torch.einsum("ehw,ew->eh", written, reads))
    return torch.stack(found, 1)


def attribution_patching(model, q):
    blocks, heads = model.transformer.h, model.config.n_head
    with torch.no_grad(), model.trace(input_ids=q.clean):
        clean = [block.attn.c_proj.input for block in blocks].save()
    with model.trace(input_ids=q.corrupted):
        corrupted = [block.attn.c_proj.input for block in blocks].save()
        metric = logit_diff(model.output.logits, q).sum()
        with metric.backward():
            slopes = [z.grad for z in reversed(corrupted)].save()  # in the order of the backward pass
    moved = [(c - b) * g for c, b, g in zip(clean, corrupted, reversed(slopes), strict=True)]
    return torch.stack([each.unflatten(-1, (heads, -1)).sum((1, 3)) for each in moved], 1)


def interchange_in_a_subspace(model, q):
    block = model.transformer.h[2]
    with model.trace(input_ids=q.clean):
        source = block.output[:, -1].save()
    with model.trace(input_ids=q.corrupted):
        block.output[:, -1] += (source - block.output[:, -1]) @ q.basis @ q.basis.T
        logits = model.output.logits.save()
    return logit_diff(logits, q)
