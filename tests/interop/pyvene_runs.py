"""pyvene and our engine side by side, for test_pyvene.py. Run as a process of its own.

A job names a tiny model and cases; an answer gives, for each case, how far our logits are from pyvene's on the same weights, how
large they are, and how much the intervention changes them. A case is a list of representations, made together in one run.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import traceback
import types
import warnings
from dataclasses import dataclass
from typing import Any

import architectures
import numpy as np
import pyvene
import torch
from torch import Tensor, nn

import interp
from interp.interop import pyvene as ours
from interp.metrics import Reads
from interp.pairs import Pair, Pairs, Prompt

ROWS, LENGTH = 3, 6


class TwoTokens(pyvene.TrainableIntervention, pyvene.DistributedRepresentationIntervention):
    """A user's own: learned, and over one vector of all tokens."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = int(self.embed_dim)
        self.mix = nn.Linear(width, width, bias=False)

    def forward(self, base: Tensor, source: Tensor, subspaces: Any = None, **kwargs: Any) -> Tensor:
        return base + self.mix(source - base)


class Steer(pyvene.ConstantSourceIntervention, pyvene.LocalistRepresentationIntervention):
    """A user's own, without a source: each row's tokens are averaged, so it matters what comes together."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def forward(self, base: Tensor, source: Any = None, subspaces: Any = None, **kwargs: Any) -> Any:
        assert source is None
        return pyvene.InterventionOutput(output=base.mean(-2, keepdim=True) + 0.5 * base)


def mixture(base: Tensor, source: Tensor) -> Tensor:
    """A function of base and source, as pyvene takes it; the tokens of a row are mixed."""
    return 0.3 * base + 0.7 * source.flip(-2)


def made(kind: str, width: int, seed: int, **options: Any) -> Any:
    """An intervention as it would be after training: every tensor drawn from a seed."""
    torch.manual_seed(seed)
    dims, constant = options.pop("interchange_dim", None), options.pop("constant", False)
    if kind == "mixture":
        return mixture
    if kind == "PCARotatedSpaceIntervention":
        basis = torch.linalg.qr(torch.randn(width, width)).Q[: max(1, width - 3)]
        options["pca"] = types.SimpleNamespace(components_=basis.numpy())
        options["pca_mean"], options["pca_std"] = np.random.RandomState(seed).rand(2, width) + 0.5
    if constant:
        options["source_representation"] = torch.randn(width)
    found = (globals().get(kind) or getattr(pyvene, kind))(embed_dim=width, **options)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if name.endswith("original"):
                parameter.add_(0.3 * torch.randn(parameter.shape).tril(-1))
            elif name in ("mask", "masks"):
                parameter.copy_(torch.randn(parameter.shape))
            elif name == "temperature":
                parameter.fill_(0.7)
            elif not name.startswith(("pca", "intervention")) and parameter.is_floating_point() and parameter.numel() > 1:
                parameter.copy_(torch.randn(parameter.shape) / parameter.shape[0] ** 0.5)
    if dims is not None:
        found.set_interchange_dim(dims)
    return found


def theirs(network: nn.Module, parts: list[tuple[dict[str, Any], Any]], base: Tensor, sources: list[Tensor], mode: str) -> Any:
    """pyvene's logits and what it collected, on its own copy of the model, with every location given row by row."""
    representations = [
        pyvene.RepresentationConfig(
            part.get("layer", 1), part["component"], part.get("unit", "pos"), part.get("units", 1), intervention=own,
            group_key=part.get("group"),
        )
        for part, own in parts
    ]  # fmt: skip
    model = pyvene.IntervenableModel(pyvene.IntervenableConfig(representations, mode=mode), copy.deepcopy(network))
    where = []
    for part, _ in parts:
        positions = [list(part["positions"])] * len(base)
        where.append([[list(part["heads"])] * len(base), positions] if "heads" in part else positions)
    at = {"sources->base": (where, where)} if mode == "parallel" else {"source_0->base": (where, where)}
    chosen = [part.get("subspaces") for part, _ in parts]
    subspaces = None if not any(chosen) else [None if one is None else [list(one)] * len(base) for one in chosen]
    with torch.no_grad():
        first, found = model({"input_ids": base}, [{"input_ids": s} for s in sources], at, subspaces=subspaces)
    return found.logits, first[1] if isinstance(first, tuple) else []


@dataclass(frozen=True)
class Logit:
    """One logit, so that a sweep gives all of them."""

    position: int
    token: int
    reads = Reads(positions=interp.Positions(), columns="all")

    @property
    def name(self) -> str:
        return f"{self.position}.{self.token}"

    def __call__(self, readout: Any) -> Tensor:
        return readout.logits[:, :, self.position, self.token]


def in_our_engine(model: Any, intervention: Any, base: Tensor, source: Tensor, strategy: str) -> Tensor:
    """All logits of a sweep of one cell, ``[example, position, vocab]``."""
    pairs = Pairs(tuple(Pair(Prompt(tuple(b.tolist())), Prompt(tuple(s.tolist())), (1,), (2,)) for b, s in zip(base, source)))
    every = [Logit(p, v) for p in range(base.shape[1]) for v in range(architectures.VOCAB)]
    found = interp.patch(model, pairs, intervention, every, patching="noising", strategy=strategy).value
    return torch.tensor(found.values).reshape(base.shape[1], architectures.VOCAB, len(base)).permute(2, 0, 1)


def one(model: Any, case: dict[str, Any], seed: int) -> dict[str, Any]:
    """One case: pyvene's numbers, ours in our words, and ours by its own code, compared."""
    draw = torch.Generator().manual_seed(seed)
    base, source = torch.randint(1, architectures.VOCAB, (2, ROWS, LENGTH), generator=draw)
    parts = []
    for number, part in enumerate(case["parts"]):
        at = ours.components.resolve(model, part["component"], part.get("layer", 1))
        target = ours.changes.targeted(model, at.site, None, by_head=at.by_head, heads=part.get("heads"))
        flat = part["kind"] not in PER_TOKEN and not at.by_head
        width = target.width * (len(part["positions"]) if flat else 1)
        parts.append((part, made(part["kind"], width, seed + number, **part.get("options", {}))))
    mode = case.get("mode", "parallel")
    groups = len({part.get("group", number) for number, (part, _) in enumerate(parts)})
    answer: dict[str, Any] = {}
    with torch.no_grad():
        plain = model.module(input_ids=base).logits
    answer["scale"] = float(plain.abs().max())
    try:
        expected, collected = theirs(model.module, parts, base, [source] * groups, mode)
    except Exception:
        return answer | {"refused by pyvene": traceback.format_exc(limit=-1)}
    answer["scale"] = max(answer["scale"], float(expected.abs().max()))
    answer["effect"] = float((expected - plain).abs().max())
    config = pyvene.IntervenableConfig(
        [
            pyvene.RepresentationConfig(
                part.get("layer", 1), part["component"], part.get("unit", "pos"), part.get("units", 1), intervention=own,
                group_key=part.get("group"),
            )
            for part, own in parts
        ],
        mode=mode,
    )  # fmt: skip
    given = {
        "positions": [",".join(map(str, part["positions"])) for part, _ in parts],
        "heads": [tuple(part["heads"]) if "heads" in part else None for part, _ in parts],
        "subspaces": [part.get("subspaces") for part, _ in parts],
    }
    for exact in (True, False):
        found = ours.from_config(config, model, **given, exact=exact)
        answer[f"repr {exact}"] = repr(found.made)
        for strategy in case.get("strategies", ("auto", "serial")):
            if not found.changes:
                continue
            logits = in_our_engine(model, found.intervention, base, source, strategy)
            answer[f"{'ours' if exact else 'its own code'}, {strategy}"] = float((logits - expected).abs().max())
    return answer


PER_TOKEN = (
    "VanillaIntervention", "ZeroIntervention", "AdditionIntervention", "SubtractionIntervention", "NoiseIntervention",
    "SigmoidMaskIntervention", "SkipIntervention", "CollectIntervention", "JumpReLUAutoencoderIntervention", "Steer", "mixture",
)  # fmt: skip
"""They keep tokens apart, or are given them in an axis of their own; the others get one vector of all tokens."""
