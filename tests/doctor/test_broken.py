"""Models that are broken on purpose, and the law that says so by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from interp.doctor import LAWS, Report, architectures, examine
from interp.models import Model
from interp.models.calls import Call, first_tensor
from interp.models.layouts import Heads, Layout, Results, Whole
from interp.models.maps import in_out
from interp.models.taps import Tap
from interp.sites import Site

BY_NAME = {law.name: law for law in LAWS}


def tapped(model: Model, layer: int = 1, **taps: Tap) -> Model:
    """The model with other taps in one layer."""
    changed = {Site(name, layer=layer): tap for name, tap in taps.items()}
    model.anatomy = replace(model.anatomy, taps={**model.anatomy.taps, **changed})
    return model


def laid(model: Model, name: str, layout: Layout, layer: int = 1) -> Model:
    return tapped(model, layer, **{name: replace(model.taps(Site(name, layer=layer)), layout=layout)})


def held(model: Model, law: str) -> Report:
    """The model held to one law, behind one that runs it."""
    return examine(model, [BY_NAME["repeat"], BY_NAME[law]] if law == "untouched" else [BY_NAME[law]])


@dataclass(frozen=True)
class Off:
    """What is written goes in changed, by a function of the features' last axis."""

    inner: Layout
    change: Callable[[Tensor, Tensor], Tensor]

    def read(self, seen: Tensor, call: Call | None) -> Tensor:
        return self.inner.read(seen, call)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return self.inner.put(seen, self.change(self.inner.read(seen, call), new), call)


@dataclass(frozen=True)
class Interleaved:
    """Heads read as if their features lay side by side."""

    heads: int

    def read(self, seen: Tensor, call: Call | None) -> Tensor:
        return rearrange(seen, "... (d head) -> ... head d", head=self.heads)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return rearrange(new, "... head d -> ... (d head)")


@dataclass(frozen=True)
class TurnedResults(Results):
    """W_O taken for its transpose."""

    def read(self, seen: Tensor, call: Call | None) -> Tensor:
        assert call is not None
        z = rearrange(first_tensor(call.args, call.kwargs), "... (head d) -> ... head d", head=self.heads)
        weight = rearrange(in_out(call.module).mT, "(head d) d_model -> head d d_model", head=self.heads)
        return einsum(z, weight, "... head d, head d d_model -> ... head d_model")


def first_half(old: Tensor, new: Tensor) -> Tensor:
    half = new.shape[-1] // 2
    return torch.cat([new[..., :half], old[..., half:]], dim=-1)


def first_head(old: Tensor, new: Tensor) -> Tensor:
    return torch.cat([new[:, :, :1], old[:, :, 1:]], dim=2)


def more(old: Tensor, new: Tensor) -> Tensor:
    return new + 1


def larger(old: Tensor, new: Tensor) -> Tensor:
    return 1.5 * new


def never_called(model: Model) -> Model:
    model.module.add_module("spare", nn.Identity())
    return tapped(model, mlp_out=Tap("spare", "output"))


def exchanged(model: Model) -> Model:
    attention, mlp = (model.taps(Site(name, layer=1)) for name in ("attn_out", "mlp_out"))
    return tapped(model, attn_out=mlp, mlp_out=attention)


def counting(model: Model) -> Model:
    """A module that remembers how often it was called."""
    calls: list[int] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        calls.append(1)
        return output * (1 + 1e-3 * len(calls))

    model.module.get_submodule(model.anatomy.mlp[1]).register_forward_hook(hook)
    return model


def dropping(model: Model) -> Model:
    """Dropout that does not heed the mode."""
    model.module.get_submodule(model.anatomy.mlp[1]).register_forward_hook(
        lambda module, args, output: nn.functional.dropout(output, 0.1, training=True)
    )
    return model


def writing(model: Model) -> Model:
    """A module that writes into its own weights."""

    def hook(module: nn.Module, args: Any) -> None:
        with torch.no_grad():
            next(module.parameters()).add_(0)

    model.module.get_submodule(model.anatomy.mlp[1]).register_forward_pre_hook(hook)
    return model


def waking(model: Model) -> Model:
    model.module.get_submodule(model.anatomy.mlp[1]).register_forward_pre_hook(lambda module, args: module.train(True) and None)
    return model


def claims_to_be_causal(model: Model) -> Model:
    assert model.probe is not None
    model.probe = replace(model.probe, causal=True)
    return model


def beside_a_norm(model: Model) -> Model:
    """What attention adds, said to be what the norm before the MLP gives, and a constant added where it is written."""
    norm = Tap("model.layers.0.post_attention_layernorm", "output", Off(Whole(), more))
    return tapped(model, 0, attn_out=norm)


BROKEN: dict[str, tuple[str, str, Callable[[Model], Model], str]] = {
    "a site on a module that is never called": ("sites", "gpt2", never_called, "fired 0 times"),
    "a site with too many heads": ("sites", "gpt2", lambda m: laid(m, "z", Heads(8)), "L1.z"),
    "attention and MLP in each other's place": ("stream", "gpt2", exchanged, "L1"),
    "W_O taken for its transpose": ("heads", "gpt2", lambda m: laid(m, "result", TurnedResults(4)), "L1.result"),
    "values read as if group by group": ("pattern", "gpt2", lambda m: laid(m, "v", Heads(4, 4, 16, 24)), "L1.pattern × v = z"),
    "the pattern in the scores' place": (
        "pattern",
        "llama",
        lambda m: tapped(m, pattern=m.taps(Site("scores", layer=1))),
        "rows of L1.pattern sum to 1",
    ),
    "a module that counts": ("repeat", "llama", counting, "L1"),
    "dropout left on": ("repeat", "llama", dropping, "L1"),
    "what is written grows": ("own_value", "gpt2", lambda m: laid(m, "resid_mid", Off(Whole(), more)), "writing L1.resid_mid"),
    "half of a stream is written": (
        "other_run",
        "gpt2",
        lambda m: laid(m, "resid_post", Off(Whole(), first_half)),
        "L1.resid_post",
    ),
    "heads that lie otherwise": ("head_gate", "gpt2", lambda m: laid(m, "z", Interleaved(4), 0), "scaled by 0 = W_O"),
    "half of a mixer's units are another half": (
        "writes",
        "mamba",
        lambda m: laid(m, "mixer_out", Off(Whole(), first_half), 2),
        "L2.mixer_out",
    ),
    "a module that counts, in a sweep": ("sweep", "llama", counting, "embed"),
    "a constant beside a norm": ("fold_gains", "llama", beside_a_norm, "L0.z"),
    "z is multiplied where it is written": (
        "fold_value_bias",
        "gpt2",
        lambda m: laid(m, "z", Off(Heads(4), larger), 0),
        "L0H",
    ),
    "only the first head is written": ("permute_heads", "gpt2", lambda m: laid(m, "z", Off(Heads(4), first_head), 0), "L0H"),
    "half of a rotated stream is written": (
        "rotate",
        "llama",
        lambda m: laid(m, "resid_post", Off(Whole(), first_half), 0),
        "L0.resid_post",
    ),
    "a module that writes into its weights": ("untouched", "llama", writing, "weights of model.layers.1.mlp"),
    "a module that wakes up": ("untouched", "llama", waking, "the mode of model.layers.1.mlp"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_model_fails_its_law(how: str) -> None:
    law, architecture, broken, named = BROKEN[how]
    model = architectures.loaded(architecture)
    assert held(model, law).failed == (), "whole, it passes"
    verdict = held(broken(model), law)[law]
    assert verdict.status == "failed", verdict
    assert named in verdict.what
