"""Programs written into the weights of a network, so that every edge that its circuit has is known.

    >>> program = Compiler(("BOS", "a", "b"), length=6)
    >>> before = program.aggregate("before", program.token, query=program.position, key=program.position,
    ...                            where=lambda here, there: there == here - 1)
    >>> program.edges(before)
    ['pos_embed → L0H0.q', 'pos_embed → L0H0.k', 'embed → L0H0.v', 'L0H0 → logits']
    >>> net = program.net(before)
    >>> net(torch.tensor([[0, 2, 1]])).logits[0].round().int().tolist()
    [[1, 0, 0], [1, 0, 0], [0, 0, 1]]

Every variable has coordinates of the stream of its own, one a value, or one in all if it is a number. Heads select and average,
MLPs look up; each is in the first layer in which what it reads is there. An edge is part of the circuit where the reader's
weights meet coordinates that the writer writes; anything else is 0 in the weights. There are no norms and no biases: the
constant that a threshold needs is written by every token, as is the attention that the first token gets by default.

After Lindner et al., "Tracr: Compiled Transformers as a Laboratory for Interpretability" (arXiv 2301.05062), with causal
attention.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from interp.models.zoo.handmade import Head
from interp.models.zoo.modeling import ZooConfig, ZooForCausalLM

EMBED, POS_EMBED = "embed", "pos_embed"
_PROBED = 16
"""Positions that a network has at least: one that is loaded is tried on more tokens than some programs read."""


@dataclass(frozen=True)
class Variable:
    """Coordinates of the stream that hold one value of several, one-hot, or a number."""

    name: str
    values: tuple[Hashable, ...]
    """() of a number."""
    writer: str
    """The node that writes it."""
    start: int
    ready: int
    """When it is there: 2·l for the heads of layer l, 2·l + 1 for its MLP."""

    def __len__(self) -> int:
        """How many coordinates."""
        return max(1, len(self.values))

    def at(self, value: Any = None) -> int:
        """The coordinate of a value, or of the number."""
        return self.start + (self.values.index(value) if self.values else 0)


Term = tuple[float, Variable, Any]
"""A factor, and a variable at a value."""


class Compiler:
    """Builds a network step by step; the first token of the vocabulary stands at the front of every prompt.

    Args:
        vocabulary: what tokens are called.
        length: of the longest prompt.
        beta: sharpness of attention: what is selected gets all but exp(−beta / 2) of it.
    """

    def __init__(self, vocabulary: Sequence[str], length: int, beta: float = 100.0) -> None:
        self.vocabulary, self.length, self.beta = tuple(vocabulary), length, beta
        self._width, self._layers, self._head_dim = 0, 0, 1
        self._heads: dict[int, int] = defaultdict(int)
        self._units: dict[int, int] = defaultdict(int)
        self._entries: list[tuple[str, int, int, int, int, float]] = []
        """Weights by matrix, layer, head, row and column, of the MLP's with 0 for the head."""
        self._read: dict[str, None] = {}
        self.token = self._new("token", self.vocabulary, EMBED, 0)
        self.position = self._new("position", range(length), POS_EMBED, 0)
        self.one = self._new("one", (), EMBED, 0)
        """1 at every token."""

    # steps

    def aggregate(
        self,
        name: str,
        value: Variable,
        function: Callable[[Any], Any] = lambda value: value,
        values: Sequence[Hashable] | None = None,
        *,
        query: Variable | None = None,
        key: Variable | None = None,
        where: Callable[[Any, Any], bool] = lambda query, key: True,
        bos: Literal["default", "selected"] | None = None,
    ) -> Variable:
        """The mean over what a head selects of a function of a variable.

        Args:
            function: of the value; None leaves it out of the mean, as 0. Numbers are taken as they are.
            values: of the function; by default the variable's own; () if they are numbers.
            query, key: what selects; without them all positions up to the own one are selected.
            where: whether a query selects a key.
            bos: ``"default"``, the first token is attended to where nothing is selected; ``"selected"``, always.
        """
        layer = -(-max(v.ready for v in (value, query, key) if v is not None) // 2)
        head = self._heads[layer]
        self._heads[layer] += 1
        made = self._new(name, value.values if values is None else values, f"L{layer}H{head}", 2 * layer + 1)

        self._head_dim = max(self._head_dim, len(made), 0 if key is None else len(key) + 1)

        def entry(matrix: str, row: int, column: int, weight: float) -> None:
            self._entries.append((matrix, layer, head, row, column, weight))

        if query is not None and key is not None:
            for row, theirs in enumerate(key.values):
                entry("k", row, key.at(theirs), 1.0)
                for own in query.values:
                    if where(own, theirs):
                        entry("q", row, query.at(own), self.beta)
            self._reads(f"{made.writer}.q", query)
            self._reads(f"{made.writer}.k", key)
            if bos is not None:
                entry("q", len(key), self.one.at(), self.beta * (0.5 if bos == "default" else 1.0))
                entry("k", len(key), self.token.at(self.vocabulary[0]), 1.0)
                self._reads(f"{made.writer}.q", self.one)
                self._reads(f"{made.writer}.k", self.token)
        for row in range(len(made)):
            entry("o", made.start + row, row, 1.0)
        if not value.values:
            entry("v", 0, value.at(), 1.0)
        for one in value.values:
            for at, size in self._written(function(one), made):
                entry("v", at - made.start, value.at(one), size)
        self._reads(f"{made.writer}.v", value)
        return made

    def map(
        self, name: str, inputs: Variable | tuple[Variable, Variable], function: Callable[..., Any], values: Sequence[Hashable]
    ) -> Variable:
        """A function of one or two variables, exactly: a unit for all values that are looked up.

        Args:
            function: None where nothing is written.
            values: of the function; () if they are numbers.
        """
        read = inputs if isinstance(inputs, tuple) else (inputs,)
        layer, made = self._looked_up(name, read, values)
        for first in read[0].values:
            for rest in [(other,) for other in read[1].values] if len(read) == 2 else [()]:
                found = function(first, *rest)
                if found is not None:
                    both = [(1.0, v, at) for v, at in zip(read, (first, *rest), strict=True)]
                    unit = self._unit(layer, [*both, *([(-1.0, self.one, None)] if rest else [])])
                    self._entries += [("down", layer, 0, at, unit, size) for at, size in self._written(found, made)]
        self._reads(made.writer, *read, *((self.one,) if len(read) == 2 else ()))
        return made

    def levels(self, name: str, forms: Sequence[Sequence[Term]], values: Sequence[Hashable], margin: float) -> Variable:
        """The last value whose linear form is above 0, as those before it are too; nothing where none is.

        Args:
            forms: sums of terms, of each value.
            margin: forms are at least so far from 0.
        """
        read = [variable for form in forms for _, variable, _ in form]
        layer, made = self._looked_up(name, [*read, self.one], values)
        for number, form in enumerate(forms):  # from 0 to 1 within the margin, as the difference of two units
            steep = [(weight / margin, variable, at) for weight, variable, at in form]
            for sign, terms in ((1.0, steep), (-1.0, [*steep, (-1.0, self.one, None)])):
                unit = self._unit(layer, terms)
                self._entries.append(("down", layer, 0, made.start + number, unit, sign))
                if number:
                    self._entries.append(("down", layer, 0, made.start + number - 1, unit, -sign))
        self._reads(made.writer, *read, self.one)
        return made

    # what comes of them

    def net(self, said: Variable, token: str = "") -> ZooForCausalLM:
        """The network, float64, whose logits are a variable: of its values, at the tokens of their names.

        Args:
            token: whose logit a number is.
        """
        config = ZooConfig(
            vocab_size=len(self.vocabulary),
            hidden_size=self._width,
            num_hidden_layers=self._layers,
            num_attention_heads=max(self._heads.values(), default=1),
            head_dim=self._head_dim,
            intermediate_size=max(self._units.values(), default=1),
            max_position_embeddings=max(_PROBED, self.length),
            positions="learned",
            norm="none",
            attn_only=not self._units,
            attention_scale=1.0,
            hidden_act="relu",
            mlp_bias=False,
            tie_word_embeddings=False,
        )
        net = ZooForCausalLM(config).eval().double()
        with torch.no_grad():
            for weight in net.parameters():
                weight.zero_()
            net.model.embed_tokens.weight[:, self.one.at()] = 1.0
            for number in range(len(self.vocabulary)):
                net.model.embed_tokens.weight[number, self.token.start + number] = 1.0
            for number in range(self.length):
                net.model.embed_positions.weight[number, self.position.start + number] = 1.0
            for matrix, layer, head, row, column, weight in self._entries:
                self._matrix(net, matrix, layer, head)[row, column] += weight
            for value in said.values or [None]:
                name = token if value is None else str(value)
                net.lm_head.weight[self.vocabulary.index(name), said.at(value)] = 1.0
        return net

    def edges(self, said: Variable) -> list[str]:
        """Every edge of the network that says a variable, as edges of a graph with a split embedding are printed."""
        return [*self._read, f"{said.writer} → logits"]

    # parts

    def _new(self, name: str, values: Sequence[Hashable], writer: str, ready: int) -> Variable:
        made = Variable(name, tuple(values), writer, self._width, ready)
        self._width += len(made)
        self._layers = max(self._layers, -(-ready // 2))
        return made

    def _looked_up(self, name: str, read: Sequence[Variable], values: Sequence[Hashable]) -> tuple[int, Variable]:
        """A variable that an MLP writes, and the MLP's layer."""
        layer = max(variable.ready for variable in read) // 2
        return layer, self._new(name, values, f"m{layer}", 2 * layer + 2)

    def _unit(self, layer: int, terms: Sequence[Term]) -> int:
        """A new unit of an MLP that reads a sum."""
        unit = self._units[layer]
        self._units[layer] += 1
        self._entries += [("up", layer, 0, unit, variable.at(at), weight) for weight, variable, at in terms]
        return unit

    def _reads(self, reader: str, *read: Variable) -> None:
        self._read |= dict.fromkeys(f"{variable.writer} → {reader}" for variable in read)

    @staticmethod
    def _written(found: Any, made: Variable) -> list[tuple[int, float]]:
        """Coordinates of a variable that are written for a value, and what; nothing for None."""
        if found is None:
            return []
        return [(made.at(found), 1.0)] if made.values else [(made.at(), float(found))]

    @staticmethod
    def _matrix(net: ZooForCausalLM, matrix: str, layer: int, head: int) -> Tensor:
        if matrix in ("up", "down"):
            found: Tensor = getattr(net.model.layers[layer].mlp, f"{matrix}_proj").weight
            return found
        tensor: Tensor = getattr(Head(net, layer, head), matrix)
        return tensor
