"""TransformerLens' model of a tiny network, for parity tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import tiny
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def bridge_of(network: PreTrainedModel) -> Any:
    """A TransformerBridge of a copy, since it rewires the module."""
    from transformer_lens.model_bridge import TransformerBridge

    words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(tiny.VOCAB)}, unk_token="<0>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<0>", pad_token="<0>", eos_token="<0>")
    return TransformerBridge.boot_transformers("tiny", hf_model=copy.deepcopy(network), tokenizer=tokenizer).eval()


def logit_diff(right: int, wrong: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[0, -1, right] - logits[0, -1, wrong]
