"""A small twin of a model whose weights are elsewhere: the same class and configuration, but narrow and with random weights.

    >>> small = twin(module)            # on the meta device, of any width                     # doctest: +SKIP
    >>> anatomy(module, small, inputs).tap(Site("attn_out", layer=0)).path                    # doctest: +SKIP
    'model.layers.0.self_attn'

Which tensor is what attention adds, and how queries, keys and values lie in a fused map, is decided by numbers, of which a
model on the meta device has none. Its twin has as many layers, heads and key/value heads, so that its sites, found and proven
by numbers, are the model's own: the same modules, and slices that are as many times wider as the maps are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import LoadError
from interp.models.anatomy import Anatomy, dissect
from interp.models.layouts import Heads, Layout, Units
from interp.models.maps import in_out
from interp.models.model import Model
from interp.models.probe import settle
from interp.models.taps import Tap

D_HEAD, INNER, VOCABULARY = 8, 72, 256
_WIDTHS = ("hidden_size", "word_embed_proj_dim")
_INNER = ("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size")


def twin(module: nn.Module) -> Model:
    """The twin, its sites proven.

    Raises:
        LoadError: it cannot be built, or proves to have no sites.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(0)
            kind: Any = type(module)
            small: nn.Module = kind(_narrowed(module.config)).to(torch.float32).eval()
            with torch.no_grad():
                for parameter in small.parameters():  # fresh biases are zero and gains are one, which tell nothing apart
                    parameter.add_(0.2 * torch.randn_like(parameter))
            model = Model(small)
            if not model.anatomy.main.blocks:
                raise LoadError(model.unknown or "no blocks are found in it")
            model.probe = settle(model)
    except Exception as error:  # a configuration may object to other widths in any way
        reason = str(error).strip().split("\n")[0][:300]
        raise LoadError(
            f"the sites of {type(module).__name__} cannot be found without its weights: a small twin of it fails "
            f"({type(error).__name__}: {reason})"
        ) from error
    return model


def _narrowed(config: Any) -> Any:
    """The configuration with narrow heads, MLPs and a small vocabulary; layers and heads stay."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    width = D_HEAD * text.num_attention_heads
    changes: dict[str, Any] = dict.fromkeys(_WIDTHS, width) | dict.fromkeys(_INNER, INNER)
    changes |= {"head_dim": D_HEAD, "rotary_dim": D_HEAD // 2, "vocab_size": min(VOCABULARY, text.vocab_size)}
    changes |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    if hasattr(text, "qk_rope_head_dim"):  # of latent attention, whose heads have widths of their own
        del changes["head_dim"]
    said = {*text.to_dict(), *text.attribute_map}
    for name, value in changes.items():
        if name in said and getattr(text, name) is not None:
            setattr(text, name, value)
    return config


def anatomy(module: nn.Module, small: Model, inputs: Mapping[str, Tensor]) -> Anatomy:
    """The sites of a module on the meta device: its twin's, in its own sizes."""
    bare = dissect(module, inputs)
    taps = {site: _widened(tap, module, small.module) for site, tap in small.anatomy.taps.items()}
    streams = {name: replace(stream, layers=bare.streams[name].layers) for name, stream in small.anatomy.streams.items()}
    modules = {place: _widened(tap, module, small.module) for place, tap in small.anatomy.modules.items()}
    return replace(bare, streams=streams, taps=taps, modules=modules)


def _widened(tap: Tap, module: nn.Module, small: nn.Module) -> Tap:
    layout: Layout = tap.layout
    if not isinstance(layout, (Heads, Units)) or layout.stop is None:
        return tap
    side = 0 if tap.event == "input" else 1
    maps = [in_out(part.get_submodule(tap.path)) for part in (module, small)]
    wide, narrow = (weight.shape[side] if weight is not None else 1 for weight in maps)
    if wide * layout.start % narrow or wide * layout.stop % narrow:
        raise LoadError(f"{tap.path}: its slices are not as many times wider in the model as in its small twin")
    return replace(tap, layout=replace(layout, start=wide * layout.start // narrow, stop=wide * layout.stop // narrow))
