"""pyvene: an intervenable model a cell, as in its tutorials, given the source's representations. Runs in a worker process.

The tutorials run the source again for every cell. Here it runs once and pyvene is handed what it would read
(``source_representations``), which is half of the work.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from contestants.hooks import source_run
from contestants.networks import Shape
from contestants.question import Question
from contestants.timed import Contestant


class Interchanges(Contestant):
    def __init__(self, shape: Shape) -> None:
        import pyvene

        self.pyvene, self.shape, self.device = pyvene, shape, shape.device
        self.network = shape.network()  # its own: every call removes all hooks of the network

    @torch.no_grad()
    def answer(self, question: Question) -> Tensor:
        cache, clean = source_run(self.shape, self.network, question)
        if question.site == "z":
            split = "example position (head unit) -> example head position unit"
            cache = {layer: rearrange(z, split, head=self.shape.heads) for layer, z in cache.items()}
        base = {"input_ids": question.ids("base")}
        values = []
        for layer in question.layers:
            for place in question.where:
                model = self._intervenable(question.site, layer)
                _, found = model(
                    base, unit_locations={"sources->base": place}, source_representations=cache[layer][:, [place]],
                    use_cache=False,
                )  # fmt: skip
                values.append(question.measure(found.logits[:, -1], clean))
        return torch.stack(values).unflatten(0, (len(question.layers), -1))

    def _intervenable(self, site: str, layer: int):
        component, unit = {"resid_pre": ("block_input", "pos"), "z": ("head_attention_value_output", "h")}[site]
        where = self.pyvene.RepresentationConfig(layer, component, unit, 1)
        config = self.pyvene.IntervenableConfig([where], intervention_types=self.pyvene.VanillaIntervention)
        return self.pyvene.IntervenableModel(config, self.network)
