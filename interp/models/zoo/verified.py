"""Trained networks whose circuit was verified: found by exact search, and held against every smaller one.

    >>> found = VERIFIED["induction-2l"]()
    >>> found
    induction-2l: 5 of 81 edges, 64 pairs
    >>> [repr(edge) for edge in found.truth.edges]
    ['embed → L0H2.v', 'embed → L1H1.q', 'L0H2 → L1H1.k', 'embed → L1H1.v', 'L1H1 → logits']
    >>> model = interp.load(found.net, tokenizer=found.tokenizer, name=found.name)               # doctest: +SKIP

What :data:`interp.models.zoo.KNOWN` has of networks that are made by formulas, of one that was trained. The truth is measured
and not by construction: other edges have effects that are small and not 0, and it is that of the contrast of its pairs and of
the metric that is said. How it was found, and all that was verified, is in ``experiments/verified_circuit``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from interp.circuits import Circuit
from interp.models.zoo.modeling import ZooConfig, ZooForCausalLM
from interp.prompts import Pairs
from interp.prompts.asking import pairs
from interp.protocols import Tokenizer

CIRCUIT, PAIRS = "circuit.json", "circuit_pairs.json"
"""Files of a model's folder."""
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, eq=False, repr=False)
class VerifiedCircuit:
    """A trained network and its circuit."""

    name: str
    net: ZooForCausalLM
    """In float64; :func:`interp.load` takes it."""
    tokenizer: Tokenizer
    pairs: Pairs
    """Prompts on which the circuit was verified, and not found, each with another one of as many tokens."""
    truth: Circuit
    """Its ``origin`` says what found it, on which examples, and what is seen in the place of an edge that is left out."""

    def __repr__(self) -> str:
        return f"{self.truth!r}, {len(self.pairs)} pairs"

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Tokens by their ids."""
        return tuple(self.tokenizer.convert_ids_to_tokens(range(self.net.config.vocab_size)))


def verified(name: str) -> VerifiedCircuit:
    """A shipped network, with the circuit that lies beside its weights."""
    from transformers import AutoTokenizer

    folder = WEIGHTS / name
    net = ZooForCausalLM(ZooConfig.from_pretrained(folder)).double().eval()
    net.load_state_dict({key: one.to(torch.float64) for key, one in load_file(folder / "model.safetensors").items()})
    records = json.loads((folder / PAIRS).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return VerifiedCircuit(name, net, tokenizer, pairs(records, task=name), Circuit.load(folder / CIRCUIT))


VERIFIED: Mapping[str, Callable[[], VerifiedCircuit]] = {"induction-2l": partial(verified, "induction-2l")}
"""Networks by name."""
