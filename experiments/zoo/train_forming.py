"""Train ``zoo/induction-forming``: three seeds of a small attention-only network, twenty checkpoints each, around the steps
in which induction forms.

    python experiments/zoo/train_forming.py
    python experiments/zoo/train_forming.py --seeds 7 --out /tmp/forming

The data are those of ``induction-2l`` with fewer words, so that the network stays small. Checkpoints are stored in half
precision and load as float32; what is measured, and what the card says, are the stored ones.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from common import RESULTS, WEIGHTS, Recipe, head_scores, make_tokenizer, train
from torch import Tensor
from train_induction import LENGTH, sampler
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.tasks.lexicon import WORDS

VOCABULARY = WORDS[:60]
SEEDS = (0, 1, 2)
#: Far apart at first, close where the loss falls.
STEPS = (0, 20, 50, 100, 150, 200, 240, 260, 280, 300, 320, 340, 360, 380, 400, 440, 500, 600, 800, 1000)
PERIOD, SEQUENCES = 12, 512


def save(model: ZooForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A folder that loads like any other: half the size, float32 once it is loaded."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)  # it says nothing that config.json does not
    (folder / "model.safetensors").chmod(0o644)  # written for the owner only


def held_out(words: Tensor, bos: int) -> Tensor:
    """BOS and the same 12 words twice, ``[example, position]``; there are so many that none was seen in training."""
    generator = torch.Generator().manual_seed(20_000)
    drawn = words[torch.rand(SEQUENCES, len(words), generator=generator).argsort(-1)[:, :PERIOD]]
    return torch.cat((torch.full((SEQUENCES, 1), bos), drawn, drawn), 1)


@torch.no_grad()
def measured(folder: Path, tokens: Tensor) -> dict[str, float | list[float]]:
    """Loss (nats) and accuracy inside the second copy, and what every head attends to, of a stored checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    at = slice(PERIOD + 1, 2 * PERIOD)  # positions (BOS = 0) whose successor lies inside the second copy
    logits, right = model(tokens).logits[:, at].flatten(0, 1), tokens[:, PERIOD + 2 :].flatten()
    scores = head_scores(model, tokens, PERIOD)
    return {
        "loss": torch.nn.functional.cross_entropy(logits, right).item(),
        "accuracy": (logits.argmax(-1) == right).float().mean().item(),
        "previous": scores.previous[0].tolist(),
        "induction": scores.induction[1].tolist(),
    }


CARD = """# zoo/induction-forming

Two layers of attention and nothing else, stored {n_steps} times while it learnt to continue repeated word sequences, from
{n_seeds} seeds: `interp.models.zoo.checkpoints("induction-forming")` lists the checkpoints, and
`interp.load("zoo/induction-forming/seed0/step0400")` loads one like any other folder.

- **Architecture**: {layers} layers, {heads} heads of width {head_dim}, stream {width}, LayerNorm, {positions}
  positions (base {base:g}), no MLP; {parameters:,} parameters; vocabulary of {vocabulary} tokens: {n_words} words, the
  same token with and without a space before them, and four special ones.
- **Stored** in float16; `config.json` says float32, and so they load. All that is measured here is of the stored weights.
- **Data**: those of `induction-2l` with the first {n_words} words of `interp.tasks.lexicon.WORDS`: BOS, 0 to 4 unrelated words,
  then 4 to 24 different ones, copy after copy up to {length} positions. In a third of the batches the copies are exact, in the
  others every copy puts chunks of 2 to 5 words in a new order. Trained are the words that the context determines.
- **Training**: `python experiments/zoo/train_forming.py`; {steps} steps of {batch} sequences, AdamW, peak learning rate
  {lr} after {warmup} steps, cosine decay, weight decay {decay}; half a minute a seed on one CPU thread. A seed
  chooses the first weights and the sequences. No head was chosen beforehand: seeds differ in which heads do the work.
- **Held out**: {sequences} sequences of another seed: BOS and twice the same {period} different words.
- **Chance**: accuracy {chance:.1%}, one of {n_words} words; loss {uniform:.2f} nats, uniform over them; an induction score of
  about 0.05, one of the 13 to 25 tokens that are seen. A loss of
  2.48 would be a guess among the {period} words of the sequence.
- **Limits**: trained on at most {length} tokens; list words only; always with BOS in front. Three seeds show that the change
  comes, hardly how much its time varies. Float16 rounds weights by up to 0.05%.

Loss (nats) and accuracy inside the second copy; **induction**: mean attention, from a token of the second copy to the token
after its first occurrence, of the best head of layer 1; **previous**: mean attention to the token before, of the best head of
layer 0.

{tables}

sha256 of all `model.safetensors`, one after the other in the order of the tables: `{digest}`
"""


def table(seed: int, rows: Sequence[dict[str, float | list[float]]]) -> str:
    def best(scores: float | list[float], layer: int) -> str:
        assert isinstance(scores, list)
        head = max(range(len(scores)), key=scores.__getitem__)
        return f"{scores[head]:.3f} (L{layer}H{head})"

    lines = [f"**Seed {seed}**", "", "| step | loss | accuracy | induction | previous |", "|---|---|---|---|---|"]
    for step, row in zip(STEPS, rows, strict=True):
        heads = f"{best(row['induction'], 1)} | {best(row['previous'], 0)}"
        lines.append(f"| {step} | {row['loss']:.3f} | {row['accuracy']:.1%} | {heads} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=WEIGHTS / "induction-forming")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = make_tokenizer(VOCABULARY, spaces=False)
    words = torch.tensor(tokenizer.convert_tokens_to_ids(list(VOCABULARY)))
    config = ZooConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        positions="rotary",
        rotary_base=100.0,  # as in induction-2l
        attn_only=True,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    found: dict[int, list[dict[str, float | list[float]]]] = {}
    folders: list[Path] = []
    tokens = held_out(words, tokenizer.bos_token_id)
    for seed in args.seeds:
        torch.manual_seed(seed)
        model = ZooForCausalLM(config)
        recipe = Recipe(STEPS[-1], 64, peak_lr=4e-3, warmup=100, weight_decay=0.02, seed=seed, fresh=True)
        at = {step: args.out / f"seed{seed}" / f"step{step:04d}" for step in STEPS}

        def reached(step: int, model: ZooForCausalLM = model, at: dict[int, Path] = at) -> None:
            if step in at:
                save(model, tokenizer, at[step])

        train(model, sampler(words, words, tokenizer.bos_token_id, recipe.batch), recipe, reached=reached)
        found[seed] = [measured(folder, tokens) for folder in at.values()]
        folders += at.values()
        print(table(seed, found[seed]))

    card = CARD.format(
        n_steps=len(STEPS),
        n_seeds=len(found),
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        head_dim=config.head_dim,
        width=config.hidden_size,
        positions=config.positions,
        base=config.rotary_base,
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        n_words=len(VOCABULARY),
        length=LENGTH,
        steps=recipe.steps,
        batch=recipe.batch,
        lr=recipe.peak_lr,
        warmup=recipe.warmup,
        decay=recipe.weight_decay,
        sequences=SEQUENCES,
        period=PERIOD,
        chance=1 / len(VOCABULARY),
        uniform=torch.tensor(float(len(VOCABULARY))).log().item(),
        tables="\n\n".join(table(seed, rows) for seed, rows in found.items()),
        digest=hashlib.sha256(b"".join((folder / "model.safetensors").read_bytes() for folder in folders)).hexdigest(),
    )
    (args.out / "README.md").write_text(card, encoding="utf-8")
    if args.out.parent == WEIGHTS:
        known = json.loads(RESULTS.read_text())
        known[args.out.name] = {
            "steps": list(STEPS),
            **{f"seed{s}": {key: [_rounded(row[key]) for row in rows] for key in rows[0]} for s, rows in found.items()},
        }
        RESULTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file()) / 2**20
    print(f"wrote {args.out.name}: {len(folders)} checkpoints, {size:.2f} MiB")


def _rounded(value: float | list[float]) -> float | list[float]:
    return [round(v, 3) for v in value] if isinstance(value, list) else round(value, 4)


if __name__ == "__main__":
    main()
