"""The ten tasks with TransformerLens 4.3, on a TransformerBridge. Run by worker.py; ``q`` is question.load's."""

from __future__ import annotations

import torch
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.attribution_patching import attribution_patch
from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution as their_attribution
from transformer_lens.tools.analysis.interchange import SubspaceInterchange, collect_activations, intervened_logits

from coming_from.question import logit_diff, network, tokenizer


def load(folder):
    return TransformerBridge.boot_transformers("tiny", hf_model=network(folder), tokenizer=tokenizer(folder)).eval()


def next_token(model, q):
    return model(q.clean)[:, -1].log_softmax(-1)


def one_activation(model, q):
    _, cache = model.run_with_cache(q.clean, names_filter="blocks.2.hook_resid_post")
    return cache["resid_post", 2]


def attention_patterns(model, q):
    _, cache = model.run_with_cache(q.clean)
    return cache["pattern", 1]


def zero_a_head(model, q):
    def zero(z, hook):
        z[:, :, 2] = 0
        return z

    return logit_diff(model.run_with_hooks(q.clean, fwd_hooks=[("blocks.1.attn.hook_z", zero)]), q)


@torch.no_grad()
def patch_the_stream(model, q):
    _, cache = model.run_with_cache(q.clean)
    sweep = patching.get_act_patch_resid_pre
    return sweep(model, q.corrupted, cache, lambda logits: logit_diff(logits, q), reduce="none").values


def steer(model, q):
    def add(stream, hook):
        return stream + 4 * q.steering

    return logit_diff(model.run_with_hooks(q.clean, fwd_hooks=[("blocks.1.hook_resid_post", add)]), q)


def logit_lens(model, q):
    _, cache = model.run_with_cache(q.clean)
    read = cache.logit_lens(positions=-1).values  # layer, example, vocab
    return read[:, torch.arange(len(q.answer)), q.answer].T


def direct_logit_attribution(model, q):
    model.enable_compatibility_mode(fold_value_biases=False)  # else heads lose their value bias to the layer's output bias
    found = their_attribution(model, q.clean, q.answer, q.wrong, unit="head")
    heads = found.attribution[:-1]  # the last is the remainder
    return heads.T.unflatten(1, (model.cfg.n_layers, model.cfg.n_heads))


def attribution_patching(model, q):
    def one(e):  # theirs is the mean over examples, so one at a time
        def metric(logits):
            return logits[0, -1, q.answer[e]] - logits[0, -1, q.wrong[e]]

        table = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
        for node, score in attribution_patch(model, q.clean[[e]], q.corrupted[[e]], metric).node_scores.items():
            if node.kind == "attn_head_out":
                table[node.layer, node.head] += score  # one node a position
        return table

    return torch.stack([one(e) for e in range(len(q.clean))])


def interchange_in_a_subspace(model, q):
    name, last = "blocks.2.hook_resid_post", torch.full((len(q.clean),), q.clean.shape[1] - 1)
    source = collect_activations(model, name, q.clean, model, positions=last)
    swap = SubspaceInterchange(q.basis)
    return logit_diff(intervened_logits(model, name, swap, q.corrupted, source, model, positions=last), q)
