"""The zoo's network: a small decoder that walks the same path as every transformers model.

    >>> config = ZooConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, attn_only=True)
    >>> model = ZooForCausalLM(config)
    >>> model(torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 50])

Nothing here is special to this package: attention goes through ``ALL_ATTENTION_FUNCTIONS``, masks through
``create_causal_mask``, keys and values through a ``Cache``, so whatever holds for the zoo is a fair test of what is said about
real models. Modules carry the names of Llama; what a configuration leaves out (MLPs, position embeddings) does not exist.

    model.embed_tokens  model.embed_positions (learned positions only)
    model.layers[i].input_layernorm  .self_attn.{q,k,v,o}_proj
    model.layers[i].post_attention_layernorm  .mlp.{up_proj, act_fn, down_proj}   (unless attn_only)
    model.norm  lm_head
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation.utils import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from interp.errors import PositionError, UnknownNameError

POSITIONS = ("learned", "rotary", "none")
NORMS = ("layernorm", "rmsnorm", "none")


class ZooConfig(PretrainedConfig):
    """What a zoo model is made of; every field is stored in its ``config.json``."""

    model_type = "interp-zoo"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - the name and type are transformers'

    vocab_size: int = 64
    hidden_size: int = 64
    """Width of the residual stream."""
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 0
    """Key/value heads, each shared by an equal group of query heads; 0 means one for every query head."""
    head_dim: int = 0
    """Width of a head, independent of the others; 0 means ``hidden_size // num_attention_heads``."""
    intermediate_size: int = 0
    """MLP units; 0 means ``4 * hidden_size``."""
    max_position_embeddings: int = 128
    """Longest sequence; binding for learned positions only."""
    positions: str = "learned"
    """``learned`` (added to the stream), ``rotary`` (turns queries and keys) or ``none``."""
    rotary_base: float = 10000.0
    norm: str = "layernorm"
    """``layernorm``, ``rmsnorm`` or ``none`` (an identity)."""
    norm_eps: float = 1e-5
    attn_only: bool = False
    """True: blocks have neither MLP nor second norm, and no modules of these names."""
    attention_bias: bool = False
    """Biases in all four projections of attention."""
    mlp_bias: bool = True
    attention_scale: float | None = None
    """Factor of the scores; None means ``head_dim ** -0.5``."""
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.positions not in POSITIONS:
            raise UnknownNameError("kind of positions", self.positions, POSITIONS)
        if self.norm not in NORMS:
            raise UnknownNameError("norm", self.norm, NORMS)
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of coordinates, but head_dim={self.head_dim} is odd")
        super().__post_init__(**kwargs)


def eager_attention_forward(
    module: ZooAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in plain tensor operations, with the one softmax that a pattern hook looks for.

    Args:
        query: ``[example, head, position, d_head]``.
        key, value: ``[example, key/value head, source_position, d_head]``.
        attention_mask: added to the scores, ``[example, 1, position, source_position]``.

    Returns:
        Heads' outputs ``[example, position, head, d_head]`` and the pattern ``[example, head, position, source_position]``.
    """
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    # half precisions sum the exponentials in float32; float64 stays what it is
    accurate = torch.promote_types(scores.dtype, torch.float32)
    pattern = nn.functional.softmax(scores, dim=-1, dtype=accurate).to(query.dtype)
    pattern = nn.functional.dropout(pattern, p=dropout, training=module.training)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (j, j + d_head/2) of ``x[example, head, position, d_head]`` by their angles (arXiv 2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class ZooRotary(nn.Module):
    """Cosines and sines ``[example, 1, position, d_head / 2]``. No buffer: a model built on the meta device would lose it."""

    def __init__(self, config: ZooConfig) -> None:
        super().__init__()
        self.head_dim, self.base = config.head_dim, config.rotary_base

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        accurate = torch.promote_types(x.dtype, torch.float32)
        exponent = torch.arange(0, self.head_dim, 2, device=x.device, dtype=accurate) / self.head_dim
        angles = (position_ids[..., None].to(accurate) * self.base**-exponent).unsqueeze(1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class ZooAttention(nn.Module):
    def __init__(self, config: ZooConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.is_causal = True
        width, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, config.num_attention_heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, width, bias=bias)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        shape = hidden_states.shape[:-1]
        query, key, value = (
            project(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if position_embeddings is not None:
            query, key = _turn(query, *position_embeddings), _turn(key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        out, pattern = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.o_proj(out.reshape(*shape, -1).contiguous()), pattern


class ZooMLP(nn.Module):
    def __init__(self, config: ZooConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)))


def _norm(config: ZooConfig) -> nn.Module:
    if config.norm == "layernorm":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.Identity()


class ZooBlock(nn.Module):
    """Attention, then the MLP if there is one; returns the bare residual stream."""

    def __init__(self, config: ZooConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = ZooAttention(config, layer_idx)
        self.attn_only = config.attn_only
        if not config.attn_only:
            self.post_attention_layernorm = _norm(config)
            self.mlp = ZooMLP(config)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        if self.attn_only:
            return hidden_states
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class ZooPreTrainedModel(PreTrainedModel):
    config_class = ZooConfig
    base_model_prefix = "model"
    _no_split_modules = ["ZooBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": ZooBlock, "attentions": ZooAttention}  # noqa: RUF012


class ZooModel(ZooPreTrainedModel):
    """The stream without the unembedding."""

    def __init__(self, config: ZooConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.positions == "rotary":
            self.rotary_emb = ZooRotary(config)
        self.layers = nn.ModuleList([ZooBlock(config, i) for i in range(config.num_hidden_layers)])
        self.norm = _norm(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(seen, seen + inputs_embeds.shape[1], device=inputs_embeds.device).unsqueeze(0)
        hidden_states, turns = inputs_embeds, None
        if self.config.positions == "learned":
            hidden_states = hidden_states + self.embed_positions(self._within(position_ids))
        if self.config.positions == "rotary":
            turns = self.rotary_emb(inputs_embeds, position_ids)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        for block in self.layers:
            hidden_states = block(
                hidden_states,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=turns,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _within(self, position_ids: Tensor) -> Tensor:
        """The positions, or an error that says more than a failed table look-up; a compiled graph is not broken for it."""
        longest = self.config.max_position_embeddings
        if not torch.compiler.is_compiling() and int(position_ids.max()) >= longest:
            raise PositionError(
                f"position {int(position_ids.max())} is past the end: this zoo model has {longest} learned positions"
            )
        return position_ids


class ZooForCausalLM(ZooPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: ZooConfig) -> None:
        super().__init__(config)
        self.model = ZooModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits ``[example, position, vocab]``; arguments mean what they mean in every causal model of transformers."""
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(out.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


def register() -> None:
    """Make ``AutoConfig`` and ``AutoModelForCausalLM`` know the zoo; calling it again changes nothing."""
    AutoConfig.register(ZooConfig.model_type, ZooConfig, exist_ok=True)
    AutoModel.register(ZooConfig, ZooModel, exist_ok=True)
    AutoModelForCausalLM.register(ZooConfig, ZooForCausalLM, exist_ok=True)
