"""TransformerLens' names of activations: which of ours each one is, and which of ours has none.

>>> read("blocks.3.attn.hook_z"), read("encoder_blocks.0.hook_resid_pre"), read("blocks.3.mlp:output")
(('z', 3, 'main'), ('resid_pre', 0, 'encoder'), None)
>>> spell("z", 3), spell("resid_mid", 1, crossed=True)
('blocks.3.attn.hook_z', 'decoder_blocks.1.hook_resid_mid2')

A table of names, nothing else: TransformerLens is not imported. The names are those of TransformerLens 4's bridge, which kept
those of its ``HookedTransformer``. In blocks with cross-attention it counts the streams inside the block from the front, so
that its ``hook_resid_mid`` there is the stream before cross-attention, our ``resid_cross``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MAIN, ENCODER = "main", "encoder"

NAMES: Mapping[str, str] = {
    "embed": "hook_embed",
    "pos_embed": "hook_pos_embed",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_mid": "blocks.{layer}.hook_resid_mid",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "q": "blocks.{layer}.attn.hook_q",
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "scores": "blocks.{layer}.attn.hook_attn_scores",
    "pattern": "blocks.{layer}.attn.hook_pattern",
    "z": "blocks.{layer}.attn.hook_z",
    "result": "blocks.{layer}.attn.hook_result",
    "mixer_out": "blocks.{layer}.hook_mixer_out",
    "mlp_pre": "blocks.{layer}.mlp.hook_pre",
    "mlp_up": "blocks.{layer}.mlp.hook_pre_linear",
    "mlp_post": "blocks.{layer}.mlp.hook_post",
    "ln1_scale": "blocks.{layer}.ln1.hook_scale",
    "ln1_post_scale": "blocks.{layer}.ln1_post.hook_scale",
    "ln2_scale": "blocks.{layer}.ln2.hook_scale",
    "ln2_post_scale": "blocks.{layer}.ln2_post.hook_scale",
    "ln_final_scale": "ln_final.hook_scale",
    "logits": "unembed.hook_out",
}
"""Component to hook name, in models that have one stack of blocks."""

CROSSED: Mapping[str, str] = {
    "resid_cross": "decoder_blocks.{layer}.hook_resid_mid",
    "resid_mid": "decoder_blocks.{layer}.hook_resid_mid2",
    "cross_out": "decoder_blocks.{layer}.hook_cross_attn_out",
    **{
        f"cross_{name}": f"decoder_blocks.{{layer}}.cross_attn.hook_{hook}"
        for name, hook in (
            *((n, n) for n in ("q", "k", "v", "pattern", "z", "result")),
            ("scores", "attn_scores"),
        )
    },
}
"""What is called otherwise in the blocks of a decoder with cross-attention; the rest is called there as in ``blocks``."""

ALSO: Mapping[str, str] = {
    "embed.hook_out": "embed",
    "pos_embed.hook_out": "pos_embed",
    "blocks.{layer}.hook_in": "resid_pre",
    "blocks.{layer}.hook_out": "resid_post",
    "blocks.{layer}.attn.q.hook_out": "q",
    "blocks.{layer}.attn.k.hook_out": "k",
    "blocks.{layer}.attn.v.hook_out": "v",
    "blocks.{layer}.attn.o.hook_in": "z",
    "blocks.{layer}.mlp.out.hook_in": "mlp_post",
}
"""The bridge's own names of the same points, where they mean the same in every architecture."""

NAMELESS: Mapping[str, str] = {
    "latent": "its hook_kv_latent is what follows the latent's norm, not what the projection gives",
    "k_rotary": "it names the rotary part of the keys only after the rotation (hook_rot_k)",
    "routing": "it wraps a mixture of experts as a whole",
    "expert_out": "it wraps a mixture of experts as a whole",
    "mixer_post": "what a mixer's output map reads is inside the mixer there, which is called as a whole",
}
"""Components of ours that TransformerLens does not name, each with the reason."""


def spellings(component: str, *, stack: str = "blocks") -> Iterator[str]:
    """Every hook name that a component may have in a stack of blocks, the usual one first.

    Args:
        stack: ``blocks``, ``encoder_blocks`` or ``decoder_blocks``.
    """
    crossed = CROSSED if stack == "decoder_blocks" else {}
    if component in crossed:
        yield crossed[component]
    elif component in NAMES:
        for name in (NAMES[component], *(name for name, meant in ALSO.items() if meant == component)):
            moved = name.replace("blocks.", f"{stack}.", 1)
            yield moved
            if stack != "blocks" and ".attn." in moved:
                yield moved.replace(".attn.", ".self_attn.")


def _patterns() -> Iterator[tuple[re.Pattern[str], str, str]]:
    components = dict.fromkeys((*NAMES, *CROSSED))
    for stack, stream in (("blocks", MAIN), ("decoder_blocks", MAIN), ("encoder_blocks", ENCODER)):
        for component in components:
            for name in spellings(component, stack=stack):
                layer = re.escape(name).replace(r"\{layer\}", r"(?P<layer>\d+)")
                yield re.compile(rf"{layer}\Z"), component, stream


_PATTERNS = tuple(_patterns())


def read(name: str) -> tuple[str, int | None, str] | None:
    """Component, layer and stream of a hook name; None if it is none of those that name a site."""
    for pattern, component, stream in _PATTERNS:
        if found := pattern.match(name):
            layer = found.groupdict().get("layer")
            return component, None if layer is None else int(layer), stream
    return None


def spell(component: str, layer: int | None, stream: str = MAIN, *, crossed: bool = False) -> str:
    """The hook name of a component.

    Args:
        crossed: whether the main stream is a decoder with cross-attention.

    Raises:
        LookupError: TransformerLens does not name it, with the reason.
    """
    if stream not in (MAIN, ENCODER):
        raise LookupError(f"it names the blocks of decoders and encoders of text only, not those of the stream {stream!r}")
    if component in NAMELESS:
        raise LookupError(NAMELESS[component])
    if stream == ENCODER and component in NAMES and "{layer}" not in NAMES[component]:
        raise LookupError(f"its {NAMES[component]} is that of the decoder")
    crossed = crossed or component not in NAMES
    stack = "encoder_blocks" if stream == ENCODER else "decoder_blocks" if crossed else "blocks"
    name = next(spellings(component, stack=stack), None)
    if name is None:
        raise LookupError("an encoder's blocks have no cross-attention")
    return name.format(layer="{layer}" if layer is None else layer)
