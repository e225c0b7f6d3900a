"""How well a model solves the three tasks, on the task generators' own pairs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from common import held_out
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp import tasks
from interp.models.zoo import ZooForCausalLM
from interp.prompts import Pair, Prompt
from interp.tasks import lexicon


def unseen(task: str, pair: Pair) -> bool:
    """Whether training never saw this pair's fillers together."""
    if task == "ioi":
        words = str(pair.clean.text).replace(",", " ").replace(".", " ").split()
        place, thing = (next(w for w in words if w in known) for known in (lexicon.PLACES, lexicon.OBJECTS))
        return held_out(task, *sorted(pair.entities[:2])) and held_out(task, place, thing)
    if task == "greater_than":
        return held_out(task, *pair.entities)
    a, b, c, d = pair.entities
    return held_out(task, a, b) and held_out(task, c, d)


def held_out_pairs(task: str, n: int, seed: int, **arguments: object) -> list[Pair]:
    """``n`` pairs whose fillers training never saw together: the names, place with object; noun with year; A B, C D."""
    found: list[Pair] = []
    more = 30 * n
    while len(found) < n:
        found = [pair for pair in tasks.make(task, more, seed=seed, **arguments) if unseen(task, pair)]
        more *= 2
    return found[:n]


@torch.no_grad()
def last_logits(
    model: ZooForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Iterable[Prompt], bos: bool = True
) -> Tensor:
    """``[example, vocab]`` after each prompt, padded on the left."""
    inputs = tokenizer([str(p.text) for p in prompts], return_tensors="pt", padding=True, add_special_tokens=bos)
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    parts = zip(inputs["input_ids"].split(256), inputs["attention_mask"].split(256), positions.split(256), strict=True)
    return torch.cat([model(i, attention_mask=m, position_ids=p, logits_to_keep=1).logits[:, -1] for i, m, p in parts])


def score_all(model: ZooForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int = 500, seed: int = 12_345) -> dict[str, float]:
    """Held-out scores by name; see the card for what each is and its chance."""
    ids = tokenizer.convert_tokens_to_ids
    found: dict[str, float] = {}

    pairs = held_out_pairs("ioi", n, seed)
    right = torch.tensor([ids(pair.answers[0]) for pair in pairs])
    wrong = torch.tensor([ids(pair.wrong[0]) for pair in pairs])
    clean, swapped = (last_logits(model, tokenizer, side) for side in ([p.clean for p in pairs], [p.corrupted for p in pairs]))
    found["ioi accuracy"] = (clean.argmax(-1) == right).float().mean().item()
    found["ioi accuracy, swapped"] = (swapped.argmax(-1) == wrong).float().mean().item()
    rows = torch.arange(n)
    found["ioi logit difference"] = (clean[rows, right] - clean[rows, wrong]).mean().item()
    for kind in ("ABBA", "BABA"):
        of = torch.tensor([pair.template.endswith(kind) for pair in pairs])
        found[f"ioi accuracy, {kind}"] = (clean.argmax(-1) == right)[of].float().mean().item()
    found["ioi worst template"] = min(
        (clean.argmax(-1) == right)[torch.tensor([p.template == t for p in pairs])].float().mean().item()
        for t in {p.template for p in pairs}
    )
    found["ioi accuracy, no BOS"] = (
        (last_logits(model, tokenizer, [p.clean for p in pairs], bos=False).argmax(-1) == right).float().mean().item()
    )
    abc = held_out_pairs("ioi", n, seed, corruption="abc")
    named = torch.tensor([[ids(" " + name) for name in pair.entities[2:]] for pair in abc])
    share = last_logits(model, tokenizer, [p.corrupted for p in abc]).softmax(-1).gather(1, named).mean(0).tolist()
    found["abc probability, place IO"], found["abc probability, place S1"], found["abc probability, giver"] = share

    pairs = held_out_pairs("greater_than", n, seed)
    probabilities = last_logits(model, tokenizer, [p.clean for p in pairs]).softmax(-1)
    later = torch.zeros(probabilities.shape, dtype=torch.bool)
    for row, pair in enumerate(pairs):
        later[row, ids(list(pair.answers))] = True
    found["greater_than mass on later years"] = (probabilities * later).sum(-1).mean().item()
    found["greater_than accuracy"] = later[rows, probabilities.argmax(-1)].float().mean().item()
    digits = probabilities[:, ids([f"{yy:02}" for yy in range(100)])].sum(-1)
    found["greater_than probability difference"] = (2 * (probabilities * later).sum(-1) - digits).mean().item()

    for length in (8, 12, 20):
        pairs = held_out_pairs("induction", n, seed, length=length)
        right = torch.tensor([ids(pair.answers[0]) for pair in pairs])
        logits = last_logits(model, tokenizer, [p.clean for p in pairs])
        found[f"induction accuracy, {length} words"] = (logits.argmax(-1) == right).float().mean().item()
    return {name: round(value, 4) for name, value in found.items()}
