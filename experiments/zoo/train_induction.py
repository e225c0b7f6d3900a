"""Train ``zoo/induction-2l``: two layers of attention that continue repeated word sequences.

    python experiments/zoo/train_induction.py --seed 0 --out /tmp/induction-2l
    python experiments/zoo/train_induction.py --start --out /tmp/start

With ``--start`` a fifth of the pairs of words is kept away and training is shorter: the network from which ``language-4l``
starts, whose prompts hold such pairs.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from common import WEIGHTS, Batch, Recipe, allowed, head_scores, make_tokenizer, repeated_lists, ship, train
from torch import Tensor

from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.tasks.lexicon import WORDS

LENGTH = 48
"""Positions of a training sequence, BOS included."""
WRITERS = (2, 1)
"""The heads of layer 0 and 1 that are to become the previous-token head and the induction head."""


def sampler(first: Tensor, inner: Tensor, bos: int, batch: int) -> Callable[[torch.Generator], list[Batch]]:
    """Batches of [BOS], 0 to 4 unrelated words, then a body of different words in copy after copy.

    In a third of the batches the copies are exact. In the others the body consists of chunks of 2 to 5 words that every copy
    puts in a new order: only the word directly before tells what comes, and neither a fixed distance nor a rough place will do.
    The very first word is spelled without its space in half of the batches. Trained are the words that the context determines.
    """
    n = len(inner)

    def sample(generator: torch.Generator) -> list[Batch]:
        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        lead, exact = draw(0, 5), draw(0, 3) == 0
        size = draw(4, 23) if exact else draw(2, 6)
        chunks = 1 if exact else draw(2, 24 // size + 1)
        order = torch.rand(batch, n, generator=generator).argsort(-1)  # different words
        prefix, body = order[:, :lead], order[:, lead : lead + size * chunks].view(batch, chunks, size)
        copies = [prefix]
        for _ in range(LENGTH // (size * chunks) + 1):
            shuffled = torch.rand(batch, chunks, generator=generator).argsort(-1)
            copies.append(body.gather(1, shuffled[..., None].expand_as(body)).flatten(1))
        words = torch.cat(copies, 1)[:, : LENGTH - 1]
        tokens = torch.cat((torch.full((batch, 1), bos), inner[words]), 1)
        if draw(0, 2):
            tokens[:, 1] = first[words[:, 0]]
        at = torch.arange(LENGTH - 1) - lead
        known = (at >= size * chunks) & ((at % size > 0) | exact)
        target = torch.full_like(tokens, -100)
        target[:, :-1] = torch.where(known, inner[words], -100)
        return [Batch(tokens, target, torch.ones(tokens.shape))]

    return sample


def start_sampler(first: Tensor, inner: Tensor, bos: int, batch: int) -> Callable[[torch.Generator], list[Batch]]:
    """BOS and repeated lists without the held-out pairs; the first word is spelled without its space in half of the batches."""
    may_follow = allowed("induction", WORDS, WORDS)

    def sample(generator: torch.Generator) -> list[Batch]:
        words, known = repeated_lists(batch, LENGTH - 1, may_follow, generator)
        tokens = torch.cat((torch.full((batch, 1), bos), inner[words]), 1)
        if torch.rand((), generator=generator) < 0.5:
            tokens[:, 1] = first[words[:, 0]]
        target = torch.full_like(tokens, -100)
        target[:, :-1] = torch.where(known, inner[words], -100)
        return [Batch(tokens, target, torch.ones(tokens.shape))]

    return sample


def held_out_words(n: int, period: int, generator: torch.Generator) -> Tensor:
    """``[example, position]``: different words, each after one that it never followed in training."""
    never = ~allowed("induction", WORDS, WORDS) & ~torch.eye(len(WORDS), dtype=torch.bool)
    rows: list[Tensor] = []
    while len(rows) < n:  # a fifth of the words may come next; sequences that run into a dead end are dropped
        words = torch.randint(len(WORDS), (1,), generator=generator)
        unused = torch.ones(len(WORDS), dtype=torch.bool)
        while len(words) < period:
            unused[words[-1]] = False
            may = never[words[-1]] & unused
            if not may.any():
                break
            words = torch.cat((words, torch.multinomial(may.float(), 1, generator=generator)))
        else:
            rows.append(words)
    return torch.stack(rows)


@torch.no_grad()
def accuracy(model: ZooForCausalLM, tokens: Tensor, period: int) -> float:
    """Share of words of the second copy, its first word left out, that are the most probable next token."""
    at = torch.arange(period + 1, 2 * period)  # positions (BOS = 0) whose successor lies inside the second copy
    found = model(tokens).logits[:, at].argmax(-1)
    return (found == tokens[:, at + 1]).float().mean().item()


def without_head(model: ZooForCausalLM, layer: int, head: int) -> ZooForCausalLM:
    """A copy in which one head writes nothing."""
    other = copy.deepcopy(model)
    width = model.config.head_dim
    with torch.no_grad():
        other.model.layers[layer].self_attn.o_proj.weight[:, head * width : (head + 1) * width] = 0.0
    return other


CARD = """# zoo/induction-2l

Two layers of attention and nothing else, trained by this project to continue repeated word sequences: the smallest
trained network with an induction head.

- **Architecture**: {layers} layers, {heads} heads of width {head_dim}, stream {width}, LayerNorm, {positions}
  positions (base {base:g}), scores not scaled down, no MLP; {parameters:,} parameters, float32; vocabulary of
  {vocabulary} tokens, each word with and without a space before it.
- **Data**: BOS, 0 to 4 unrelated words, then 4 to 24 different words of `interp.tasks.lexicon.WORDS` ({n_words}
  words), copy after copy up to {length} positions. In a third of the batches the copies are exact; in the others
  every copy puts chunks of 2 to 5 words in a new order, so that only the word directly before tells what comes. Words
  are drawn uniformly, fresh in every batch. Trained are the words that the context determines.
- **Training**: `python experiments/zoo/train_induction.py --seed {seed}`; {steps} steps of {batch} sequences, AdamW,
  peak learning rate {lr}, weight decay {decay}, {minutes} minutes on one CPU thread of a shared machine. Besides the
  cross-entropy, {penalty} times the share of each layer's writing that is not done by one head chosen beforehand
  (L0H{w0} and L1H{w1}): without it the heads of layer 1 do the same thing in equal parts. What the chosen heads do
  was not prescribed.
- **Held out**: random sequences of another seed; there are so many that none was seen in training. Accuracy on the
  second copy, its first word left out, over 512 sequences:
{accuracies}

Chance is {chance:.2%}, one of {n_words} words; one in 6, 12 or 20 among the words of the sequence.
- **Heads**, mean attention over 512 sequences of twice the same 12 words:

| score | head 0 | head 1 | head 2 | head 3 |
|---|---|---|---|---|
| previous token, layer 0: from a token to the one before it | {previous} |
| induction, layer 1: from the second copy to the token after the first occurrence | {induction} |
| accuracy with the output of this layer-0 head set to zero | {without_0} |
| accuracy with the output of this layer-1 head set to zero | {without_1} |

- **Limits**: trained on at most {length} tokens; list words only; always with BOS in front. A head may attend without
  writing: the last two rows say which heads matter.
- **sha256** of model.safetensors: `{{digest}}`
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "induction-2l")
    parser.add_argument("--steps", type=int, default=None, help="2000, with --start 1500")
    parser.add_argument("--start", action="store_true", help="train the network from which language-4l starts")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    tokenizer = make_tokenizer([form for word in WORDS for form in (word, " " + word)])
    first = torch.tensor(tokenizer.convert_tokens_to_ids(list(WORDS)))
    inner = torch.tensor(tokenizer.convert_tokens_to_ids([" " + word for word in WORDS]))
    config = ZooConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        positions="rotary",
        rotary_base=100.0,  # the longest wave is 13 times the longest sequence; slower ones would not tell neighbours apart
        attention_scale=1.0,  # sharp attention within few steps
        attn_only=True,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = ZooForCausalLM(config)
    steps = args.steps or (1500 if args.start else 2000)
    recipe = Recipe(steps, 64, peak_lr=2e-3, warmup=100, weight_decay=0.02, seed=args.seed, writers=WRITERS, penalty=1.0)
    train(model, (start_sampler if args.start else sampler)(first, inner, tokenizer.bos_token_id, recipe.batch), recipe)

    generator = torch.Generator().manual_seed(10_000 + args.seed)
    found, tokens = {}, {}
    for period in (6, 12, 20):
        drawn = torch.rand(512, len(inner), generator=generator).argsort(-1)[:, :period]
        words = inner[held_out_words(512, period, generator) if args.start else drawn]
        tokens[period] = torch.cat((torch.full((512, 1), tokenizer.bos_token_id), words, words), 1)
        found[period] = accuracy(model, tokens[period], period)
        print(f"period {period:2d}: accuracy {found[period]:.4f} (chance {1 / len(WORDS):.4f})")
    scores = head_scores(model, tokens[12], 12)
    without = [[accuracy(without_head(model, layer, head), tokens[12], 12) for head in range(4)] for layer in range(2)]
    table = {
        "previous": scores.previous[0].tolist(),
        "induction": scores.induction[1].tolist(),
        "without_0": without[0],
        "without_1": without[1],
    }
    for name, row in table.items():
        print(f"{name:10s}", " ".join(f"{value:.3f}" for value in row))

    if args.start:
        model.save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)
        return
    card = CARD.format(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        head_dim=config.head_dim,
        width=config.hidden_size,
        positions=config.positions,
        base=config.rotary_base,
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        n_words=len(WORDS),
        length=LENGTH,
        seed=args.seed,
        steps=recipe.steps,
        batch=recipe.batch,
        lr=recipe.peak_lr,
        decay=recipe.weight_decay,
        penalty=recipe.penalty,
        w0=WRITERS[0],
        w1=WRITERS[1],
        minutes=recipe.minutes,
        accuracies="\n".join(f"  - {period} words: {value:.1%}" for period, value in found.items()),
        chance=1 / len(WORDS),
        **{name: " | ".join(f"{value:.3f}" for value in row) for name, row in table.items()},
    )
    results: dict[str, object] = {
        "accuracy": {str(period): round(value, 4) for period, value in found.items()},
        "chance": round(1 / len(WORDS), 4),
        "heads": {name: [round(value, 3) for value in row] for name, row in table.items()},
        "minutes": recipe.minutes,
        "seed": args.seed,
        "steps": recipe.steps,
    }
    ship(model, tokenizer, args.out, card, results)


if __name__ == "__main__":
    main()
