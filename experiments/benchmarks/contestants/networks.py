"""Networks of known sizes with random weights, the same in every process.

shape = GPT2_SMALL
network = shape.network()              # transformers' own initialisation from a fixed seed
shape.w_o(network, 3)                  # the module that takes the heads' outputs of block 3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, where it runs, and the seed of its weights."""

    name: str
    family: str
    """``"gpt2"``, with a plain MLP, or ``"llama"``, with a gated one and shared key/value heads."""
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    length: int = 1024
    """Most tokens of a prompt."""
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    spread: float = 0.02
    """Standard deviation of the weights, transformers' ``initializer_range``."""

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def gated(self) -> bool:
        return self.family == "llama"

    def network(self) -> PreTrainedModel:
        """Weights by transformers' initialisation, embeddings tied, attention as transformers loads it, evaluation mode."""
        config = self._gpt2() if self.family == "gpt2" else self._llama()
        torch.manual_seed(self.seed)
        network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, self.dtype))
        return network.to(self.device).eval()

    def blocks(self, network: nn.Module) -> Sequence[nn.Module]:
        return network.transformer.h if self.family == "gpt2" else network.model.layers

    def w_o(self, network: nn.Module, layer: int) -> nn.Module:
        """The output projection of a block's attention; its input holds z of every head, side by side."""
        block = self.blocks(network)[layer]
        return block.attn.c_proj if self.family == "gpt2" else block.self_attn.o_proj

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One word a token, for libraries that want a tokenizer; no benchmark uses a text."""
        from tokenizers import Tokenizer, models

        words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(self.vocab)}, unk_token="<0>"))
        return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<0>", pad_token="<0>", eos_token="<0>")

    def _gpt2(self) -> GPT2Config:
        return GPT2Config(
            n_layer=self.layers,
            n_embd=self.width,
            n_head=self.heads,
            n_inner=self.mlp,
            n_positions=self.length,
            vocab_size=self.vocab,
            initializer_range=self.spread,
            bos_token_id=0,
            eos_token_id=0,
            architectures=["GPT2LMHeadModel"],
        )

    def _llama(self) -> LlamaConfig:
        return LlamaConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.mlp,
            max_position_embeddings=self.length,
            vocab_size=self.vocab,
            initializer_range=self.spread,
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=True,
            architectures=["LlamaForCausalLM"],
        )


GPT2_SMALL = Shape("GPT-2 small", "gpt2", layers=12, width=768, heads=12, kv_heads=12, mlp=3072, vocab=50257)
LLAMA_1B = Shape("Llama-3.2-1B", "llama", layers=16, width=2048, heads=32, kv_heads=8, mlp=8192, vocab=128256)
TINY_GPT2 = Shape("tiny GPT-2", "gpt2", layers=3, width=32, heads=4, kv_heads=4, mlp=128, vocab=97, length=64, spread=0.2)
TINY_LLAMA = Shape("tiny Llama", "llama", layers=2, width=32, heads=4, kv_heads=2, mlp=56, vocab=97, length=64, spread=0.2)
