"""The loss with and without BOS: against the raw module's own loss, or why there is none."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from interp import doctor, load
from interp.doctor import architectures
from interp.doctor.bos import TEXT, Loss, loss_with_and_without_bos
from interp.doctor.examine import examine
from interp.models import Model

LETTERS = {"<s>": 0, "?": 1, **{c: i + 2 for i, c in enumerate(sorted({*TEXT.replace(" ", "Ġ")}))}}


def tokenizer(adds: bool = False, bos: bool = True, known: bool = True) -> PreTrainedTokenizerFast:
    """A letter a token."""
    words = LETTERS if known else {"<s>": 0, "?": 1, "T": 2}
    inner = Tokenizer(tokenizer_models.WordLevel(words, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), pre_tokenizers.Split("", "isolated")]
    )
    inner.decoder = decoders.ByteLevel()
    if adds:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?", bos_token="<s>" if bos else None)


@pytest.mark.parametrize("adds", [True, False])
def test_the_losses_are_the_raw_modules(adds: bool) -> None:
    """Reference: transformers' own loss of labels, those of the first letter left out."""
    module = tiny.llama(0, max_position_embeddings=600)
    found = loss_with_and_without_bos(load(module, tokenizer=tokenizer(adds)))
    assert isinstance(found, Loss)
    ids = [LETTERS[c] for c in TEXT.replace(" ", "Ġ")]
    with torch.no_grad():
        labels = torch.tensor([[-100, -100, *ids[1:]]])
        with_bos = module(input_ids=torch.tensor([[0, *ids]]), labels=labels).loss
        without = module(input_ids=torch.tensor([ids]), labels=labels[:, 1:]).loss
    assert (found.bos, found.tokens, found.adds) == ("<s>", len(TEXT) - 1, adds)
    assert found.with_bos == pytest.approx(float(with_bos), abs=1e-5)
    assert found.without_bos == pytest.approx(float(without), abs=1e-5)
    assert abs(found.with_bos - found.without_bos) > 1e-4
    by = "which the tokenizer adds by itself" if adds else "which the tokenizer does not add by itself; bos=True does"
    assert str(found).endswith(f"without ({len(TEXT) - 1} tokens of English), {by}")


@pytest.mark.parametrize(
    ("kind", "given", "why"),
    [
        ("llama", None, "none: the model has no tokenizer"),
        ("llama", {"bos": False}, "none: the tokenizer has no BOS"),
        ("llama", {"known": False}, "none: the tokenizer does not know the words of an English text"),
        ("bert", {}, "none: it is no causal language model"),
        ("t5", {}, "none: it is no causal language model"),
    ],
)
def test_where_there_is_none(kind: str, given: dict[str, bool] | None, why: str) -> None:
    module = tiny.llama(0) if kind == "llama" else architectures.build(kind)
    assert loss_with_and_without_bos(load(module, tokenizer=None if given is None else tokenizer(**given))) == why


def test_reports_say_it() -> None:
    model = load(tiny.llama(0, max_position_embeddings=600), tokenizer=tokenizer())
    report = examine(model, ())
    assert isinstance(report.loss, Loss)
    assert f"loss: {report.loss}" in doctor.text(report).splitlines()
    assert json.loads(json.dumps(report.spec()))["loss"]["with_bos"] == report.loss.with_bos
    none = examine(load(tiny.llama(0)), ())
    assert none.spec()["loss"] == "none: the model has no tokenizer"
    assert "loss: none: the model has no tokenizer" in doctor.text(none)


def test_a_text_that_does_not_run_is_no_failure() -> None:
    """GPT-2 with 64 learned positions."""
    report = examine(load(tiny.gpt2(0), tokenizer=tokenizer()), ())
    assert isinstance(report.loss, str)
    assert report.loss.startswith("none: a text does not run (")
    assert report.failed == ()


def test_smollm2_does_not_want_its_bos(loaded_smollm2: Model) -> None:
    """The token that its file calls BOS begins a chat's messages; plain English is no better foretold with it."""
    found = loss_with_and_without_bos(loaded_smollm2)
    assert isinstance(found, Loss)
    assert (found.bos, found.adds) == ("<|im_start|>", False)
    assert 1.5 < found.without_bos < found.with_bos < 3.5
