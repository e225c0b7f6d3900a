"""The kinds of activations that there are: their axes, and what TransformerLens calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from interp import axes


@dataclass(frozen=True, slots=True)
class Component:
    """A kind of activation: its axes, batch first, and the name that TransformerLens gives it."""

    name: str
    axes: tuple[str, ...]
    lens: str
    """TransformerLens' hook name; ``{layer}`` stands for the block's number."""
    meaning: str

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.lens

    @property
    def selectable(self) -> tuple[str, ...]:
        """The axes that a site, its positions or a grid may index."""
        return tuple(a for a in self.axes if a in (axes.POSITION, *axes.INDEXED))


_STREAM = (axes.EXAMPLE, axes.POSITION, "d_model")
_HEADS = (axes.EXAMPLE, axes.POSITION, axes.HEAD, "d_head")
_RESULTS = (axes.EXAMPLE, axes.POSITION, axes.HEAD, "d_model")
_MEMORY = (axes.EXAMPLE, axes.SOURCE_POSITION, axes.HEAD, "d_head")
_ATTENTION = (axes.EXAMPLE, axes.HEAD, axes.POSITION, axes.SOURCE_POSITION)
_UNITS = (axes.EXAMPLE, axes.POSITION, axes.UNIT)
_ROUTING = (axes.EXAMPLE, axes.POSITION, axes.EXPERT)
_EXPERTS = (axes.EXAMPLE, axes.POSITION, axes.EXPERT, "d_model")
_TOKEN = (axes.EXAMPLE, axes.POSITION)

COMPONENTS: Mapping[str, Component] = {
    c.name: c
    for c in (
        Component("embed", _STREAM, "hook_embed", "token embedding"),
        Component("pos_embed", _STREAM, "hook_pos_embed", "position embedding, where it is added to the stream"),
        Component("resid_pre", _STREAM, "blocks.{layer}.hook_resid_pre", "residual stream entering the block"),
        Component("resid_mid", _STREAM, "blocks.{layer}.hook_resid_mid", "residual stream between attention and MLP"),
        Component("resid_post", _STREAM, "blocks.{layer}.hook_resid_post", "residual stream leaving the block"),
        Component("ln1_scale", _TOKEN, "blocks.{layer}.ln1.hook_scale", "what the norm before attention divides by"),
        Component("ln1_post_scale", _TOKEN, "blocks.{layer}.ln1_post.hook_scale", "what a norm of attn_out divides by"),
        Component("ln2_scale", _TOKEN, "blocks.{layer}.ln2.hook_scale", "what the norm before the MLP divides by"),
        Component("ln2_post_scale", _TOKEN, "blocks.{layer}.ln2_post.hook_scale", "what a norm of mlp_out divides by"),
        Component("attn_out", _STREAM, "blocks.{layer}.hook_attn_out", "what attention adds to the stream"),
        Component("mlp_out", _STREAM, "blocks.{layer}.hook_mlp_out", "what the MLP adds to the stream"),
        Component("q", _HEADS, "blocks.{layer}.attn.hook_q", "query projection, before norms and rotary"),
        Component("k", _HEADS, "blocks.{layer}.attn.hook_k", "key projection, before norms and rotary"),
        Component("v", _HEADS, "blocks.{layer}.attn.hook_v", "value projection"),
        Component("latent", _UNITS, "blocks.{layer}.attn.hook_latent", "what keys and values are unfolded from"),
        Component("k_rotary", _UNITS, "blocks.{layer}.attn.hook_k_rotary", "rotary part of the keys that all heads share"),
        Component("scores", _ATTENTION, "blocks.{layer}.attn.hook_attn_scores", "masked scores before the softmax"),
        Component("pattern", _ATTENTION, "blocks.{layer}.attn.hook_pattern", "attention probabilities"),
        Component("z", _HEADS, "blocks.{layer}.attn.hook_z", "head output before W_O"),
        Component("result", _RESULTS, "blocks.{layer}.attn.hook_result", "head output after W_O, without b_O"),
        Component("resid_cross", _STREAM, "blocks.{layer}.hook_resid_mid_cross", "residual stream before cross-attention"),
        Component("cross_out", _STREAM, "blocks.{layer}.hook_cross_attn_out", "what cross-attention adds to the stream"),
        Component("cross_q", _HEADS, "blocks.{layer}.cross_attn.hook_q", "query projection of cross-attention"),
        Component("cross_k", _MEMORY, "blocks.{layer}.cross_attn.hook_k", "key projection of what is attended to"),
        Component("cross_v", _MEMORY, "blocks.{layer}.cross_attn.hook_v", "value projection of what is attended to"),
        Component("cross_scores", _ATTENTION, "blocks.{layer}.cross_attn.hook_attn_scores", "scores of cross-attention"),
        Component("cross_pattern", _ATTENTION, "blocks.{layer}.cross_attn.hook_pattern", "probabilities of cross-attention"),
        Component("cross_z", _HEADS, "blocks.{layer}.cross_attn.hook_z", "head output of cross-attention before W_O"),
        Component(
            "cross_result", _RESULTS, "blocks.{layer}.cross_attn.hook_result", "head output of cross-attention after W_O"
        ),
        Component("mixer_out", _STREAM, "blocks.{layer}.hook_mixer_out", "what a state-space mixer adds to the stream"),
        Component("mixer_post", _UNITS, "blocks.{layer}.mixer.hook_post", "units of a mixer, as its output map reads them"),
        Component("mlp_pre", _UNITS, "blocks.{layer}.mlp.hook_pre", "MLP (gate) before its nonlinearity"),
        Component("mlp_up", _UNITS, "blocks.{layer}.mlp.hook_pre_linear", "linear branch of a gated MLP"),
        Component("mlp_post", _UNITS, "blocks.{layer}.mlp.hook_post", "MLP units, as W_out reads them"),
        Component("routing", _ROUTING, "blocks.{layer}.mlp.hook_expert_weights", "weight of every expert, 0 where not chosen"),
        Component("expert_out", _EXPERTS, "blocks.{layer}.mlp.hook_expert_out", "what every expert adds, times its weight"),
        Component("ln_final_scale", _TOKEN, "ln_final.hook_scale", "what the norm behind the last block divides by"),
        Component("logits", (axes.EXAMPLE, axes.POSITION, axes.VOCAB), "unembed.hook_out", "unnormalised output"),
    )
}

SPELLINGS = tuple(c.lens for c in COMPONENTS.values())
"""Names in TransformerLens' style."""

#: Sides of a module named by its path, for models and places that no role names.
MODULE_SIDES = ("input", "output")
