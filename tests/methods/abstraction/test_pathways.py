"""What of a subspace is read: the control that tells a variable from a dormant pathway (card 19 of causal abstraction)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import interp
from interp.effects.alignment import largest, verdict
from interp.engine.alignment.pathways import readers
from interp.engine.alignment.places import laid
from interp.engine.asked import encoded_pairs
from interp.errors import InputError
from interp.interventions import Change, Select
from interp.prompts import Pair, Pairs, Prompt


class Dormant(nn.Module):
    """x is ±1. Of three features the first is 4x, which nothing reads, the second is read and always 0, the third is x and
    read, but outvoted by what goes past."""

    def __init__(self) -> None:
        super().__init__()
        self.put = nn.Linear(1, 3, bias=False)
        self.read = nn.Linear(3, 2, bias=False)
        self.past = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.put.weight.copy_(torch.tensor([[4.0], [0.0], [1.0]]))
            self.read.weight.copy_(torch.tensor([[0.0, 2.0, 0.5], [0.0, -2.0, -0.5]]))
            self.past.weight.copy_(torch.tensor([[1.0], [-1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.put(x)) + self.past(x)


def rows(n: int, seed: int) -> Pairs:
    """Half of the sources have the other sign."""
    draw = np.random.default_rng(seed)
    own, other = (draw.choice([-1.0, 1.0], size=n) for _ in range(2))
    items = [
        Pair(*(Prompt(inputs={"x": torch.tensor([x], dtype=torch.float32)}) for x in (b, a)), (int(b < 0),), (int(b > 0),))
        for a, b in zip(own, other, strict=True)
    ]
    return Pairs(tuple(items), "sign")


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(Dormant(), example={"x": torch.zeros(3, 1)})


def test_a_dormant_pathway_is_woken_and_said_to_be(model: interp.Model) -> None:
    """Rank 1 at the reader's input swaps the sign; what is read of the direction found there does nothing."""
    words: dict[str, Any] = {"rank": 1, "seeds": 2, "steps": 150, "batch": 64, "lr": 5e-2, "progress": False}
    found = interp.das(model, rows(200, 0), "read:input", test=rows(200, 1), controls=("no_op", "read_part"), **words)
    ds = found.effects.sel(found.effects.attrs["chosen"])
    assert float(ds["iia"].mean()) == 1.0
    assert float(ds["read_part"]) == pytest.approx(float(ds["no_op"].mean()), abs=1e-6)
    assert "NOT carried by what is read of it (" in found.verdict


def test_parts_are_those_of_the_projection(model: interp.Model) -> None:
    """Everything swapped: what is read of all units is the row space itself, and does what all of them do."""
    words: dict[str, Any] = {"rank": 3, "seeds": 1, "steps": 1, "batch": 8, "progress": False}
    found = interp.das(model, rows(40, 0), "read:input", test=rows(40, 1), controls=("read_part",), **words).effects
    assert float(found["read_part"].mean()) == pytest.approx(float(found["iia"].mean()), abs=1e-6)
    [basis] = readers(model, laid(model, encoded_pairs(model, rows(4, 0)), "read:input"))
    assert basis is not None
    direction = torch.tensor([0.0, 2.0, 0.5]).double()
    expected = torch.outer(direction, direction) / direction.square().sum()
    assert (basis @ basis.mT - expected).abs().max() < 1e-12


def test_masks_of_units_have_parts_too(model: interp.Model) -> None:
    """The first unit alone is read by nobody: interchanging it does nothing, and so does its part."""
    words: dict[str, Any] = {"steps": 60, "batch": 32, "lr": 5e-2, "progress": False, "seeds": 1}
    found = interp.binary_masking(model, rows(60, 0), "read:input", test=rows(60, 1), controls=("read_part",), **words)
    [change] = found.interventions[0].changes  # type: ignore[union-attr]
    assert isinstance(change.edit, Select)
    assert np.isfinite(found.effects["read_part"].values).all()


def test_units_of_a_language_model_are_read_by_w_out() -> None:
    """W_out of a gated MLP reads fewer dimensions than it has units; the stream is read by many maps, and none is the one."""
    lm = interp.load("zoo/language-4l")
    pairs = interp.tasks.ioi(4, seed=0, tokenizer=lm.tokenizer)
    encoded = encoded_pairs(lm, pairs)
    places = laid(lm, encoded, interp.grid("mlp_post", layer=[0, 2], position=[-1]))
    for layer, basis, width in zip((0, 2), readers(lm, places), places.widths, strict=True):
        assert basis is not None
        path = lm.anatomy.w_out[layer]
        weight = lm.module.get_submodule(path).weight.detach().double()
        weight = weight if weight.shape[0] == width else weight.mT
        unread = torch.eye(width).double() - basis @ basis.mT
        assert (unread @ weight).abs().max() < 1e-6
        assert basis.shape[1] == torch.linalg.matrix_rank(weight)
    stream = laid(lm, encoded, interp.grid("resid_post", layer=[0], position=[-1]))
    assert readers(lm, stream) == [None]
    heads = laid(lm, encoded, [Change("L1H2", [-1])])
    [basis] = readers(lm, heads)
    assert basis is not None
    assert basis.shape == (heads.widths[0], heads.widths[0])


def test_where_nothing_is_known_of_the_reader_it_is_left_out_or_refused(model: interp.Model) -> None:
    words: dict[str, Any] = {"rank": 1, "seeds": 1, "steps": 1, "batch": 8, "progress": False, "draws": 1}
    found = interp.das(model, rows(20, 0), "put:output", test=rows(20, 1), controls="free", **words)
    assert "read_part" not in found.effects
    with pytest.raises(InputError, match="of no place it is known that one linear map reads it"):
        interp.das(model, rows(20, 0), "put:output", test=rows(20, 1), controls=("read_part",), **words)


def test_a_claim_that_is_carried_is_not_called_dormant(model: interp.Model) -> None:
    words: dict[str, Any] = {"rank": 3, "seeds": 1, "steps": 1, "batch": 8, "progress": False}
    found = interp.das(model, rows(40, 0), "read:input", test=rows(40, 1), controls=("no_op", "read_part"), **words).effects
    assert largest(found)["read_part"] == pytest.approx(float(found["iia"].mean()))
    assert "dormant" not in verdict(found)
