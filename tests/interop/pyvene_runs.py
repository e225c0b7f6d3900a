"""pyvene and our engine side by side, for test_pyvene.py. Run as a process of its own.

A case is a list of representations, made together in one run. Its answer says how far our logits are from pyvene's on the same
weights, how large they are, and how much the intervention changes them.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
import traceback
import types
import warnings
from typing import Any

import numpy as np
import pyvene
import torch
from deviations import deviation, paired
from torch import Tensor, nn

import interp
from interp.doctor import architectures
from interp.interop import pyvene as ours

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
                parameter.add_(0.1 * torch.randn(parameter.shape).tril(-1))
            elif name in ("mask", "masks"):
                parameter.copy_(torch.randn(parameter.shape))
            elif name == "temperature":
                parameter.fill_(0.7)
            elif not name.startswith(("pca", "intervention")) and parameter.is_floating_point() and parameter.numel() > 1:
                parameter.copy_(torch.randn(parameter.shape) / parameter.shape[0] ** 0.5)
    if dims is not None:
        found.set_interchange_dim(dims)
    return found


def config_of(parts: list[tuple[dict[str, Any], Any]], mode: str = "parallel") -> Any:
    representations = [
        pyvene.RepresentationConfig(
            part.get("layer", 1), part["component"], part.get("unit", "pos"), part.get("units", 1), intervention=own,
            group_key=part.get("group"),
        )
        for part, own in parts
    ]  # fmt: skip
    return pyvene.IntervenableConfig(representations, mode=mode)


def theirs(
    network: nn.Module, config: Any, parts: list[Any], base: Tensor, sources: list[Tensor | None]
) -> tuple[Tensor, list[Tensor]]:
    """pyvene's logits and what it collected, on its own copy of the model, with every location given row by row."""
    model = pyvene.IntervenableModel(config, copy.deepcopy(network))
    where = []
    for part, _ in parts:
        positions = [list(part["positions"])] * len(base)
        where.append([[list(part["heads"])] * len(base), positions] if "heads" in part else positions)
    at = {"sources->base" if config.mode == "parallel" else "source_0->base": (where, where)}
    chosen = [part.get("subspaces") for part, _ in parts]
    subspaces = None if not any(chosen) else [None if one is None else [list(one)] * len(base) for one in chosen]
    with torch.no_grad():
        first, found = model(
            {"input_ids": base}, [None if s is None else {"input_ids": s} for s in sources], at, subspaces=subspaces
        )
    return found.logits, first[1] if isinstance(first, tuple) else []


PER_TOKEN = (
    "VanillaIntervention", "ZeroIntervention", "AdditionIntervention", "SubtractionIntervention", "NoiseIntervention",
    "SigmoidMaskIntervention", "SkipIntervention", "JumpReLUAutoencoderIntervention", "Steer", "mixture",
)  # fmt: skip
"""They keep tokens apart, or are given them in an axis of their own; the others get one vector of all tokens."""


def one(model: Any, case: dict[str, Any], seed: int) -> dict[str, Any]:
    """A case: how far from pyvene's numbers are ours, in our words and by its own code, and pyvene's from our config."""
    draw = torch.Generator().manual_seed(seed)
    base, source = torch.randint(1, architectures.VOCAB, (2, ROWS, LENGTH), generator=draw)
    parts = [(part, _made(model, part, seed + number)) for number, part in enumerate(case["parts"])]
    mode = case.get("mode", "parallel")
    groups = {part.get("group", number): part["kind"] for number, (part, _) in enumerate(parts)}
    sources = [None if kind == "CollectIntervention" else source for kind in groups.values()]  # its source breaks pyvene's read
    with torch.no_grad():
        plain = model.module(input_ids=base).logits
    answer: dict[str, Any] = {"case": case, "scale": float(plain.abs().max()), "deviations": {}}
    given = {
        "positions": [",".join(map(str, part["positions"])) for part, _ in parts],
        "heads": [tuple(part["heads"]) if "heads" in part else None for part, _ in parts],
        "subspaces": [part.get("subspaces") for part, _ in parts],
    }
    config = config_of(parts, mode)
    try:
        expected, collected = theirs(model.module, config, parts, base, sources)
    except Exception as error:  # whatever its own assertions and indexing raise
        return answer | {"refused by pyvene": f"{type(error).__name__}: {error}"}
    answer["scale"] = max(answer["scale"], float(expected.abs().max()))
    answer["effect"] = float((expected - plain).abs().max())
    found = {exact: ours.from_config(config, model, **given, exact=exact) for exact in (True, False)}
    answer["said"] = repr(found[True].made)
    for exact, strategy in itertools.product(found, case.get("strategies", ["auto"])):
        if found[exact].changes:
            how = f"{'in our words' if exact else 'its own code'}, {strategy}"
            answer["deviations"][how] = deviation(model, found[exact].intervention, base, source, expected, strategy)
    if collected:
        kept = ours.collect(model, found[True], paired(base, source), patching="noising")
        collected = [b.transpose(1, 2) if b.ndim == 4 else b for b in collected]  # pyvene has heads before tokens
        answer["collected"] = [float((a - b).abs().max()) for a, b in zip(kept, collected, strict=True)]
    if case.get("back", False):
        again, _ = theirs(model.module, ours.to_config(found[True], model), parts, base, sources)
        answer["deviations"]["written back"] = float((again - expected).abs().max())
    return answer


def _made(model: Any, part: dict[str, Any], seed: int) -> Any:
    """The intervention of a part, as wide as pyvene makes it."""
    at = ours.components.resolve(model, part["component"], part.get("layer", 1))
    target = ours.changes.targeted(model, at.site, None, by_head=at.by_head, heads=part.get("heads"))
    flat = part["kind"] not in PER_TOKEN and not at.by_head
    return made(part["kind"], target.width * (len(part["positions"]) if flat else 1), seed, **part.get("options", {}))


def saved(model: Any, case: dict[str, Any], seed: int, folder: str) -> dict[str, Any]:
    """Write a trained model of pyvene's, and its own numbers on two prompts of each row."""
    draw = torch.Generator().manual_seed(seed)
    base, source = torch.randint(1, architectures.VOCAB, (2, ROWS, LENGTH), generator=draw)
    parts = [(part, _made(model, part, seed + number)) for number, part in enumerate(case["parts"])]
    config = config_of(parts)
    expected, _ = theirs(model.module, config, parts, base, [source] * len(parts))
    pyvene.IntervenableModel(config, copy.deepcopy(model.module)).save(folder)
    return {"base": base.tolist(), "source": source.tolist(), "expected": expected.tolist()}


def fields(representation: Any) -> dict[str, Any]:
    """What a representation says, but for its intervention object."""
    return {
        k: v for k, v in representation._asdict().items() if v is not None and k not in ("intervention", "intervention_type")
    }


def back_and_forth(model: Any, representations: list[dict[str, Any]]) -> dict[str, Any]:
    """A config as pyvene takes it, read and written; what both say."""
    rows = [row | {"intervention_type": getattr(pyvene, row["intervention_type"])} for row in representations]
    config = pyvene.IntervenableConfig([dict(row) for row in rows])
    n = len(rows)
    heads = [(1,) if row["component"].startswith("head_") else None for row in rows]
    written = ours.to_config(ours.from_config(config, model, ["2"] * n, heads=heads), model)
    pyvene.IntervenableModel(written, copy.deepcopy(model.module))
    return {
        "given": [fields(one) for one in config.representations],
        "written": [fields(one) for one in written.representations],
        "types": [[kind.__name__ for kind in c.intervention_types] for c in (config, written)],
    }


def trained(model: Any, seed: int) -> dict[str, Any]:
    """A user's own intervention trained by our trainer, through pyvene's forward."""
    draw = torch.Generator().manual_seed(seed)
    base, source = torch.randint(1, architectures.VOCAB, (2, ROWS, LENGTH), generator=draw)
    own = made("TwoTokens", architectures.WIDTH, seed)
    before = own.mix.weight.detach().clone()
    das = interp.interventions.Intervention.of(ours.change(model, own, "L1.resid_post", -1))
    found = interp.training.fit(model, paired(base, source), das, "logprob", epochs=8, lr=0.02, patching="noising")
    loss = found.loss.values[0]
    return {"first": float(loss[0]), "last": float(loss[-1]), "moved": float((own.mix.weight - before).abs().max())}


def answered(job: dict[str, Any]) -> Any:
    model = interp.load(architectures.build(job["family"], job["seed"] % 1000))
    match job["do"]:
        case "cases":
            return [one(model, case, job["seed"]) for case in job["cases"]]
        case "save":
            return saved(model, job["case"], job["seed"], job["folder"])
        case "back and forth":
            return back_and_forth(model, job["representations"])
        case "train":
            return trained(model, job["seed"])


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning, module="pyvene")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what pyvene prints must not spoil an answer
    for line in sys.stdin:
        try:
            reply = {"answer": answered(json.loads(line))}
        except Exception:
            reply = {"error": traceback.format_exc()}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
