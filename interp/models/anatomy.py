"""Which module plays which role, found by structure: the blocks, their attention and MLP, the embeddings, the norms.

    >>> anatomy = Anatomy.of(module)                                                          # doctest: +SKIP
    >>> anatomy.blocks, anatomy.sizes["head"], anatomy.taps[Site("z", layer=0)].path            # doctest: +SKIP
    ('model.layers', 9, 'model.layers.0.self_attn.o_proj')

A role is found by the names that transformers gives to its modules; what the names promise is proved by a probe run when the
model is loaded (:mod:`interp.models.probe`). A role that is not there leaves its sites out, with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from torch import nn

from interp import axes
from interp.models.taps import Heads, Interleaved, Layout, Results, Tap
from interp.sites import COMPONENTS, Site

# The names that architectures give to a role; the first one present is taken.
ATTENTION = ("attn", "self_attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward")
QKV = ("q_proj", "k_proj", "v_proj")
FUSED_QKV = ("c_attn",)  # all of q, then all of k, then all of v
INTERLEAVED_QKV = ("query_key_value",)  # head by head
W_O = ("o_proj", "c_proj", "out_proj", "dense")
W_OUT = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out")
W_IN = ("c_fc", "dense_h_to_4h", "fc1", "fc_in")
GATE, UP = "gate_proj", "up_proj"
POSITION_EMBEDDING = ("wpe", "embed_positions")

MIDDLE_NORM = ("ln_2", "pre_feedforward_layernorm", "post_attention_layernorm")
"""Norms that read the stream between attention and MLP."""
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
"""Norms of what attention and MLP give, before it is added to the stream. A block has both: the first alone is the MLP's."""
PARALLEL = ("use_parallel_residual", "parallel_attn")
"""Flags, of a block or of the configuration, by which the MLP reads the block's input beside attention."""
RESIDUAL = "residual"
"""Argument by which an attention or MLP module is given the stream to which it adds its output itself."""


@dataclass(frozen=True)
class Anatomy:
    """The roles of one model's modules."""

    blocks: str | None
    """Path of the list of blocks; None for a network without one."""
    sizes: Mapping[str, int]
    """Number of layers, heads, key/value heads (``kv_head``) and MLP units, and the widths ``d_model`` and ``d_head``."""
    taps: Mapping[Site, Tap]
    """Where every site is seen."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Components that this model does not have, each with the reason."""
    attention: Mapping[int, str] = field(default_factory=dict)
    """Path of each block's attention module, by layer."""
    mlp: Mapping[int, str] = field(default_factory=dict)
    """Path of each block's MLP module, by layer; a layer without an MLP is missing."""
    w_o: Mapping[int, str] = field(default_factory=dict)
    """Path of the linear map W_O, from the heads' outputs to the stream, by layer; missing where none was found."""
    w_out: Mapping[int, str] = field(default_factory=dict)
    """Path of the MLP's output linear map, from its units to the stream, by layer; missing where none was found."""

    @classmethod
    def of(cls, module: nn.Module) -> Anatomy:
        """Find the roles of a model; a module without transformer blocks has its ``logits`` alone."""
        blocks = _block_list(module)
        if blocks is None or not hasattr(_config(module), "num_attention_heads"):
            lacks = (
                "list of blocks with attention in it" if blocks is None else "config that says how many heads its attention has"
            )
            reason = f"{type(module).__name__} has no {lacks}; name its modules by path"
            return cls(None, {}, {Site("logits"): Tap("", "output")}, {name: reason for name in COMPONENTS if name != "logits"})
        return _Dissection(module, blocks).anatomy()

    def size(self, site: Site, axis: str) -> int:
        """How many heads, units, … a site has along an axis."""
        if axis == axes.HEAD and site.name in ("k", "v"):
            return self.sizes["kv_head"]
        return self.sizes[axis]

    def layer_of(self, site: Site) -> int | None:
        """The block that a site belongs to, −1 for what comes before the first; None for what comes behind, or is elsewhere."""
        if site.path is not None:
            return self.block_of(site.path)
        return None if site.name == "logits" else -1 if site.layer is None else site.layer

    def block_of(self, path: str) -> int | None:
        """The number of the block that a module is, or is inside of; None if it is outside."""
        if self.blocks is None or not path.startswith(f"{self.blocks}."):
            return None
        number = path[len(self.blocks) + 1 :].split(".")[0]
        return int(number) if number.isdigit() else None


def _block_list(module: nn.Module) -> str | None:
    found = [
        name
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) and all(_child(block, ATTENTION) for block in child)
    ]
    return max(found, key=lambda name: len(list(module.get_submodule(name).children())), default=None)


def _config(module: nn.Module) -> Any:
    config: Any = getattr(module, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _child(module: nn.Module, names: tuple[str, ...]) -> str | None:
    children = dict(module.named_children())
    return next((name for name in names if name in children), None)


class _Dissection:
    """One walk through a model; collects taps, and reasons for what is missing."""

    def __init__(self, module: Any, blocks: str) -> None:
        self.module, self.blocks = module, blocks
        self.layers: Any = module.get_submodule(blocks)
        self.config = _config(module)
        self.taps: dict[Site, Tap] = {}
        self.absent: dict[str, str] = {}
        self.sizes: dict[str, int] = {axes.LAYER: len(self.layers)}
        self.attention: dict[int, str] = {}
        self.mlp: dict[int, str] = {}
        self.w_o: dict[int, str] = {}
        self.w_out: dict[int, str] = {}

    def anatomy(self) -> Anatomy:
        self._ends()
        for layer, block in enumerate(self.layers):
            path = f"{self.blocks}.{layer}"
            self._add("resid_pre", layer, Tap(path, "input"))
            self._add("resid_post", layer, Tap(path, "output"))
            self._find_attention(layer, block, path)
            self._find_mlp(layer, block, path)
        for name in COMPONENTS:
            if name not in self.absent and not any(site.name == name for site in self.taps):
                self.absent[name] = "no module of this model plays that role"
        present = {site.name for site in self.taps}
        absent = {name: why for name, why in self.absent.items() if name not in present}  # a layer of several may lack it
        paths = (self.attention, self.mlp, self.w_o, self.w_out)
        return Anatomy(self.blocks, self.sizes, self.taps, absent, *paths)

    def _add(self, name: str, layer: int | None, tap: Tap) -> None:
        self.taps[Site(name, layer=layer)] = tap

    def _ends(self) -> None:
        names = {id(child): name for name, child in self.module.named_modules()}
        embed = self.module.get_input_embeddings() if hasattr(self.module, "get_input_embeddings") else None
        if embed is not None:
            self._add("embed", None, Tap(names[id(embed)], "output"))
            self.sizes["d_model"] = int(embed.weight.shape[1])
        parent = self.module.get_submodule(self.blocks.rpartition(".")[0])
        position = _child(parent, POSITION_EMBEDDING)
        if position is not None:
            self._add("pos_embed", None, Tap(names[id(getattr(parent, position))], "output"))
        else:
            self.absent["pos_embed"] = "no position embedding is added to the stream"
        self._add("logits", None, Tap("", "output"))

    def _find_attention(self, layer: int, block: nn.Module, path: str) -> None:
        name = _child(block, ATTENTION)
        assert name is not None
        attention, inner = getattr(block, name), f"{path}.{name}"
        self.attention[layer] = inner
        heads = int(self.config.num_attention_heads)
        kv_heads = int(getattr(self.config, "num_key_value_heads", None) or heads)
        self.sizes |= {axes.HEAD: heads, "kv_head": kv_heads}
        out = _child(attention, W_O)
        if out is not None:
            self.w_o[layer] = f"{inner}.{out}"
            width = _widths(getattr(attention, out))[0] // heads  # measured, since heads need not fill the stream
            self.sizes["d_head"] = width
            self._add("z", layer, Tap(self.w_o[layer], "input", Heads(heads)))
            self._add("result", layer, Tap(self.w_o[layer], "output", Results(heads)))
            self._find_qkv(layer, attention, inner, (heads, kv_heads, kv_heads), width)
        self._find_sum("attn_out", layer, path, POST_NORMS[0], inner, self.w_o.get(layer))
        self._add("scores", layer, Tap(inner, "scores"))
        self._add("pattern", layer, Tap(inner, "pattern"))

    def _find_qkv(self, layer: int, attention: nn.Module, path: str, heads: tuple[int, int, int], width: int) -> None:
        fused, interleaved = _child(attention, FUSED_QKV), _child(attention, INTERLEAVED_QKV)
        layouts: tuple[Layout, ...]
        if fused is not None:
            ends = (0, *accumulate(n * width for n in heads))
            layouts = tuple(Heads(n, *slice_) for n, slice_ in zip(heads, pairwise(ends), strict=True))
            modules = (fused,) * 3
        elif interleaved is not None and _widths(getattr(attention, interleaved))[1] == 3 * heads[0] * width:
            layouts, modules = tuple(Interleaved(heads[0], part) for part in range(3)), (interleaved,) * 3
        elif all(hasattr(attention, name) for name in QKV):
            layouts, modules = tuple(Heads(n) for n in heads), QKV
        else:
            why = (
                f"{path} has none of the projections {', '.join((*QKV, *FUSED_QKV, *INTERLEAVED_QKV))}"
                if interleaved is None
                else f"{path}.{interleaved} does not hold one query, key and value of width {width} for each head"
            )
            self.absent |= dict.fromkeys("qkv", why)
            return
        for name, module, layout in zip("qkv", modules, layouts, strict=True):
            self._add(name, layer, Tap(f"{path}.{module}", "output", layout))

    def _find_mlp(self, layer: int, block: nn.Module, path: str) -> None:
        name = _child(block, MLP)
        if name is None:
            for component in ("resid_mid", "mlp_out", "mlp_pre", "mlp_up", "mlp_post"):
                self.absent[component] = f"{path} has no MLP"
            return
        mlp, inner = getattr(block, name), f"{path}.{name}"
        self.mlp[layer] = inner
        out = _child(mlp, W_OUT)
        gated = _child(mlp, (GATE,)) is not None
        into = GATE if gated else _child(mlp, (*W_IN, UP))
        if out is not None:
            self.w_out[layer] = f"{inner}.{out}"
            self._add("mlp_post", layer, Tap(self.w_out[layer], "input"))
            self.sizes[axes.UNIT] = _widths(getattr(mlp, out))[0]
        if into is not None:
            self._add("mlp_pre", layer, Tap(f"{inner}.{into}", "output"))
        if gated:
            self._add("mlp_up", layer, Tap(f"{inner}.{UP}", "output"))
        else:
            self.absent["mlp_up"] = "its MLPs are not gated"
        self._find_sum("mlp_out", layer, path, POST_NORMS[1], inner, self.w_out.get(layer))
        self._find_middle(layer, block, path)

    def _find_sum(self, site: str, layer: int, path: str, norm: str, part: str, linear: str | None) -> None:
        """What attention or MLP adds to the stream: what its post-norm gives, or its module, or its last linear map."""
        if _post_normed(self.module.get_submodule(path)):
            self._add(site, layer, Tap(f"{path}.{norm}", "output"))
        elif RESIDUAL not in inspect.signature(self.module.get_submodule(part).forward).parameters:
            self._add(site, layer, Tap(part, "output"))
        elif linear is not None:
            self._add(site, layer, Tap(linear, "output"))
        else:
            self.absent[site] = f"{part} returns the stream, to which it has already added its output"

    def _find_middle(self, layer: int, block: nn.Module, path: str) -> None:
        """The stream between attention and MLP: what the MLP's norm reads, or the MLP itself where norms come after."""
        flag = next((f for f in PARALLEL if getattr(block, f, getattr(self.config, f, False))), None)
        norm = _child(block, tuple(n for n in MIDDLE_NORM if not (_post_normed(block) and n in POST_NORMS)))
        if flag is not None:
            self.absent["resid_mid"] = f"attention and MLP of {path} both read the block's input ({flag})"
        elif norm is not None:
            self._add("resid_mid", layer, Tap(f"{path}.{norm}", "input", in_place=True))
        elif _post_normed(block):
            self._add("resid_mid", layer, Tap(self.mlp[layer], "input", in_place=True))
        else:
            self.absent["resid_mid"] = f"{path} has no norm between attention and MLP that reads the residual stream"


def _post_normed(block: nn.Module) -> bool:
    return all(_child(block, (name,)) for name in POST_NORMS)


def _widths(linear: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear map."""
    rows, columns = linear.weight.shape
    return (columns, rows) if isinstance(linear, nn.Linear) else (rows, columns)
