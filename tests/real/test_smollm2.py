"""The real model that other tests stand on is what it claims to be."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def test_the_converted_folder_holds_the_numbers_of_the_gguf_file(smollm2: Path, smollm2_gguf: Path) -> None:
    """Expected: bit-identical, since unpacking to float32 happens once and safetensors keeps float32 as it is."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    ids = tokenizer("When Mary and John went to the store, John gave a drink to", return_tensors="pt").input_ids
    direct = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent,
        gguf_file=smollm2_gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    converted = AutoModelForCausalLM.from_pretrained(smollm2)
    assert converted.dtype == torch.float32
    assert converted.config.num_attention_heads == 9
    assert converted.config.num_key_value_heads == 3
    with torch.inference_mode():
        logits = converted(ids).logits
        torch.testing.assert_close(logits, direct(ids).logits, rtol=0, atol=0)
    assert tokenizer.decode(logits[0, -1].argmax()) == " Mary"


def test_the_tokenizer_prepends_nothing_by_itself(smollm2: Path) -> None:
    """The file names ``<|im_start|>`` as its BOS token, and does not add it."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.tokenize(" text", add_special_tokens=True) == ["Ġtext"]
