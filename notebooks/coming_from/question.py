"""What all four libraries are asked: the ten tasks by name, and the folder with the model, the prompts and the vectors.

>>> q = load(folder)                                                                             # doctest: +SKIP
>>> q.clean.shape, q.answer.shape, q.steering.shape, q.basis.shape                               # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

TASKS = (
    "next_token",
    "one_activation",
    "attention_patterns",
    "zero_a_head",
    "patch_the_stream",
    "steer",
    "logit_lens",
    "direct_logit_attribution",
    "attribution_patching",
    "interchange_in_a_subspace",
)


def network(folder: str) -> PreTrainedModel:
    """The model with eager attention, which computes patterns; the libraries differ only in rounding from fused attention."""
    return GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()


def tokenizer(folder: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def save(folder: str, **tensors: Tensor) -> None:
    torch.save(tensors, Path(folder, "question.pt"))


def load(folder: str) -> SimpleNamespace:
    """``clean``, ``corrupted`` ``[example, position]``; ``answer``, ``wrong`` ``[example]``; ``steering`` ``[width]``; and
    ``basis`` ``[width, 4]``, orthonormal columns."""
    return SimpleNamespace(**torch.load(Path(folder, "question.pt")))


def logit_diff(logits: Tensor, q: SimpleNamespace) -> Tensor:
    """The answer's logit minus the wrong one's after the last token: one number a prompt."""
    rows = torch.arange(len(logits))
    return logits[rows, -1, q.answer] - logits[rows, -1, q.wrong]
