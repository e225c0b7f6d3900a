"""pyvene's low-rank DAS, for test_pyvene_das.py: ``python pyvene_das.py JOB.json OUT.safetensors``, a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyvene
import tiny
import torch
from safetensors.torch import save_file


def main(given: str, out: str) -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(given).read_text())
    network = getattr(tiny, job["family"])(job["seed"]).double()
    where = pyvene.RepresentationConfig(job["layer"], "block_output", "pos", 1, low_rank_dimension=job["rank"])
    kind = pyvene.LowRankRotatedSpaceIntervention
    model = pyvene.IntervenableModel(pyvene.IntervenableConfig([where], intervention_types=kind), network)
    model.disable_model_gradients()
    [intervention] = model.interventions.values()
    intervention.double()
    start = {f"start.{name}": tensor.detach().clone().contiguous() for name, tensor in intervention.state_dict().items()}
    base, source, labels = (torch.tensor(job[name]) for name in ("base", "source", "labels"))
    optimizer = torch.optim.Adam(intervention.parameters(), lr=job["lr"])
    losses = []
    for step in range(job["steps"]):
        at = torch.arange(job["batch"]) + step * job["batch"] % len(base)
        _, found = model({"input_ids": base[at]}, [{"input_ids": source[at]}], {"sources->base": job["position"]})
        loss = torch.nn.functional.cross_entropy(found.logits[:, -1], labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    base, source = (torch.tensor(job[name]) for name in ("held_base", "held_source"))
    with torch.no_grad():
        _, found = model({"input_ids": base}, [{"input_ids": source}], {"sources->base": job["position"]})
    save_file({"losses": torch.stack(losses), "said": found.logits[:, -1].contiguous(), **start}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
