"""Training of interventions by hand: the reference that tests hold :mod:`interp.training` to.

It knows nothing of the engine: the raw transformers module, plain hooks and autograd, one prompt at a time, unpadded, whole
forward and backward passes, formulas of its own for rotations, gates and masks.

    case = das(model, seed)                                    # an intervention, and the same by hand on copies
    losses, penalties = Reference("gpt2", model.module, pairs).train(case, [[0, 1], [2, 3]], lr=0.03)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from interp.interventions import Change, Gate, Intervention, Mask, Rotation, learnable
from interp.prompts import Pair, Pairs

PATHS = {
    "gpt2": ("transformer.h.{}", "attn.c_proj"),
    "llama": ("model.layers.{}", "self_attn.o_proj"),
    "mistral": ("model.layers.{}", "self_attn.o_proj"),
    "gemma2": ("model.layers.{}", "self_attn.o_proj"),
    "bloom": ("transformer.h.{}", "self_attention.dense"),
    "neox": ("gpt_neox.layers.{}", "attention.dense"),
}
"""Blocks, and the module in them whose input is z."""
Write = tuple[int, str, str | None, Callable[[Tensor, Tensor], Tensor]]
"""Layer, ``"resid"`` (behind the block) or ``"z"``, role or None for all tokens, and new values from own and source's."""


@dataclass
class Case:
    """One intervention, and the same by hand on copies of its parameters."""

    intervention: Intervention
    parameters: list[Tensor]
    writes: list[Write]

    def found(self) -> list[Tensor]:
        return [parameter.detach() for parameter in learnable(self.intervention)]


class Reference:
    def __init__(self, kind: str, module: nn.Module, pairs: Pairs, patching: str = "denoising", given: Sequence[Write] = ()):
        self.kind, self.module, self.given = kind, module, list(given)
        self.heads = module.config.num_attention_heads
        self.pairs = list(pairs)
        clean, corrupted = [p.clean for p in self.pairs], [p.corrupted for p in self.pairs]
        self.base, self.source = (corrupted, clean) if patching == "denoising" else (clean, corrupted)
        with torch.no_grad():
            self.clean = [self.run(prompt, [])[0] for prompt in clean]
            self.values = [self.run(prompt, [])[1] for prompt in self.source]

    def run(self, prompt: Any, writes: Sequence[Write], example: int = 0) -> tuple[Tensor, dict[tuple[int, str], Tensor]]:
        """Last logits ``[vocab]``, and every stream and z ``[position, (head), feature]``."""
        seen: dict[tuple[int, str], Tensor] = {}

        def visit(layer: int, site: str, h: Tensor) -> Tensor:
            h = h[0] if site == "resid" else h[0].unflatten(-1, (self.heads, -1))
            for at, name, role, change in writes:
                if (at, name) == (layer, site):
                    rows = slice(None) if role is None else slice(*prompt.roles[role])
                    new = change(h[rows], self.values[example][layer, site][rows])
                    h = torch.cat([h[: rows.start], new, h[rows.stop :]]) if role is not None else new
            seen[layer, site] = h
            return h[None] if site == "resid" else h.flatten(1)[None]

        def after(layer: int, module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (visit(layer, "resid", output[0]), *output[1:])
            return visit(layer, "resid", output)

        def before(layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> Any:
            return (visit(layer, "z", args[0]), *args[1:])

        block, w_o = PATHS[self.kind]
        with ExitStack() as hooks:
            for layer in range(self.module.config.num_hidden_layers):
                found = self.module.get_submodule(block.format(layer))
                hooks.callback(found.register_forward_hook(partial(after, layer)).remove)
                hooks.callback(found.get_submodule(w_o).register_forward_pre_hook(partial(before, layer)).remove)
            return self.module(torch.tensor([list(prompt.text)]), use_cache=False).logits[0, -1], seen

    def loss(self, case: Case, example: int, metric: str) -> Tensor:
        logits, _ = self.run(self.base[example], [*self.given, *case.writes], example)
        pair: Pair = self.pairs[example]
        right, wrong = logits[list(pair.answers)], logits[list(pair.wrong)]
        if metric == "logit_diff":
            return -(right.max() - wrong.max())
        if metric == "kl":
            clean = self.clean[example].log_softmax(-1)
            return -(clean.exp() * (clean - logits.log_softmax(-1))).sum()
        return -(right.logsumexp(-1) - logits.logsumexp(-1))

    def train(
        self,
        case: Case,
        batches: Sequence[Sequence[int]],
        metric: str = "logprob",
        *,
        lr: float,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        penalty: Callable[[], Tensor] | None = None,
        clip: float | None = None,
        schedule: Callable[[float], float] = lambda done: 1.0,
        before_step: Callable[[int, int], object] = lambda step, steps: None,
    ) -> tuple[Tensor, Tensor]:
        """Losses and penalties of every step; the case's copies are trained."""
        stepping = optimizer(case.parameters, lr=lr)
        losses, penalties = [], []
        for step, examples in enumerate(batches):
            before_step(step, len(batches))
            loss = torch.stack([self.loss(case, example, metric) for example in examples]).mean()
            extra = penalty() if penalty is not None else torch.zeros(())
            gradients = torch.autograd.grad(loss + extra, case.parameters)
            norm = torch.cat([g.flatten() for g in gradients]).norm()
            factor = 1.0 if clip is None or norm <= clip else clip / (norm.item() + 1e-6)  # as torch has it
            for parameter, gradient in zip(case.parameters, gradients, strict=True):
                parameter.grad = factor * gradient
            stepping.param_groups[0]["lr"] = lr * schedule(step / len(batches))
            stepping.step()
            losses.append(loss.detach())
            penalties.append(extra.detach().double())
        return torch.stack(losses), torch.stack(penalties)


def leaf(parameter: Tensor) -> Tensor:
    return parameter.detach().clone().requires_grad_()


def basis(weight: Tensor) -> Tensor:
    """Gram–Schmidt's orthonormal columns: the factor of which R's diagonal is positive."""
    q, r = torch.linalg.qr(weight)
    return q * r.diagonal().detach().sign()


def rotated(weight: Tensor, h: Tensor, s: Tensor) -> Tensor:
    q = basis(weight)
    return h + (s - h) @ q @ q.mT


def of_head(head: int, change: Callable[[Tensor, Tensor], Tensor], h: Tensor, s: Tensor) -> Tensor:
    new = change(h[:, head], s[:, head])
    return torch.cat([h[:, :head], new[:, None], h[:, head + 1 :]], dim=1)


def masked(weight: Tensor, logits: Tensor, mask: Mask, h: Tensor, s: Tensor) -> Tensor:
    q = basis(weight)
    return h + (torch.sigmoid(logits / mask.temperature) * ((s - h) @ q)) @ q.mT


def replaced(logits: Tensor, h: Tensor, s: Tensor) -> Tensor:
    m = torch.sigmoid(logits)
    return (1 - m) * h + m * s


def gated(logits: Tensor, h: Tensor, s: Tensor) -> Tensor:
    return torch.sigmoid(logits) * h


def das(model: Any, seed: int) -> Case:
    rotation = Rotation(model.sizes["d_model"], 3, seed=seed).to(model.dtype)
    copy = leaf(rotation.weight)
    where = Intervention.of("L1.resid_post@end", featurizer=rotation)
    return Case(where, [copy], [(1, "resid", "end", partial(rotated, copy))])


def das_in_two_places(model: Any, seed: int) -> Case:
    rotation = Rotation(model.sizes["d_model"], 2, seed=seed).to(model.dtype)
    copy = leaf(rotation.weight)
    where = Intervention.of("L0.resid_post@subject", "L2.resid_post@end", featurizer=rotation)
    change = partial(rotated, copy)
    return Case(where, [copy], [(0, "resid", "subject", change), (2, "resid", "end", change)])


def das_in_a_head(model: Any, seed: int) -> Case:
    rotation = Rotation(model.sizes["d_head"], 2, seed=seed).to(model.dtype)
    copy = leaf(rotation.weight)
    where = Intervention.of("L1H2.z@subject", featurizer=rotation)
    return Case(where, [copy], [(1, "z", "subject", partial(of_head, 2, partial(rotated, copy)))])


def gates(model: Any, seed: int) -> Case:
    """On every head of every layer, at all tokens."""
    shape = (model.sizes["head"], 1)
    every = [Gate(shape, seed=seed + layer).to(model.dtype) for layer in range(model.sizes["layer"])]
    copies = [leaf(gate.logits) for gate in every]
    where = Intervention(tuple(Change(f"L{layer}.z", edit=gate) for layer, gate in enumerate(every)))
    return Case(where, copies, [(layer, "z", None, partial(gated, copy)) for layer, copy in enumerate(copies)])


def mask_of_heads(model: Any, seed: int) -> Case:
    mask = Mask((model.sizes["head"], 1), start=torch.linspace(-1, 1, model.sizes["head"])[:, None]).to(model.dtype)
    copy = leaf(mask.logits)
    return Case(Intervention.of("L2.z", edit=mask), [copy], [(2, "z", None, partial(replaced, copy))])


def mask_in_a_rotation(model: Any, seed: int) -> Case:
    rotation, mask = Rotation(model.sizes["d_model"], 4, seed=seed).to(model.dtype), Mask((4,), temperature=0.7).to(model.dtype)
    copies = [leaf(rotation.weight), leaf(mask.logits)]
    where = Intervention.of("L0.resid_post@end", featurizer=rotation, edit=mask)
    return Case(where, copies, [(0, "resid", "end", partial(masked, *copies, mask))])


MAKERS = [das, das_in_two_places, das_in_a_head, gates, mask_of_heads, mask_in_a_rotation]
