"""A tiny sweep and a tiny training, run in a process of its own as ``INTERP_KERNELS`` says, and again with the references.

``python kernel_sweeps.py`` prints, as JSON, which kernels ran as what, and by how much the two ways differ.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import sweeps
import tiny
import torch

from interp import kernels
from interp.engine import explain, patch
from interp.interventions import Change, Gate, Intervention, Rotation
from interp.sites import grid
from interp.training import fit

METRICS = ["logprob", "kl"]


def numbers() -> tuple[dict[str, torch.Tensor], list[dict[str, str]]]:
    """What is measured and learned, and what attrs and explain() say of the kernels."""
    model, pairs = sweeps.model("gemma2"), sweeps.random_pairs(0, [6, 6])
    rotation, gate = Rotation(tiny.WIDTH, 3), Gate((tiny.HEADS, 1))
    stream: dict[str, Any] = {"where": grid("resid_pre", layer=[1, 2], position="end"), "featurizer": rotation}
    gates = Intervention.of(Change("L1.z", "end", edit=gate))
    found = [patch(model, pairs, metric=METRICS, **stream), patch(model, pairs, gates, METRICS)]
    said = [result.attrs["kernels"] for result in found]
    said += [explain(model, pairs, metric=metric, **stream).kernels for metric in (METRICS, "logit_diff")]
    many = [Intervention.of(Change("L2.resid_pre", "end", featurizer=rotation)), gates]
    trained = {
        metric: fit(model, pairs, many, metric, epochs=2, batch=2, lr=1.0, optimizer=torch.optim.SGD) for metric in METRICS
    }
    values = {f"patch {i}": torch.tensor(result["value"].values) for i, result in enumerate(found)}
    values |= {f"loss, {metric}": torch.tensor(result.loss.values) for metric, result in trained.items()}
    return values | {"rotation": rotation.weight.detach(), "gate": gate.logits.detach()}, said


def worker(implementation: str) -> dict[str, Any]:
    """The numbers of a fresh process whose environment chooses the kernels."""
    env = os.environ | {"INTERP_KERNELS": implementation, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen, said = numbers()
    with kernels.use("torch"):
        plain, _ = numbers()
    apart = {name: float((chosen[name] - plain[name]).abs().max()) for name in plain}
    print(json.dumps({"said": said, "apart": apart, "triton": "interp.kernels.readout_triton" in sys.modules}))
