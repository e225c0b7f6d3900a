"""Any module by its path: axes under the user's names. Expected numbers come from the module itself, run by hand."""

from __future__ import annotations

import re

import anything
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp.engine import patch
from interp.errors import LoadError, PositionError, UnknownNameError
from interp.interventions import Change, Intervention
from interp.metrics import FromLogits
from interp.models import Model, load
from interp.models.layouts import Named
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site, grid

FIRST = FromLogits(lambda logits: logits[..., 0], "first")
TIME, WIDTH = 5, 3


class Recurrent(nn.Module):
    """A recurrent network with time in front, as torch's own have it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(WIDTH, 4), nn.Linear(4, 2)

    def forward(self, sound: Tensor) -> Tensor:
        states, _ = self.rnn(sound.transpose(0, 1))
        return self.head(states.mean(0))


def recurrent(seed: int, axes: str = "time example [channel]") -> tuple[Model, Pairs]:
    torch.manual_seed(seed)
    model = load(Recurrent(), example={"sound": torch.randn(3, TIME, WIDTH)}, axes={"rnn": axes})
    prompts = [Prompt(inputs={"sound": torch.randn(TIME, WIDTH)}) for _ in range(4)]
    return model, Pairs((Pair(prompts[0], prompts[1]), Pair(prompts[2], prompts[3])))


def test_time_in_front(seed: int) -> None:
    model, pairs = recurrent(seed)
    found = patch(model, pairs, grid("rnn:output", position=..., unit=...), FIRST)
    assert found.value.shape == (1, TIME, 4, 2)
    assert found.coords["time"].dims == ("position",)
    with torch.no_grad():
        clean, corrupted = (
            model.module.rnn(torch.stack([getattr(pair, side).inputs["sound"] for pair in pairs], dim=1))[0]
            for side in ("clean", "corrupted")
        )
        for time in range(TIME):
            for unit in range(4):
                mixed = corrupted.clone()
                mixed[time, :, unit] = clean[time, :, unit]
                expected = model.module.head(mixed.mean(0))[:, 0]
                np.testing.assert_allclose(found.value[0, time, unit].values, expected.numpy(), atol=1e-6)


def test_rows_and_columns_of_an_image(seed: int) -> None:
    """The corner of a feature map, by its rows and columns, in a sweep and as positions of one change."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 5, 2))
    model = load(net, example={"input": torch.randn(3, 3, 6, 5)})
    images = torch.randn(2, 3, 6, 5)
    pairs = Pairs((Pair(*(Prompt(inputs={"input": image}) for image in images)),))
    corner = model.places(model.encode(pairs).clean, Site.parse("0:output")).at(row=range(2), column=4)
    assert corner.indices == (4, 9)
    found = patch(model, pairs, Intervention((Change(Site.parse("0:output"), corner),)), FIRST)
    with torch.no_grad():
        clean, mixed = net[0](images[:1]), net[0](images[1:]).clone()
        mixed[:, :, :2, 4] = clean[:, :, :2, 4]
        expected = net[1:](mixed)[:, 0]
    np.testing.assert_allclose(found.value.values[0, 0], expected.numpy(), atol=1e-6)
    swept = patch(model, pairs, grid("0:output", position=...), FIRST)
    rows = swept.set_index(position=["row", "column"]).sel(row=1, column=4)
    one = patch(model, pairs, Intervention((Change(Site.parse("0:output"), corner.parse(9)),)), FIRST)
    np.testing.assert_allclose(rows.value.values[0], one.value.values[0, 0], atol=1e-6)


def test_a_network_of_which_nothing_is_known_says_what_would_help() -> None:
    model = load(nn.Sequential(nn.Linear(3, 4)))
    pairs = Pairs((Pair(*(Prompt(inputs={"input": torch.ones(3)}) for _ in range(2))),))
    with pytest.raises(PositionError, match=r"Sequential: its forward needs input; show how .* load\(module, example="):
        patch(model, pairs, grid("0:output"), FIRST)


def test_names_of_a_feature_map_of_a_known_network(seed: int) -> None:
    model = anything.model("resnet")
    places = model.places(model.encode(anything.pairs(model, seed)).clean, Site("resid_post", layer=2))
    assert list(places.lattice) == ["row", "column"]
    with pytest.raises(UnknownNameError, match="unknown axis of positions 'height'"):
        places.at(height=0)
    with pytest.raises(PositionError, match="no position is at"):
        places.at(row=1000)


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ("time channel", "axes 'time channel': name every axis once, 'example' among them"),
        ("time time example", "name every axis once"),
        ("[time] example [channel]", "name every axis once"),
        ("[example]", "no axis is left for what is at a position"),
        (
            "example channel",
            re.escape("axes 'example channel' were given for rnn:output, whose tensor has the shape (5, 3, 4)"),
        ),
    ],
)
def test_names_that_do_not_say_which_axis_is_which(axes: str, says: str) -> None:
    with pytest.raises(LoadError, match=says):
        recurrent(0, axes)


@pytest.mark.parametrize(
    "axes", ["example [channel] row column", "row example column [channel]", "example unit", "[a] example"]
)
def test_what_is_put_back_is_what_was_read(axes: str, seed: int) -> None:
    layout = Named.parse(axes)
    seen = torch.randn(*range(2, 2 + len(layout.names)), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(layout.put(seen, layout.read(seen, None), None), seen)
