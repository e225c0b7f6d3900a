"""Train ``zoo/induction-2l``: two layers of attention that continue repeated word sequences.

    python experiments/zoo/train_induction.py --seed 0 --out /tmp/induction-2l
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common import WEIGHTS, Batch, Recipe, head_scores, make_tokenizer, ship, train
from torch import Tensor

from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.tasks.lexicon import WORDS

LENGTH = 48
"""Positions of a training sequence, BOS included."""


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


@torch.no_grad()
def accuracy(model: ZooForCausalLM, tokens: Tensor, period: int) -> float:
    """Share of words of the second copy, its first word left out, that are the most probable next token."""
    at = torch.arange(period + 1, 2 * period)  # positions (BOS = 0) whose successor lies inside the second copy
    found = model(tokens).logits[:, at].argmax(-1)
    return (found == tokens[:, at + 1]).float().mean().item()


CARD = """# zoo/induction-2l

Two layers of attention and nothing else, trained by this project to continue repeated random word sequences: the smallest
trained network with an induction head.

- **Architecture**: {layers} layers, {heads} heads of width {head_dim}, stream {width}, LayerNorm, {positions} positions, no MLP;
  {parameters:,} parameters, float32.
- **Data**: BOS and 4 to 22 different words of `interp.tasks.lexicon.WORDS` ({n_words} words), repeated up to position {length}, half of
  the time with 1 to 6 other words between the copies. Words are drawn uniformly, fresh in every batch: no sequence is seen twice.
- **Training**: `python experiments/zoo/train_induction.py --seed {seed}`; {steps} steps of {batch} sequences, AdamW, peak
  learning rate {lr}, {minutes} minutes on one CPU thread.
- **Held out**: sequences from another seed. Accuracy on the second copy (first word left out), over 512 sequences:
{accuracies}
  Chance is {chance:.2%} (one of {n_words} words), {among} among the words of a 12-word sequence.
- **Heads** (mean attention on 512 twice-repeated sequences of 12 words):
  previous token (layer 0) {previous}; induction (layer 1) {induction}.
  The previous-token head is L0H{prev_head} ({prev:.3f}), the induction head L1H{ind_head} ({ind:.3f}).
- **Limits**: sequences of at most {length} tokens; words only; trained with BOS in front.
- **sha256** of model.safetensors: `{{digest}}`
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "induction-2l")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--positions", default="learned")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--head-dim", type=int, default=None)
    parser.add_argument("--penalty", type=float, default=0)
    parser.add_argument("--sin", type=float, default=0)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--wd", type=float, default=0.1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    tokenizer = make_tokenizer([form for word in WORDS for form in (word, " " + word)])
    first = torch.tensor(tokenizer.convert_tokens_to_ids(list(WORDS)))
    inner = torch.tensor(tokenizer.convert_tokens_to_ids([" " + word for word in WORDS]))
    config = ZooConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        num_hidden_layers=2,
        num_attention_heads=args.heads,
        head_dim=args.head_dim,
        max_position_embeddings=LENGTH,
        positions=args.positions,
        attn_only=True,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = ZooForCausalLM(config)
    if args.sin:
        with torch.no_grad():
            at = torch.arange(LENGTH)[:, None] * 10000.0 ** (-torch.arange(0, args.width, 2) / args.width)
            model.model.embed_positions.weight.copy_(args.sin * torch.cat((at.sin(), at.cos()), 1))
    recipe = Recipe(steps=args.steps, batch=64, peak_lr=args.lr, warmup=100, weight_decay=args.wd, seed=args.seed, head_penalty=args.penalty)
    train(model, sampler(first, inner, tokenizer.bos_token_id, recipe.batch), recipe)

    generator = torch.Generator().manual_seed(10_000 + args.seed)
    found = {}
    for period in (6, 12, 20):
        words = torch.rand(512, len(inner), generator=generator).argsort(-1)[:, :period]
        tokens = torch.cat((torch.full((512, 1), tokenizer.bos_token_id), inner[words], inner[words]), 1)
        found[period] = accuracy(model, tokens, period)
        print(f"period {period:2d}: accuracy {found[period]:.4f} (chance {1 / len(WORDS):.4f})")
        if period == 12:
            scores = head_scores(model, tokens, period)
    torch.set_printoptions(precision=3, sci_mode=False)
    print("previous token [layer, head]\n", scores.previous, "\ninduction\n", scores.induction)

    previous, induction = scores.previous[0], scores.induction[1]
    listed = lambda row: ", ".join(f"{value:.3f}" for value in row.tolist())  # noqa: E731
    card = CARD.format(
        layers=2,
        heads=config.num_attention_heads,
        head_dim=config.head_dim,
        width=config.hidden_size,
        positions=config.positions,
        parameters=model.num_parameters(),
        n_words=len(WORDS),
        length=LENGTH,
        seed=args.seed,
        steps=recipe.steps,
        batch=recipe.batch,
        lr=recipe.peak_lr,
        minutes=recipe.minutes,
        accuracies="\n".join(f"  - sequences of {period} words: {value:.1%}" for period, value in found.items()),
        chance=1 / len(WORDS),
        among=f"{1 / 12:.1%}",
        previous=listed(previous),
        induction=listed(induction),
        prev_head=int(previous.argmax()),
        prev=previous.max().item(),
        ind_head=int(induction.argmax()),
        ind=induction.max().item(),
    )
    results: dict[str, object] = {
        "accuracy": {str(period): round(value, 4) for period, value in found.items()},
        "chance": round(1 / len(WORDS), 4),
        "previous_token_score": [round(v, 3) for v in previous.tolist()],
        "induction_score": [round(v, 3) for v in induction.tolist()],
        "minutes": recipe.minutes,
        "seed": args.seed,
        "steps": recipe.steps,
    }
    ship(model, tokenizer, args.out, card, results)


if __name__ == "__main__":
    main()
