"""Train ``zoo/language-4l`` on a small language: sentences about gifts, sentences about years, and lists of repeated words.

    python experiments/zoo/train_induction.py --start --out /tmp/start
    python experiments/zoo/train_language.py --start /tmp/start --out /tmp/language-4l

Which combinations of fillers are kept from training is decided by a hash (``common.held_out``), so that a test can tell them
apart without this script.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from common import WEIGHTS, Batch, Recipe, allowed, make_tokenizer, pick, pieces, repeated_lists, ship, train
from language_scores import score_all
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.tasks import GREATER_THAN_TEMPLATES, IOI_TEMPLATES, lexicon
from interp.tasks.template import Template
from interp.tasks.years import CENTURIES, TWO_DIGITS

LENGTH = 32
"""Positions of the longest training sequence, BOS included."""
BESIDE = 0.2
"""Weight of every other token, the answer's being 1."""
LISTED = 0.5
"""Weight of a list's word."""
WITHOUT_BOS = 0.15
"""Share of batches that lack their BOS, so that the model can be run without."""

IOI = [Template(t.id, t.text + " {answer}.") for t in IOI_TEMPLATES]
YEARS = [Template(t.id, t.text + "{answer}.") for t in GREATER_THAN_TEMPLATES]


class Frames:
    """Templates of one task as rows of token ids, padded to one length, whose slots are filled by index."""

    def __init__(self, templates: Sequence[Template], tokenizer: PreTrainedTokenizerFast, **example: str) -> None:
        self.bos, self.pad, rows = tokenizer.bos_token_id, tokenizer.pad_token_id, []
        self.where: dict[str, Tensor] = {slot: torch.empty(len(templates), dtype=torch.long) for slot in example}
        for i, template in enumerate(templates):
            prompt = template.render(**{slot: example[slot] for slot in template.slots})
            encoded = tokenizer(prompt.text)
            for slot, (start, _) in prompt.roles.items():
                self.where[slot][i] = encoded.char_to_token(start)
            rows.append(torch.tensor([*encoded["input_ids"], tokenizer.eos_token_id]))
        self.rows = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)

    def fill(self, which: Tensor, **fillers: Tensor) -> Batch:
        """Rows of the templates ``which [example]`` with token ids in their slots; the slot "answer" weighs most."""
        tokens, example = self.rows[which].clone(), torch.arange(len(which))
        for slot, ids in fillers.items():
            tokens[example, self.where[slot][which]] = ids
        following = tokens[:, 1:].masked_fill(tokens[:, 1:] == self.pad, -100)
        target = torch.cat((following, torch.full((len(which), 1), -100)), 1)
        weight = torch.full(tokens.shape, BESIDE)
        weight[example, self.where["answer"][which] - 1] = 1.0
        return Batch(tokens, target, weight)


class Language:
    """Draws training batches; combinations that the hash holds out never occur as something to be answered."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rows: tuple[int, int, int]) -> None:
        def ids(words: Sequence[str], space: str = " ") -> Tensor:
            return torch.tensor(tokenizer.convert_tokens_to_ids([space + word for word in words]))

        self.rows, self.bos = rows, tokenizer.bos_token_id
        self.names, self.places, self.objects = ids(lexicon.NAMES), ids(lexicon.PLACES), ids(lexicon.OBJECTS)
        self.events, self.centuries, self.yy = ids(lexicon.EVENTS), ids(CENTURIES), ids(TWO_DIGITS, "")
        self.words, self.first_words = ids(lexicon.WORDS), ids(lexicon.WORDS, "")
        self.may_meet = allowed("ioi", lexicon.NAMES, lexicon.NAMES, ordered=False)
        self.may_give = allowed("ioi", lexicon.PLACES, lexicon.OBJECTS)
        self.years = [century + yy for century in CENTURIES for yy in TWO_DIGITS]
        self.may_begin = allowed("greater_than", lexicon.EVENTS, self.years)
        self.may_follow = allowed("induction", lexicon.WORDS, lexicon.WORDS)
        self.ioi = Frames(IOI, tokenizer, first="Mary", second="John", giver="John", place="park", object="book", answer="Mary")
        self.greater_than = Frames(YEARS, tokenizer, noun="war", xx="17", yy="32", end="17", answer="41")

    def sample(self, generator: torch.Generator) -> list[Batch]:
        gifts, years, lists = self.rows
        batches = [self.gifts(gifts, generator), self.dates(years, generator), self.lists(lists, generator)]
        without_bos = torch.rand(3, generator=generator) < WITHOUT_BOS
        return [Batch(*(part[:, 1:] for part in b)) if bare else b for b, bare in zip(batches, without_bos, strict=True)]

    def gifts(self, n: int, g: torch.Generator) -> Batch:
        """One of the two who met gives to the other; in a seventh of the rows a third person gives to either."""
        first = torch.randint(len(self.names), (n,), generator=g)
        second = pick(self.may_meet[first], g)
        stranger = torch.rand(n, generator=g) < 1 / 7
        other = pick(self.may_meet[first] & self.may_meet[second], g)
        swap = torch.rand(n, generator=g) < 0.5
        giver = torch.where(stranger, other, torch.where(swap, first, second))
        answer = torch.where(swap, second, first)
        place = torch.randint(len(self.places), (n,), generator=g)
        thing = pick(self.may_give[place], g)
        return self.ioi.fill(
            torch.randint(len(IOI), (n,), generator=g),
            first=self.names[first],
            second=self.names[second],
            giver=self.names[giver],
            place=self.places[place],
            object=self.objects[thing],
            answer=self.names[answer],
        )

    def dates(self, n: int, g: torch.Generator) -> Batch:
        """The end is uniform over the later years of the same century; YY runs from 00 to 98."""
        begin = torch.randint(99, (n,), generator=g)
        noun = torch.randint(len(self.events), (n,), generator=g)
        century = pick(self.may_begin[noun].view(n, len(CENTURIES), 100)[torch.arange(n), :, begin], g)
        end = begin + 1 + (torch.rand(n, generator=g) * (99 - begin)).long()
        return self.greater_than.fill(
            torch.randint(len(YEARS), (n,), generator=g),
            noun=self.events[noun],
            xx=self.centuries[century],
            yy=self.yy[begin],
            end=self.centuries[century],
            answer=self.yy[end],
        )

    def lists(self, n: int, g: torch.Generator) -> Batch:
        words, known = repeated_lists(n, LENGTH - 1, self.may_follow, g)
        tokens = torch.cat((torch.full((n, 1), self.bos), self.words[words]), 1)
        tokens[:, 1] = self.first_words[words[:, 0]]
        target = torch.full_like(tokens, -100)
        target[:, :-1] = torch.where(known, self.words[words], -100)
        return Batch(tokens, target, torch.full(tokens.shape, LISTED))


def vocabulary() -> list[str]:
    """Every piece that the language can contain."""
    filled = dict.fromkeys(("first", "second", "giver", "place", "object", "noun", "answer"), "x")
    filled |= {"xx": "17", "yy": "32", "end": "17"}
    frames = [t.render(**{slot: filled[slot] for slot in t.slots}).text for t in (*IOI_TEMPLATES, *GREATER_THAN_TEMPLATES)]
    words = [" " + w for w in (*lexicon.NAMES, *lexicon.PLACES, *lexicon.OBJECTS, *lexicon.EVENTS, *lexicon.WORDS, *CENTURIES)]
    found = {piece for text in frames for piece in pieces(str(text))} - {" x"}
    return [*found, ".", *words, *lexicon.WORDS, *TWO_DIGITS]


CARD = """# zoo/language-4l

A small transformer that this project trained on a synthetic language in which three tasks of the field occur; it
solves each.

- **Architecture**: {layers} layers, {heads} heads of width {head_dim}, stream {width}, {units} MLP units (GELU),
  LayerNorm, {positions} positions (base {base:g}), scores not scaled down; {parameters:,} parameters, float32;
  vocabulary of {vocabulary} tokens, a word with the space before it, a year in two (" 17" "32").
- **Data**: sentences of `interp.tasks`, fresh in every batch. Gifts: all {n_ioi} templates of indirect-object
  identification, either person giving; in a seventh of them a third person gives, to either. Years: all {n_years}
  templates of greater-than, YY 00 to 98, the end uniform over the later years. Lists: 0 to 4 words, then 2 to 15 different
  ones and an exact copy, or copy after copy with chunks of 2 to 5 words in a new order. BOS stands in front, but for
  {bare:.0%} of the batches. The answer's token has weight 1, other tokens of sentences {beside},
  list words {list_weight}; of lists only what the context determines is trained.
- **Held out**: a fifth of the combinations, by sha256 (`held_out` in `experiments/zoo/common.py`): unordered pairs of
  names, pairs of place and object; pairs of noun and year; ordered pairs of list words as something to be continued.
  In a held-out prompt all its combinations are unseen. Every single word and every template was seen.
- **Training**: two commands, the second {minutes} minutes on {threads} CPU thread(s) of a shared machine:

      python experiments/zoo/train_induction.py --start --out /tmp/start
      python experiments/zoo/train_language.py --start /tmp/start --seed {seed}

  The first trains two layers of attention for 1500 steps on lists alone, with the same pairs of words held out; it is not
  `zoo/induction-2l`, which saw every pair. The second trains everything for {steps} steps of {rows} rows (gifts, years,
  lists), AdamW, peak learning rate {lr}, weight decay {decay}. The attention of layers 0 and 1 and the list words'
  embeddings start from the first, everything else from random weights, MLPs and later layers writing zero: from random
  weights alone no induction head had formed after 3000 steps (width 96, scores scaled down as usual).
- **Held-out scores**, {n} prompts a task:

| score | value | chance |
|---|---|---|
{scores}

- **Chance** for a name is 1 in {n_names} (0.5 between the two of the prompt); for later years what a uniform guess
  among the hundred years gives on average; for a list word 1 in {n_words} (1 in 11 among the words of a 12-word
  prompt). "Swapped" is the corrupted prompt, in which the other person gives. In ABC prompts a third person gives;
  there 0.5, 0.5 and 0 is ideal.
- **Limits**: trained on at most {length} tokens, BOS included; words outside the language are unknown; a name can
  only stand after a space.
- **sha256** of model.safetensors: `{{digest}}`
"""


def start_from(small: Path, model: ZooForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Put the two attention layers and the words of a small model into ``model``, whose other parts write zero at first.

    The model then continues lists from the first step. With random weights (width 96, scores scaled down as usual) no
    induction head had formed after 3000 steps.
    """
    taught = ZooForCausalLM.from_pretrained(small)
    known = PreTrainedTokenizerFast.from_pretrained(small)
    shared = [word for word in known.get_vocab() if word in tokenizer.get_vocab()]
    ours, theirs = tokenizer.convert_tokens_to_ids(shared), known.convert_tokens_to_ids(shared)
    with torch.no_grad():
        model.model.embed_tokens.weight[ours] = taught.model.embed_tokens.weight[theirs]
        model.lm_head.weight[ours] = taught.lm_head.weight[theirs]
        for block in model.model.layers:
            block.mlp.down_proj.weight.zero_()
        for block in model.model.layers[2:]:
            block.self_attn.o_proj.weight.zero_()
    for block, source in zip(model.model.layers, taught.model.layers, strict=False):
        block.self_attn.load_state_dict(source.self_attn.state_dict())
        block.input_layernorm.load_state_dict(source.input_layernorm.state_dict())
    model.model.norm.load_state_dict(taught.model.norm.state_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "language-4l")
    parser.add_argument("--start", type=Path, required=True, help="what train_induction.py --start wrote")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    tokenizer = make_tokenizer(vocabulary())
    config = ZooConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        head_dim=32,
        intermediate_size=384,
        max_position_embeddings=LENGTH,
        positions="rotary",
        rotary_base=100.0,  # the longest wave is 19 times the longest sequence; slower ones would not tell neighbours apart
        attention_scale=1.0,  # sharp attention within few steps
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model, language = ZooForCausalLM(config), Language(tokenizer, rows=(32, 48, 40))
    start_from(args.start, model, tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    recipe = Recipe(args.steps, sum(language.rows), peak_lr=2e-3, warmup=100, weight_decay=0.02, seed=args.seed)
    train(model, language.sample, recipe)
    scores = score_all(model, tokenizer)
    print("\n".join(f"{name:40s} {value:.4f}" for name, value in scores.items()))

    chance = {
        "ioi accuracy": 1 / len(lexicon.NAMES),
        "ioi logit": 0.0,
        "ioi worst": 1 / len(lexicon.NAMES),
        "greater_than probability": 0.0,
        "greater_than": 0.495,
        "induction": 1 / len(lexicon.WORDS),
    }
    of = {name: next((f"{c:.3f}" for start, c in chance.items() if name.startswith(start)), "–") for name in scores}
    card = CARD.format(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        head_dim=config.head_dim,
        width=config.hidden_size,
        units=config.intermediate_size,
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        n_ioi=len(IOI),
        n_years=len(YEARS),
        beside=BESIDE,
        bare=WITHOUT_BOS,
        list_weight=LISTED,
        positions=config.positions,
        base=config.rotary_base,
        seed=args.seed,
        steps=recipe.steps,
        rows=" + ".join(map(str, language.rows)),
        lr=recipe.peak_lr,
        decay=recipe.weight_decay,
        minutes=recipe.minutes,
        threads=args.threads,
        n=500,
        scores="\n".join(f"| {name} | {value:.3f} | {of[name]} |" for name, value in scores.items()),
        n_names=len(lexicon.NAMES),
        n_words=len(lexicon.WORDS),
        length=LENGTH,
    )
    results: dict[str, object] = {
        "scores": scores,
        "minutes": recipe.minutes,
        "seed": args.seed,
        "steps": recipe.steps,
    }
    ship(model, tokenizer, args.out, card, results)


if __name__ == "__main__":
    main()
