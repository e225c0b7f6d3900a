"""Networks whose circuit is known edge by edge, each with every prompt that it reads and what it says to it.

    >>> known = KNOWN["reverse"]()
    >>> known
    reverse: 11 of 94 edges, 102 pairs
    >>> model = interp.load(known.net, tokenizer=known.tokenizer, name=known.name)             # doctest: +SKIP
    >>> zero = interp.Constant(0.0)                                                           # doctest: +SKIP
    >>> found = interp.patch_edges(model, known.pairs, "l2", graph=known.truth.graph, source=zero)   # doctest: +SKIP

The truth is what the weights have, and holds where an edge that is left out carries 0: every other edge carries coordinates
that its reader does not read. Of another prompt an edge may carry the same, as what positions and constants add always is.

``proportion`` and ``reverse`` have the edges of the two programs in Conmy et al. (arXiv 2304.14997, appendix). Theirs attend in
both directions; here what comes later is not seen, so a sequence is reversed behind its end, one letter a question mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TypeAlias

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp.circuits import Circuit, Graph
from interp.models.zoo.backup import BACKUP, PRIMARY, backup_construction, backup_prompts
from interp.models.zoo.compiled import Compiler, Variable
from interp.models.zoo.handmade import induction_construction, induction_sequences
from interp.models.zoo.modeling import ZooForCausalLM
from interp.prompts import Pair, Pairs

BOS = "BOS"
Ids: TypeAlias = tuple[int, ...]
Said: TypeAlias = Mapping[str, float]
"""Logits by token; 0 of the others."""


@dataclass(frozen=True, eq=False, repr=False)
class KnownCircuit:
    """A network and its circuit."""

    name: str
    net: ZooForCausalLM
    """In float64; :func:`interp.load` takes it."""
    vocabulary: tuple[str, ...]
    pairs: Pairs
    """Prompts as token ids, each with another one of as many tokens."""
    expected: Float[Tensor, "example vocab"]
    """Logits of every clean prompt, by the program and not by the network."""
    truth: Circuit
    """On a graph with a split embedding."""

    def __repr__(self) -> str:
        return f"{self.truth!r}, {len(self.pairs)} pairs"

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One word a token, split at spaces, no special tokens."""
        inner = Tokenizer(tokenizer_models.WordLevel({word: i for i, word in enumerate(self.vocabulary)}))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)

    def rotated(self, seed: int) -> KnownCircuit:
        """The same with the stream in a random basis, in which no coordinate is a variable's; nothing else changes."""
        draw = torch.randn(self.net.config.hidden_size, self.net.config.hidden_size, dtype=torch.float64,
                           generator=torch.Generator().manual_seed(seed))  # fmt: skip
        q, r = torch.linalg.qr(draw)
        turn = q * r.diagonal().sign()
        net = deepcopy(self.net)
        turned = {
            name: turn.T @ weight if name.endswith(("o_proj.weight", "down_proj.weight")) else weight @ turn
            for name, weight in self.net.state_dict().items()
        }
        net.load_state_dict(turned)
        return replace(self, net=net)


def proportion(letters: Sequence[str] = ("x", "a", "b"), length: int = 4) -> KnownCircuit:
    """The share of the first letter among those in front of the last one, as the letter's logit; 0 where there are none.

    m0 tells whether a token is the letter, L1H0 takes the mean over earlier positions, of which BOS is none unless there is no
    other.
    """
    program = Compiler((BOS, *letters), length + 1)
    found = program.map("is it", program.token, lambda token: 1.0 if token == letters[0] else None, ())
    position = program.position
    share = program.aggregate(
        "share", found, query=position, key=position, where=lambda here, there: 0 < there < here, bos="default"
    )

    def says(words: Sequence[str]) -> Said:
        before = words[1:-1]
        return {letters[0]: before.count(letters[0]) / max(1, len(before))}

    return _compiled("proportion", program, share, _sequences(letters, length), says, letters[0])


def reverse(letters: Sequence[str] = ("a", "b", "c"), length: int = 3) -> KnownCircuit:
    """Letters and question marks: behind n letters, the j-th question mark is answered by the letter at n + 1 − j.

    L0H0 takes the shares of BOS and of letters among all that is seen, m0 makes the number of letters of their ratio, m1
    takes the position from twice of it, m2 adds one, and L3H0 attends to that position.
    """
    program = Compiler((BOS, *letters, "?"), 2 * length + 1)

    def kind(token: str) -> str | None:
        return "letter" if token in letters else BOS if token == BOS else None

    lengths = range(1, length + 1)
    shares = program.aggregate("shares", program.token, kind, (BOS, "letter"))
    forms = [[(1.0, shares, "letter"), (0.5 - least, shares, BOS)] for least in lengths]
    many = program.levels("length", forms, lengths, margin=0.5 / (2 * length + 1))
    less = program.map(
        "2 length − position",
        (many, program.position),
        lambda n, at: 2 * n - at if n < at <= 2 * n else None,
        range(length),
    )
    target = program.map("target", less, lambda number: number + 1, lengths)
    answer = program.aggregate(
        "answer", program.token, query=target, key=program.position, where=lambda target, at: target == at
    )
    prompts = [
        (BOS, *word, *marks * ["?"]) for n in lengths for word in product(letters, repeat=n) for marks in range(1, n + 1)
    ]

    def says(words: Sequence[str]) -> Said:
        return {words[len(words) - 2 * words.count("?")]: 1.0}

    return _compiled("reverse", program, answer, prompts, says)


def induction(letters: Sequence[str] = ("a", "b", "c"), length: int = 4) -> KnownCircuit:
    """What followed the last letter where it was seen before, the mean if several did: a head that copies the previous token,
    and one that looks up by it.
    """
    program = Compiler((BOS, *letters), length + 1)
    before = program.aggregate(
        "before", program.token, query=program.position, key=program.position, where=lambda here, there: there == here - 1
    )
    following = program.aggregate(
        "following", program.token, query=program.token, key=before, where=lambda own, earlier: own == earlier
    )
    prompts = [words for words in _sequences(letters, length) if words[-1] in words[:-1]]

    def says(words: Sequence[str]) -> Said:
        behind = [after for first, after in pairwise(words) if first == words[-1]]
        return {word: behind.count(word) / len(behind) for word in behind}

    return _compiled("induction", program, following, prompts, says)


def histogram(letters: Sequence[str] = ("a", "b", "c"), length: int = 4) -> KnownCircuit:
    """How often the last letter was seen, itself with it: of n equal letters and BOS a head gives BOS 1 / (n + 1)."""
    counts = range(1, length + 1)
    program = Compiler((BOS, *letters, *map(str, counts)), length + 1)
    share = program.aggregate(
        "share of BOS",
        program.token,
        lambda token: 1.0 if token == BOS else None,
        (),
        query=program.token,
        key=program.token,
        where=lambda own, other: own == other != BOS,
        bos="selected",
    )
    forms = [[(1 / (least + 0.5), program.one, None), (-1.0, share, None)] for least in counts]
    count = program.levels("count", forms, counts, margin=0.5 / (length + 0.5) / (length + 1))
    return _compiled("histogram", program, count, _sequences(letters, length), lambda words: {str(words.count(words[-1])): 1.0})


def or_gate() -> KnownCircuit:
    """Whether one of two sources is on, or both: of two heads each one is enough, and the MLP has seen enough with one."""
    return _gate("or", needed=1)


def and_gate() -> KnownCircuit:
    """Whether both of two sources are on: neither of two heads is enough."""
    return _gate("and", needed=2)


def _gate(name: str, needed: int) -> KnownCircuit:
    """Two heads that each look at a source, and an MLP that asks for so many that are on."""
    program = Compiler((BOS, "on", "off", "END", "yes"), 4)
    heard = [
        program.aggregate(
            f"source {number}",
            program.token,
            lambda token: 1.0 if token == "on" else None,
            (),
            query=program.position,
            key=program.position,
            where=lambda here, there, number=number: (here, there) == (3, number),  # type: ignore[misc]
        )
        for number in (1, 2)
    ]
    terms = [(1.0, one, None) for one in heard]
    beyond = [(1.0 - needed, program.one, None)] if needed > 1 else []
    said = program.levels(name, [[*terms, *beyond]], ("yes",), margin=1.0)
    prompts = [(BOS, *sources, "END") for sources in product(("on", "off"), repeat=2)]
    return _compiled(name, program, said, prompts, lambda words: {"yes": float(words.count("on") >= needed)})


def backup() -> KnownCircuit:
    """The head with a backup (:func:`interp.models.zoo.backup_construction`), which speaks where the first did not.

    Of the backup's edges those that keep it silent have an effect alone, and those by which it would speak have none.
    """
    net = backup_construction().double()
    prompts = backup_prompts(net)
    (first, second), subjects = (f"L{layer}H{head}" for layer, head in (PRIMARY, BACKUP)), prompts[:, 1].tolist()
    edges = [f"{sender} → {head}.{slot}" for head in (first, second) for sender, slot in zip(_BY_POSITION, "qkv", strict=True)]
    edges += [f"{first} → {second}.q", f"{first} → logits", f"{second} → logits"]
    vocabulary = (*(f"name{i}" for i in subjects), BOS, "END")
    expected = torch.eye(len(vocabulary), dtype=torch.float64)[subjects]
    pairs = _pairs("backup", prompts.tolist(), expected)
    return KnownCircuit("backup", net, vocabulary, pairs, expected, _truth("backup", net, edges))


def chain(n: int = 64, seed: int = 0) -> KnownCircuit:
    """The in-context Markov chain of :func:`interp.models.zoo.induction_construction`, on drawn sequences whose last token
    was seen before.

    The first and the last position are read by the keys of the second layer too, which keeps them from being looked up.
    """
    net = induction_construction().double()
    drawn = [tuple(row) for row in induction_sequences(4 * n, seed).tolist() if row[-1] in row[:-2]][:n]
    copy, look = "L0H1", "L1H0"
    edges = [f"{sender} → {copy}.{slot}" for sender, slot in zip(_BY_POSITION, "qkv", strict=True)]
    edges += [f"embed → {look}.q", f"{copy} → {look}.k", f"pos_embed → {look}.k", f"embed → {look}.v", f"{look} → logits"]
    expected = torch.zeros(len(drawn), net.config.vocab_size, dtype=torch.float64)
    for row, ids in zip(expected, drawn, strict=True):
        behind = [after for before, after in pairwise(ids[:-1]) if before == ids[-1]]
        for one in behind:
            row[one] += 1 / len(behind)
    vocabulary = tuple("abcdefghijklmnopqrstuvwxyz"[: net.config.vocab_size])
    return KnownCircuit("chain", net, vocabulary, _pairs("chain", drawn, expected), expected, _truth("chain", net, edges))


_BY_POSITION = ("pos_embed", "pos_embed", "embed")
"""What queries, keys and values read of a head that looks at a place."""


def _compiled(
    name: str,
    program: Compiler,
    said: Variable,
    prompts: Sequence[Sequence[str]],
    says: Callable[[Sequence[str]], Said],
    token: str = "",
) -> KnownCircuit:
    """What a program says to prompts."""
    net, ids = program.net(said, token), {word: i for i, word in enumerate(program.vocabulary)}
    expected = torch.zeros(len(prompts), len(ids), dtype=torch.float64)
    for row, words in zip(expected, prompts, strict=True):
        for word, logit in says(words).items():
            row[ids[word]] = logit
    pairs = _pairs(name, [tuple(ids[word] for word in words) for words in prompts], expected)
    return KnownCircuit(name, net, program.vocabulary, pairs, expected, _truth(name, net, program.edges(said)))


def _truth(name: str, net: ZooForCausalLM, edges: Sequence[str]) -> Circuit:
    config = net.config
    graph = Graph.like(config.num_hidden_layers, config.num_attention_heads, mlp=not config.attn_only, split_embed=True)
    return Circuit.of(graph, edges, name)


def _pairs(name: str, prompts: Sequence[Sequence[int]], expected: Tensor) -> Pairs:
    """Every prompt, each with the next one of its length.

    The answer is the token of highest logit, if that is above 0, and the wrong one that of the other prompt, if it is another.
    """
    alike: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        alike.setdefault(len(prompt), []).append(number)
    best = [(int(row.argmax()),) if float(row.max()) > 0 else () for row in expected]
    found = []
    for number, prompt in enumerate(prompts):
        same = alike[len(prompt)]
        other = same[(same.index(number) + 1) % len(same)]
        wrong = () if best[number] == best[other] else best[other]
        found.append(Pair(tuple(prompt), tuple(prompts[other]), best[number], wrong))
    return Pairs(tuple(found), name)


def _sequences(letters: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """BOS and every sequence of up to so many letters."""
    return [(BOS, *word) for n in range(1, length + 1) for word in product(letters, repeat=n)]


KNOWN: Mapping[str, Callable[[], KnownCircuit]] = {
    "proportion": proportion,
    "reverse": reverse,
    "induction": induction,
    "histogram": histogram,
    "or": or_gate,
    "and": and_gate,
    "backup": backup,
    "chain": chain,
}
"""Networks by name; most take arguments of their own."""
