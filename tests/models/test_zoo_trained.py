"""The trained zoo models do what their cards say, measured again here on prompts whose fillers training never saw together.

Expected numbers: the issue's 95% for every task; the rule that holds combinations out is written again from the card, so a
change of the training script cannot loosen it unseen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from interp import tasks
from interp.models import zoo
from interp.prompts import Pair, Prompt
from interp.tasks import lexicon

N = 150
"""Prompts a task: a true rate of 0.99 falls below 0.95 with a chance of 2e-4."""


class Loaded:
    def __init__(self, name: str) -> None:
        self.model: zoo.ZooForCausalLM = AutoModelForCausalLM.from_pretrained(zoo.path(name))
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(zoo.path(name))

    def id(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        assert found != self.tokenizer.unk_token_id, token
        return found

    @torch.no_grad()
    def after(self, prompts: Sequence[Prompt]) -> Tensor:
        """Logits ``[example, vocab]`` after each prompt, one prompt at a time of a length, BOS in front."""
        encoded = [self.tokenizer(str(prompt.text))["input_ids"] for prompt in prompts]
        out = torch.empty(len(prompts), len(self.tokenizer))
        for length in {len(ids) for ids in encoded}:
            rows = [i for i, ids in enumerate(encoded) if len(ids) == length]
            out[rows] = self.model(torch.tensor([encoded[i] for i in rows])).logits[:, -1]
        return out


@pytest.fixture(scope="module")
def induction() -> Loaded:
    return Loaded("induction-2l")


@pytest.fixture(scope="module")
def language() -> Loaded:
    return Loaded("language-4l")


def kept_from_training(*parts: str) -> bool:
    """A fifth of all combinations: the first 8 bytes of sha256 of the parts, joined by the unit separator, below 0.2 · 2^64."""
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big") < 0.2 * 2**64


def ioi_unseen(pair: Pair) -> bool:
    words = re.findall(r"\w+", str(pair.clean.text))
    (place,) = set(words) & set(lexicon.PLACES)
    (thing,) = set(words) & set(lexicon.OBJECTS)
    return kept_from_training("ioi", *sorted(pair.entities[:2])) and kept_from_training("ioi", place, thing)


def years_unseen(pair: Pair) -> bool:
    return kept_from_training("greater_than", *pair.entities)


def lists_unseen(pair: Pair) -> bool:
    a, b, c, d = pair.entities
    return kept_from_training("induction", a, b) and kept_from_training("induction", c, d)


def held_out(task: str, unseen: Callable[[Pair], bool], **arguments: object) -> list[Pair]:
    pairs = [pair for pair in tasks.make(task, 40 * N, seed=77, **arguments) if unseen(pair)]
    assert len(pairs) >= N
    return pairs[:N]


# ------------------------------------------------------------------------------------------------------------- what is shipped


def test_two_models_ship_in_less_than_eight_megabytes() -> None:
    assert zoo.names() == ("induction-2l", "language-4l")
    assert sum(f.stat().st_size for name in zoo.names() for f in zoo.path(name).iterdir()) < 8e6


@pytest.mark.parametrize("name", zoo.names())
def test_card_states_the_digest_of_the_weights(name: str) -> None:
    folder = zoo.path(f"zoo/{name}")
    card = (folder / "README.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"\b[0-9a-f]{64}\b", card)
    assert stated == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    for word in ("Data", "Training", "Held", "hance", "Limits"):
        assert word in card


@pytest.mark.parametrize("name", zoo.names())
@torch.no_grad()
def test_left_padded_batch_equals_single_prompts(name: str) -> None:
    """Tolerance: float32's rule of the design, 1e-5 · (1 + max |logit|)."""
    loaded = Loaded(name)
    texts = [str(tasks.induction(1, seed=k, length=6 + 3 * k)[0].clean.text) for k in range(4)]
    batch = loaded.tokenizer(texts, return_tensors="pt", padding=True)
    assert batch["input_ids"][0, 0] == loaded.tokenizer.pad_token_id
    place = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    together = loaded.model(**batch, position_ids=place).logits[:, -1]
    alone = loaded.after([Prompt(text) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * (1 + alone.abs().max().item()))


# ----------------------------------------------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("task", ["greater_than", "induction", "ioi"])
def test_tokenizer_round_trips_every_prompt(language: Loaded, task: str) -> None:
    tokenizer = language.tokenizer
    for pair in tasks.make(task, 60, seed=4):
        for prompt in (pair.clean, pair.corrupted):
            ids = tokenizer.encode(str(prompt.text), add_special_tokens=False)
            assert tokenizer.decode(ids) == prompt.text
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.encode(str(prompt.text)) == [tokenizer.bos_token_id, *ids]


def test_tokens_carry_their_space_and_years_are_two(language: Loaded) -> None:
    tokenizer = language.tokenizer
    assert tokenizer.tokenize("After Mary and John came") == ["After", " Mary", " and", " John", " came"]
    assert tokenizer.tokenize("The war lasted from the year 1732 to")[-4:] == [" year", " 17", "32", " to"]
    assert tokenizer.tokenize(' said: "Take this book,"') == [" said", ":", ' "', "Take", " this", " book", ",", '"']
    assert tokenizer.encode(" xylophone", add_special_tokens=False) == [tokenizer.unk_token_id]
    ids = [tokenizer.bos_token_id, language.id(" Mary"), tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == " Mary"


def test_lexicon_is_single_tokens(language: Loaded, induction: Loaded) -> None:
    for words in lexicon.LISTS.values():
        assert lexicon.single_token(words, language.tokenizer) == words
    assert lexicon.single_token(lexicon.WORDS, induction.tokenizer) == lexicon.WORDS


# ------------------------------------------------------------------------------------------------------------------- induction


@torch.no_grad()
def repeated(loaded: Loaded, period: int) -> Tensor:
    """[BOS] and ``period`` different random words twice, ``[example, position]``."""
    g = torch.Generator().manual_seed(31)
    ids = torch.tensor([loaded.id(" " + word) for word in lexicon.WORDS])
    words = ids[torch.rand(100, len(ids), generator=g).argsort(-1)[:, :period]]
    return torch.cat((torch.full((100, 1), loaded.tokenizer.bos_token_id), words, words), 1)


@pytest.mark.parametrize("period", [5, 11, 20])
@torch.no_grad()
def test_second_copy_is_predicted(induction: Loaded, period: int) -> None:
    """Chance is 1 in 128 words, 1 in ``period`` among those of the sequence."""
    tokens = repeated(induction, period)
    guess = induction.model(tokens).logits[:, period + 1 : -1].argmax(-1)
    assert (guess == tokens[:, period + 2 :]).float().mean() > 0.95


@torch.no_grad()
def test_induction_task_is_solved(induction: Loaded) -> None:
    """Clean prompts, and corrupted ones seen as clean by ``swap``; chance 1 in 128 words."""
    pairs = tasks.induction(N, seed=5, length=14)
    for side in (pairs, pairs.swap()):
        right = torch.tensor([induction.id(str(pair.answers[0])) for pair in side])
        assert (induction.after([pair.clean for pair in side]).argmax(-1) == right).float().mean() > 0.95


@torch.no_grad()
def test_one_previous_token_head_and_one_induction_head(induction: Loaded) -> None:
    """Mean attention to the token before, and from the second copy to the token after the first occurrence."""
    period, tokens = 12, repeated(induction, 12)
    model = Loaded("induction-2l").model
    model.set_attn_implementation("eager")
    first, second = model(tokens, output_attentions=True).attentions
    assert not hasattr(model.model.layers[0], "mlp")
    previous = torch.stack([first[:, :, i, i - 1] for i in range(2, 2 * period + 1)]).mean((0, 1))
    found = torch.stack([second[:, :, period + i, i + 1] for i in range(1, period + 1)]).mean((0, 1))
    assert previous.max() > 0.8
    assert found.max() > 0.8
    assert previous.sort().values[-2] < 0.3
    assert found.sort().values[-2] < 0.3


# -------------------------------------------------------------------------------------------------------------------- language


@pytest.mark.parametrize("order", ["ABBA", "BABA"])
def test_indirect_objects_are_found(language: Loaded, order: str) -> None:
    """Top-1 over the whole vocabulary; chance 1 in 120 names, 1 in 2 between the names of the prompt."""
    pairs = held_out("ioi", ioi_unseen, order=order)
    io = torch.tensor([language.id(str(pair.answers[0])) for pair in pairs])
    s = torch.tensor([language.id(str(pair.wrong[0])) for pair in pairs])
    assert (language.after([p.clean for p in pairs]).argmax(-1) == io).float().mean() > 0.95
    assert (language.after([p.corrupted for p in pairs]).argmax(-1) == s).float().mean() > 0.95


def test_three_names_leave_the_receiver_open(language: Loaded) -> None:
    """ABC prompts: a third person gives, to either; in the data each of the two has probability 1/2."""
    pairs = held_out("ioi", ioi_unseen, corruption="abc")
    probability = language.after([p.corrupted for p in pairs]).softmax(-1)
    names = torch.tensor([[language.id(f" {name}") for name in pair.entities[2:]] for pair in pairs])
    io, s1, giver = probability.gather(1, names).mean(0).tolist()
    assert 0.3 < io < 0.7
    assert 0.3 < s1 < 0.7
    assert giver < 0.05


def test_later_years_are_predicted(language: Loaded) -> None:
    """Chance: a uniform guess among the hundred years puts 0.495 on later ones on average."""
    pairs = held_out("greater_than", years_unseen)
    probability = language.after([p.clean for p in pairs]).softmax(-1)
    later = torch.zeros_like(probability)
    for row, pair in enumerate(pairs):
        later[row, [language.id(str(year)) for year in pair.answers]] = 1.0
    assert (probability * later).sum(-1).mean() > 0.95
    assert later.gather(1, probability.argmax(-1, keepdim=True)).mean() > 0.95


@pytest.mark.parametrize("length", [8, 12, 20])
def test_lists_are_continued(language: Loaded, length: int) -> None:
    """Top-1; chance 1 in 128 words, 1 in ``length − 1`` among those of the prompt."""
    pairs = held_out("induction", lists_unseen, length=length)
    right = torch.tensor([language.id(str(pair.answers[0])) for pair in pairs])
    assert (language.after([p.clean for p in pairs]).argmax(-1) == right).float().mean() > 0.95
