"""pyvene's low-rank DAS: one intervenable model a site, gradients of the model off. Runs in a worker process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contestants.networks import Shape
from contestants.timed import Contestant
from contestants.training import Place, Training


class Das(Contestant):
    """The training loop of its tutorials: base and source go in as tokens, and both are run in every step."""

    def __init__(self, shape: Shape) -> None:
        import pyvene

        self.pyvene, self.shape, self.device = pyvene, shape, shape.device
        self.network = shape.network()

    def answer(self, training: Training) -> Tensor:
        """Site after site."""
        return torch.stack([self._train(training, place) for place in training.sites])

    def _train(self, training: Training, place: Place) -> Tensor:
        model, position = self._intervenable(training, place), place[1]
        optimizer = torch.optim.Adam(model.get_trainable_parameters(), lr=training.lr)
        base, source = training.ids("base"), training.ids("source")
        labels = torch.tensor(training.labels, device=self.device)
        losses = []
        given = self._sources(source, place)
        for batch in training.batches():
            _, found = model(
                {"input_ids": base[batch]},
                unit_locations={"sources->base": position},
                use_cache=False,
                **given(batch),
            )
            loss = torch.nn.functional.cross_entropy(found.logits[:, -1], labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    def _sources(self, source: Tensor, place: Place) -> Callable[[slice], dict[str, Any]]:
        """What pyvene is told about the sources of a batch: their tokens."""
        return lambda batch: {"sources": [{"input_ids": source[batch]}]}

    def _intervenable(self, training: Training, place: Place):
        """Its rotation is drawn as :func:`contestants.training.rotation` draws one, so under the same seed it is the same."""
        kind = self.pyvene.LowRankRotatedSpaceIntervention
        where = self.pyvene.RepresentationConfig(place[0], "block_output", "pos", 1, low_rank_dimension=training.rank)
        config = self.pyvene.IntervenableConfig([where], intervention_types=kind)
        torch.manual_seed(training.seed_of(place))
        model = self.pyvene.IntervenableModel(config, self.network)
        model.disable_model_gradients()
        model.set_device(self.device, set_model=False)
        return model


class CachedDas(Das):
    """The same with the sources run once, before the first step, and handed over as representations."""

    @torch.no_grad()
    def _sources(self, source: Tensor, place: Place) -> Callable[[slice], dict[str, Any]]:
        layer, position = place
        held = {}
        handle = self.shape.blocks(self.network)[layer].register_forward_hook(
            lambda module, args, output: held.update(output=output[:, [position]])
        )
        self.network(input_ids=source, use_cache=False, logits_to_keep=1)
        handle.remove()
        return lambda batch: {"source_representations": held["output"][batch]}
