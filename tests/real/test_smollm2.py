"""The real model that other tests stand on is what it claims to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import interp


@pytest.fixture(scope="module")
def from_gguf(smollm2_gguf: Path) -> interp.Model:
    return interp.load(smollm2_gguf)


def test_the_converted_folder_holds_the_numbers_of_the_gguf_file(smollm2: Path, from_gguf: interp.Model) -> None:
    """Expected: bit-identical, since unpacking to float32 happens once and safetensors keeps float32 as it is."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    ids = tokenizer("When Mary and John went to the store, John gave a drink to", return_tensors="pt").input_ids
    converted = AutoModelForCausalLM.from_pretrained(smollm2)
    assert converted.dtype == torch.float32
    assert converted.config.num_attention_heads == 9
    assert converted.config.num_key_value_heads == 3
    with torch.inference_mode():
        logits = converted(ids).logits
        torch.testing.assert_close(logits, from_gguf.module(ids).logits, rtol=0, atol=0)
    assert tokenizer.decode(logits[0, -1].argmax()) == " Mary"


def test_from_its_gguf_file_it_knows_the_indirect_object(from_gguf: interp.Model) -> None:
    """At least 29 of 32, the issue's 90%; the design saw 30 of 32 with and without BOS. Chance is one half."""
    pairs = interp.tasks.ioi(32, seed=0, tokenizer=from_gguf.tokenizer)
    run = interp.patch(from_gguf, pairs, interp.Change("L0.resid_pre", -1), ["accuracy", "logit_diff"])
    assert run["clean"].sel(metric="accuracy").mean() >= 0.9
    assert run["corrupt"].sel(metric="accuracy").mean() <= 0.1


def test_the_tokenizer_prepends_nothing_by_itself(smollm2: Path) -> None:
    """The file names ``<|im_start|>`` as its BOS token, and does not add it."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.tokenize(" text", add_special_tokens=True) == ["Ġtext"]
