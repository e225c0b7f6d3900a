"""Tokenizers for tests of prompts and answers: one word a token, and byte pairs."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

WORDS = ["<s>", "<unk>", "When", "Mary", "and", "John", "went", "home", ",", "gave", "a", "book", "to", "Anne"]


@cache
def words(adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """One word a token."""
    inner = Tokenizer(tokenizer_models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


@cache
def pieces() -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, trained on three sentences: common words are one token with their space, others several."""
    inner = Tokenizer(tokenizer_models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    text = ["Mary and John went home. John gave a book to Mary and Mary gave a book to John."] * 5
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)
