"""The architectures that the workbench answers for, each built tiny from its configuration, offline.

    >>> model = build("llama")                                                               # doctest: +SKIP
    >>> type(model).__name__, sum(p.numel() for p in model.parameters())                      # doctest: +SKIP
    ('LlamaForCausalLM', 33536)

Every parameter matters (no zero biases, no unit gains) and what comes out is a few units wide, so that an intervention at any
site shows. The same seed gives the same weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from interp.models import Model, load

# Deliberately awkward: an MLP that is no multiple of the stream, a vocabulary that is no multiple of anything.
LAYERS, WIDTH, HEADS, KV_HEADS, MLP, VOCAB, LENGTH = 3, 32, 4, 2, 56, 97, 64
IMAGE, PATCH, CHANNELS = 16, 4, 3

_NO_TOKENS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
_TEXT: dict[str, Any] = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
    "max_position_embeddings": LENGTH,
    "vocab_size": VOCAB,
    **_NO_TOKENS,
}
_GROUPED: dict[str, Any] = {**_TEXT, "num_key_value_heads": KV_HEADS, "tie_word_embeddings": False}
_VISION: dict[str, Any] = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "num_channels": CHANNELS,
}
_ENCODER_DECODER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "decoder_start_token_id": 0,
    **_NO_TOKENS,
    "pad_token_id": 0,
}


def build(architecture: str, seed: int = 0) -> nn.Module:
    """A tiny model with random weights, float32, in evaluation mode.

    Raises:
        KeyError: no such architecture; see :data:`ARCHITECTURES`.
    """
    torch.manual_seed(seed)  # for what a class draws itself: buffers, Mamba's A
    return randomised(ARCHITECTURES[architecture]().to(torch.float32).eval(), seed)


def loaded(architecture: str, seed: int = 0) -> Model:
    """The same, with its sites found and proven."""
    if architecture in PIPELINES:
        return load(PIPELINES[architecture](seed), steps=2, guidance=2.0, name=architecture)
    example = EXAMPLES.get(architecture)
    return load(build(architecture, seed), name=architecture, example=example() if example is not None else None)


def available() -> list[str]:
    """Modules whose library is installed, by name."""
    return [name for name in ARCHITECTURES if find_spec(LIBRARIES.get(name, "transformers")) is not None]


def examinable() -> list[str]:
    """The same, and pipelines."""
    return [*available(), *(name for name in PIPELINES if find_spec(LIBRARIES[name]) is not None)]


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The module with every weight drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.rpartition(".")[2] in _AS_MADE:
                continue
            draw = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim <= 1:
                gain = name.endswith("weight") or "lambda" in name  # of a norm: 1-D weights are nothing else
                parameter.copy_(0.2 * draw + gain)
            elif "embed" in name or "wte" in name or "shared" in name:
                parameter.copy_(0.5 * draw)
            elif "norm" in name:  # scales and shifts that a norm is given, by the time step
                parameter.copy_(0.2 / _fan_in(name, parameter) ** 0.5 * draw)
            else:
                parameter.copy_(1.5 / _fan_in(name, parameter) ** 0.5 * draw)
    return module


_AS_MADE = ("A_log", "D", "logit_scale")
"""Parameters whose sign or size the architecture relies on."""


def _fan_in(name: str, weight: Tensor) -> int:
    return int(weight[0].numel()) if weight.ndim > 2 and "experts" not in name else int(weight.shape[-1])


def _causal(config: str, base: Mapping[str, Any] = _GROUPED, **changes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        made = getattr(transformers, config)(**{**base, **changes})
        return transformers.AutoModelForCausalLM.from_config(made)

    return make


def _of_class(model: str, config: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**arguments))

    return make


def _clip_like(name: str, **vision: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")
        text: dict[str, Any] = {**_TEXT, "max_position_embeddings": 16, "projection_dim": 16, "pad_token_id": 0}
        arguments: dict[str, Any] = {
            "text_config": text,
            "vision_config": {**_VISION, "projection_dim": 16, **vision},
            "projection_dim": 16,
        }
        if name == "Siglip":
            text |= {"projection_size": WIDTH}
            arguments.pop("projection_dim")
        return getattr(transformers, f"{name}Model")(config(**arguments))

    return make


def _blip() -> nn.Module:
    from transformers import BlipConfig, BlipForQuestionAnswering

    text = {**_TEXT, "encoder_hidden_size": WIDTH, "bos_token_id": 1, "eos_token_id": 0, "sep_token_id": 0, "pad_token_id": 2}
    return BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=_VISION, projection_dim=16))


def _llava() -> nn.Module:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    options: dict[str, Any] = {"image_token_id": VOCAB - 1, "image_seq_length": (IMAGE // PATCH) ** 2}
    vision, text = CLIPVisionConfig(**_VISION), LlamaConfig(**_GROUPED)
    read: dict[str, Any] = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, **read, **options))


def _qwen2_vl() -> nn.Module:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision: dict[str, Any] = {
        "depth": LAYERS,
        "embed_dim": WIDTH,
        "hidden_size": WIDTH,
        "num_heads": HEADS,
        "mlp_ratio": 2,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "in_channels": CHANNELS,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    special: dict[str, Any] = {"image_token_id": VOCAB - 1, "video_token_id": VOCAB - 2, "vision_start_token_id": VOCAB - 3}
    text: dict[str, Any] = {**_GROUPED, "rope_parameters": rope}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, vision_end_token_id=VOCAB - 4, **special)
    return Qwen2VLForConditionalGeneration(config)


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
    )


def _dit() -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=4,
    )


def _dcgan() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, 1, 0), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


_MOE: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
_GPT2: dict[str, Any] = {
    "n_layer": LAYERS,
    "n_embd": WIDTH,
    "n_head": HEADS,
    "n_positions": LENGTH,
    "vocab_size": VOCAB,
    **_NO_TOKENS,
}
_GEMMA: dict[str, Any] = {"head_dim": 12, "tie_word_embeddings": True, "pad_token_id": 0}
_BART: dict[str, Any] = {
    **_ENCODER_DECODER,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": MLP,
    "decoder_ffn_dim": MLP,
}
_BERT: dict[str, Any] = {**_TEXT, "pad_token_id": 0}

ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {
    # decoders
    "gpt2": _causal("GPT2Config", _GPT2, n_inner=MLP),
    "gpt-neo": _causal(
        "GPTNeoConfig",
        {
            "num_layers": LAYERS,
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "intermediate_size": MLP,
            "max_position_embeddings": LENGTH,
            "vocab_size": VOCAB,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 4,
            **_NO_TOKENS,
        },
    ),
    "gpt-j": _causal("GPTJConfig", _GPT2, n_inner=MLP, rotary_dim=4),
    "gpt-neox": _causal("GPTNeoXConfig", _TEXT, rotary_pct=0.5),
    "opt": _causal("OPTConfig", _TEXT, ffn_dim=MLP, word_embed_proj_dim=WIDTH, pad_token_id=1),
    "bloom": _causal(
        "BloomConfig", {"n_layer": LAYERS, "hidden_size": WIDTH, "n_head": HEADS, "vocab_size": VOCAB, **_NO_TOKENS}
    ),
    "llama": _causal("LlamaConfig"),
    "mistral": _causal("MistralConfig", sliding_window=4),
    "mixtral": _causal("MixtralConfig", **_MOE),
    "qwen2": _causal("Qwen2Config"),
    "qwen3": _causal("Qwen3Config", head_dim=12),
    "qwen3-moe": _causal("Qwen3MoeConfig", head_dim=12, moe_intermediate_size=24, mlp_only_layers=[0], **_MOE),
    "gemma": _causal("GemmaConfig", **_GEMMA),
    "gemma2": _causal(
        "Gemma2Config",
        **_GEMMA,
        query_pre_attn_scalar=20,
        sliding_window=4,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=16.0,
    ),
    "gemma3": _causal("Gemma3TextConfig", **_GEMMA, query_pre_attn_scalar=20, sliding_window=4),
    "phi": _causal("PhiConfig", _TEXT, partial_rotary_factor=0.5),
    "phi3": _causal("Phi3Config", pad_token_id=0),
    "olmo2": _causal("Olmo2Config"),
    "falcon": _causal("FalconConfig", _TEXT, multi_query=True, parallel_attn=True, new_decoder_architecture=False),
    "falcon-new": _causal("FalconConfig", _TEXT, num_kv_heads=KV_HEADS, new_decoder_architecture=True),
    "stablelm": _causal("StableLmConfig"),
    "smollm3": _causal("SmolLM3Config", pad_token_id=0),
    "deepseek-v3": _causal(
        "DeepseekV3Config",
        {**_TEXT, "num_key_value_heads": HEADS},
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=6,
        v_head_dim=8,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=24,
        first_k_dense_replace=1,
    ),
    "mamba": _causal(
        "MambaConfig", {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "vocab_size": VOCAB, "state_size": 4, **_NO_TOKENS}
    ),
    "gpt-oss": _causal(
        "GptOssConfig",
        head_dim=12,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    # hybrids
    "jamba": _causal(
        "JambaConfig",
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=4,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
    ),
    "qwen3-next": _causal(
        "Qwen3NextConfig",
        head_dim=12,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=6,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        mlp_only_layers=[0],
        **_MOE,
    ),
    # encoders
    "bert": _of_class("BertForMaskedLM", "BertConfig", **_BERT),
    "distilbert": _of_class(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        dim=WIDTH,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=MLP,
        vocab_size=VOCAB,
        max_position_embeddings=LENGTH,
        **{**_NO_TOKENS, "pad_token_id": 0},
    ),
    "roberta": _of_class("RobertaForMaskedLM", "RobertaConfig", **{**_BERT, "pad_token_id": 1}),
    "modernbert": _of_class(
        "ModernBertForMaskedLM", "ModernBertConfig", **_BERT, cls_token_id=0, sep_token_id=0, local_attention=4
    ),
    # encoders with decoders
    "t5": _of_class(
        "T5ForConditionalGeneration",
        "T5Config",
        **_ENCODER_DECODER,
        d_kv=WIDTH // HEADS,
        d_ff=MLP,
        num_layers=LAYERS,
        num_decoder_layers=LAYERS,
        num_heads=HEADS,
        feed_forward_proj="gated-gelu",
    ),
    "bart": _of_class("BartForConditionalGeneration", "BartConfig", **_BART, max_position_embeddings=LENGTH),
    "whisper": _of_class(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        **_BART,
        num_mel_bins=8,
        max_source_positions=10,
        max_target_positions=LENGTH,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    # vision
    "vit": _of_class("ViTForImageClassification", "ViTConfig", **_VISION, num_labels=5),
    "dinov2": _of_class(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        **{k: v for k, v in _VISION.items() if k != "intermediate_size"},
        num_labels=5,
    ),
    "resnet": _of_class(
        "ResNetForImageClassification",
        "ResNetConfig",
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[2, 1],
        layer_type="basic",
        num_labels=3,
    ),
    "swin": _of_class(
        "SwinForImageClassification",
        "SwinConfig",
        image_size=16,
        patch_size=2,
        embed_dim=12,
        depths=[2, 1],
        num_heads=[2, 3],
        window_size=4,
        num_labels=3,
    ),
    # vision and language
    "clip": _clip_like("CLIP"),
    "siglip": _clip_like("Siglip"),
    "blip": _blip,
    "llava": _llava,
    "qwen2-vl": _qwen2_vl,
    # generators
    "unet": _unet,
    "dit": _dit,
    "dcgan": _dcgan,
}
"""How each is made."""

LIBRARIES: Mapping[str, str] = {"unet": "diffusers", "dit": "diffusers", "stable-diffusion": "diffusers"}
"""Optional libraries that some need."""


def _latents() -> dict[str, Tensor]:
    """Of a generator: three, the third as the first."""
    drawn = torch.randn(2, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    return {"input": drawn[[0, 1, 0]]}


EXAMPLES: Mapping[str, Callable[[], dict[str, Tensor]]] = {"dcgan": _latents}
"""How those are called of which nothing says it."""


def stable_diffusion(seed: int = 0) -> Any:
    """A whole pipeline with random weights: a text encoder, a U-Net, and a decoder of its latents; no tokenizer."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    text: Any = CLIPTextModel(CLIPTextConfig(**{**_TEXT, "max_position_embeddings": 16, "pad_token_id": 1}))
    vae: Any = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
    )
    schedule = DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no safety checker
        return StableDiffusionPipeline(
            vae=vae.eval(),
            text_encoder=randomised(text, seed).eval(),
            tokenizer=None,
            unet=randomised(_unet(), seed).eval(),
            scheduler=schedule,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


PIPELINES: Mapping[str, Callable[[int], Any]] = {"stable-diffusion": stable_diffusion}
"""Those that call several networks, by a seed."""
NAMES = (*ARCHITECTURES, *PIPELINES)
"""Everything that :func:`loaded` makes."""
