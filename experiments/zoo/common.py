"""What the zoo's training scripts share: a tokenizer, a training loop, attention scores, a model card.

Run from the repository root after ``pip install -e .``; see README.md beside this file.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp.models.zoo import ZooForCausalLM

WEIGHTS = Path(__file__).parents[2] / "interp" / "models" / "zoo" / "weights"
RESULTS = Path(__file__).parent / "results.json"
PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
#: A word, one or two digits (so that a year is two tokens), or a mark; each takes the space before it along.
PIECES = r" ?[A-Za-z]+| ?[0-9]{1,2}| ?[^\sA-Za-z0-9]|\s"


def pieces(text: str) -> list[str]:
    """How a text is cut before each piece is looked up."""
    return [piece for piece, _ in _splitter().pre_tokenize_str(text)]


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(PIECES), behavior="isolated")


def make_tokenizer(vocabulary: Iterable[str], *, spaces: bool = True) -> PreTrainedTokenizerFast:
    """One token a piece, BOS in front with ``add_special_tokens=True``, padding on the left.

    Args:
        vocabulary: the pieces.
        spaces: pieces take the space before them along; False: pieces are words, the same token with and without a space.
    """
    specials = (PAD, BOS, EOS, UNK)
    ids = {piece: i for i, piece in enumerate((*specials, *sorted(set(vocabulary))))}
    inner = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    inner.pre_tokenizer = _splitter() if spaces else pre_tokenizers.WhitespaceSplit()
    if spaces:
        inner.decoder = decoders.Fuse()  # without a decoder words are joined by spaces
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


@dataclass
class Recipe:
    """How a model is trained; stored in its card."""

    steps: int
    batch: int
    peak_lr: float
    warmup: int
    weight_decay: float
    seed: int
    writers: tuple[int, ...] = ()
    """One head a layer that is to do the writing; none chosen, no penalty on the others."""
    penalty: float = 0.0
    """Weight of what the other heads write, see :func:`_shared_work`."""
    fresh: bool = False
    """Whether each step starts from gradients of zero. False adds them to those of the steps before, cut to norm 1 each time:
    so ``induction-2l`` and ``language-4l`` were trained, and so their scripts repeat them."""
    minutes: float = 0.0
    """Wall time, filled in by :func:`train`."""


class Batch(NamedTuple):
    """Rows of one length."""

    tokens: Tensor
    """``[example, position]``."""
    target: Tensor
    """What each position should predict next, -100 for nothing."""
    weight: Tensor
    """How much that counts."""


def train(
    model: ZooForCausalLM,
    sample: Callable[[torch.Generator], list[Batch]],
    recipe: Recipe,
    every: int = 100,
    reached: Callable[[int], None] | None = None,
) -> None:
    """AdamW with linear warm-up and cosine decay, in place; the loss is the weighted mean over the batches of one step.

    Args:
        sample: draws the batches of one step.
        reached: called with the number of steps made, before the first one (0) and after each.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, 0.98))
    model.train()
    began = time.perf_counter()
    if reached is not None:
        reached(0)
    for step in range(recipe.steps):
        warm = min(1.0, (step + 1) / recipe.warmup)
        rate = recipe.peak_lr * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batches = sample(generator)
        parts, weights = [_loss(model, b) for b in batches], [((b.target >= 0) * b.weight).sum() for b in batches]
        loss = sum(parts) / sum(weights)
        if recipe.writers:
            loss = loss + recipe.penalty * _shared_work(model, recipe.writers)
        if recipe.fresh:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if reached is not None:
            reached(step + 1)
        if (step + 1) % every == 0 or step == 0:
            each = " ".join(f"{(part / weight).item():.3f}" for part, weight in zip(parts, weights, strict=True))
            print(f"step {step + 1:5d}  loss {each}  {time.perf_counter() - began:6.0f} s", flush=True)
    recipe.minutes = round((time.perf_counter() - began) / 60, 1)
    model.eval()


def _loss(model: ZooForCausalLM, batch: Batch) -> Tensor:
    """Weighted sum of cross-entropies; the logits of untrained positions are never computed."""
    trained = batch.target >= 0
    hidden = model.model(batch.tokens, use_cache=False).last_hidden_state[trained]
    each = torch.nn.functional.cross_entropy(model.lm_head(hidden), batch.target[trained], reduction="none")
    return (each * batch.weight[trained]).sum()


def _shared_work(model: ZooForCausalLM, writers: Sequence[int]) -> Tensor:
    """Sum over layers of the share of the layer's writing that is not the chosen head's.

    A head's share is ‖W_O‖ ‖W_V‖ (Frobenius) over its layer's sum; a ratio, because a penalty on the norms themselves is evaded
    by the scale that LayerNorm leaves free. The head is chosen beforehand, because heads that do the same in equal shares are a
    stationary point of every symmetric penalty.
    """
    others = torch.zeros(())
    for block, writer in zip(model.model.layers, writers, strict=True):
        written = block.self_attn.o_proj.weight.unflatten(1, (-1, model.config.head_dim)).pow(2).sum((0, 2))
        read = block.self_attn.v_proj.weight.unflatten(0, (-1, model.config.head_dim)).pow(2).sum((1, 2))
        size = (written * read + 1e-12).sqrt()
        others = others + 1 - size[writer] / size.sum()
    return others


class HeadScores(NamedTuple):
    """Mean attention ``[layer, head]`` on repeated random sequences."""

    previous: Tensor
    """From a token to the token before it (BOS and the first token left out)."""
    induction: Tensor
    """From a token of the second copy to the token after its first occurrence."""


@torch.no_grad()
def head_scores(model: ZooForCausalLM, tokens: Tensor, period: int, start: int = 1) -> HeadScores:
    """Scores of every head on ``tokens`` = ``start`` leading tokens, then a sequence of ``period`` tokens twice."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    patterns = torch.stack(
        model(tokens, output_attentions=True).attentions
    )  # [layer, example, head, position, source_position]
    model.set_attn_implementation(before)
    at = torch.arange(start + 1, tokens.shape[1])
    again = torch.arange(start + period, tokens.shape[1])
    return HeadScores(patterns[..., at, at - 1].mean((1, 3)), patterns[..., again, again - period + 1].mean((1, 3)))


def held_out(*parts: str, share: float = 0.2) -> bool:
    """Whether a combination of fillers is kept from training: a hash decides, the same one for ever."""
    first = hashlib.sha256("\x1f".join(parts).encode()).digest()[:8]
    return int.from_bytes(first, "big") < share * 2**64


def allowed(kind: str, first: Sequence[str], second: Sequence[str], ordered: bool = True) -> Tensor:
    """``[first, second]``: which pairs of fillers training may use; never a filler with itself."""
    pairs = [[(a, b) if ordered else sorted((a, b)) for b in second] for a in first]
    return torch.tensor([[a != b and not held_out(kind, a, b) for a, b in line] for line in pairs])


def pick(may: Tensor, generator: torch.Generator) -> Tensor:
    """One index a row, uniform among those where ``may [example, item]`` is true."""
    return torch.multinomial(may.float(), 1, generator=generator)[:, 0]


class Lists(NamedTuple):
    """Repeated word lists, before they are spelled."""

    words: Tensor
    """Indices of words, ``[example, position]``."""
    known: Tensor
    """``[example, position]``: whether the context determines the word at this position and it may be trained."""


def repeated_lists(n: int, length: int, may_follow: Tensor, generator: torch.Generator) -> Lists:
    """0 to 4 different words, then a body of others in copy after copy, up to ``length``; no word follows one that it may not.

    In half of the calls the body is one chunk, short more often than long, and there is one exact copy. In the others it
    consists of chunks of 2 to 5 words that every copy puts in a new order: only the word directly before tells what comes, and
    neither a fixed distance nor a rough place will do. The context determines the words inside the chunks of later copies, and
    all words of the exact copy. (Short bodies matter: without them networks appeared whose first head looks four tokens back
    and whose second looks four tokens past the match, where the first one has collected the word that follows.)
    (Where chunks or copies meet, a word may follow one that it may not; that is never trained.)
    """

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    lead, exact = draw(0, 5), draw(0, 2) == 0
    size = draw(2, draw(3, length // 2 - 1)) if exact else draw(2, 6)
    chunks = 1 if exact else draw(2, length // 2 // size + 1)
    drawn = [torch.randint(len(may_follow), (n,), generator=generator)]
    unused = torch.ones(n, len(may_follow), dtype=torch.bool)
    for _ in range(lead + size * chunks - 1):
        unused[torch.arange(n), drawn[-1]] = False
        drawn.append(pick(unused & may_follow[drawn[-1]], generator))
    words = torch.stack(drawn, 1)
    body, copies = words[:, lead:].view(n, chunks, size), [words]
    for _ in range(length // (size * chunks)):
        order = torch.rand(n, chunks, generator=generator).argsort(-1)
        copies.append(body.gather(1, order[..., None].expand_as(body)).flatten(1))
    words = torch.cat(copies, 1)[:, : lead + 2 * size if exact else length]
    at = torch.arange(words.shape[1]) - lead
    determined = (at >= size * chunks) & ((at % size > 0) | exact)
    may = torch.cat((torch.zeros(n, 1, dtype=torch.bool), may_follow[words[:, :-1], words[:, 1:]]), 1)
    return Lists(words, determined & may)


def ship(model: ZooForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, card: str, results: dict[str, object]) -> None:
    """Write a folder that loads like any other model, with its card; ``{digest}`` in the card becomes the weights' sha256."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)  # it says nothing that config.json does not
    (out / "model.safetensors").chmod(0o644)  # written for the owner only
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    (out / "README.md").write_text(card.replace("{digest}", digest), encoding="utf-8")
    if out.parent == WEIGHTS:
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[out.name] = {**results, "sha256": digest}
        RESULTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    size = sum(f.stat().st_size for f in out.iterdir()) / 2**20
    print(f"wrote {out.name}: {size:.2f} MiB, sha256 {digest}")
