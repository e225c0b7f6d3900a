"""What a role may be called: the one table of names, relative to a block. What it proposes, numbers decide.

Where several names are present the first is taken for a module; for a tensor (what attention adds, the stream between
attention and MLP, how a fused projection is divided) all are candidates, and :mod:`interp.models.anatomy.choose` picks by laws.
"""

from __future__ import annotations

ATTENTION = (
    "attn.attention",
    "attn",
    "self_attn",
    "attention.self",
    "self_attention",
    "layer.0.SelfAttention",
    "layer.0.LocalSelfAttention",
    "layer.0.TransientGlobalSelfAttention",
    "attention",
    "attn1",
)
"""The module in which queries meet keys."""
CROSS = ("encoder_attn", "crossattention.self", "layer.1.EncDecAttention", "attn2")
"""The same, for keys and values that another stream gives."""
MIXER = ("mixer", "mamba", "linear_attn")
"""What stands in attention's place in state-space and linear-attention blocks."""
SHORTCUT = ("shortcut", "downsample")
"""What a convolutional residual block puts beside its layers."""

W_O = ("o_proj", "c_proj", "out_proj", "dense", "o", "Wo", "proj", "projection", "to_out.0", "out_lin", "../output.dense")
"""From the heads' outputs to the stream; ``../`` is beside the attention module rather than in it."""
QUERY = ("q_proj", "query", "q", "to_q", "q_lin", "q_b_proj")
KEY = ("k_proj", "key", "k", "to_k", "k_lin")
VALUE = ("v_proj", "value", "v", "to_v", "v_lin")
FUSED = ("c_attn", "query_key_value", "qkv_proj", "qkv", "Wqkv")
"""Queries, keys and values in one map."""
FUSED_KEY_VALUE = ("kv_b_proj",)
"""Keys and values in one map: multi-head latent attention unfolds both from one latent."""
LATENT = ("kv_a_proj_with_mqa",)
"""The latent from which they are unfolded, beside the part of the keys that all heads share."""

MLP = ("mlp", "feed_forward", "ff", "ffn", "block_sparse_moe", "layer.2.DenseReluDense", "layer.1.DenseReluDense")
W_IN = ("c_fc", "dense_h_to_4h", "fc1", "lin1", "fc_in", "wi", "intermediate.dense")
GATE = ("gate_proj", "wi_0")
UP = ("up_proj", "wi_1")
GATE_AND_UP = ("gate_up_proj", "Wi", "net.0.proj")
"""Gate and linear branch in one map."""
W_OUT = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "lin2", "fc_out", "wo", "Wo", "net.2", "output.dense")
EXPERTS, ROUTER = ("experts",), ("gate", "router")

AFTER_ATTENTION = ("post_attention_layernorm", "post_self_attn_layernorm", "layer_scale1")
"""What may be between attention and the stream to which it is added."""
AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm", "layer_scale2")

EMBEDDING = ("embeddings", "patch_embed", "patch_embeddings", "embedder", "conv_in")
"""What makes the stream of an image, or of a text in one module."""
OTHER_EMBEDDING = ("token_type_embeddings", "relative_attention_bias")
POSITION_EMBEDDING = ("wpe", "embed_positions", "position_embeddings", "position_embedding")

STREAMS = {
    "vision": ("vision_model", "vision_tower", "vision_encoder", "visual", "vision"),
    "audio": ("audio_tower", "audio_model", "audio_encoder"),
    "qformer": ("qformer",),
    "text": ("text_model", "text_encoder"),
    "decoder": ("decoder", "text_decoder", "language_model"),
    "encoder": ("encoder",),
}
"""What a stack of blocks is called where a model has several, by a part of its path; the first that fits."""

IN_A_ROW = ("down_blocks", "mid_block", "up_blocks")
"""Parts of a U-Net: blocks of one class in them are one stack."""
