"""Windows of layers, and interventions laid out along axes: the same numbers as the same interventions one by one."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sweeps

from interp import effects
from interp.engine import attribute, patch
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.interventions import Activation, Arranged, Change, Constant, Intervention
from interp.sites import grid
from interp.store import Store


@pytest.mark.parametrize("kind", ["gpt2", "neox", "gemma2"])
@pytest.mark.parametrize("window", [2, 3, 10])
def test_a_window_is_its_layers_together(kind: str, window: int) -> None:
    """Expected: the reference strategy on interventions written out by hand."""
    model = sweeps.model(kind)
    pairs = sweeps.random_pairs(31 + window, [6, 6])
    layers = model.sizes["layer"]
    found = patch(model, pairs, grid("mlp_out", position=[3, -1], window=window))
    by_hand = [
        Intervention.of(
            *(f"L{n}.mlp_out@{at}" for n in range(max(0, layer - window // 2), min(layers, layer + (window + 1) // 2)))
        )
        for layer in range(layers)
        for at in (3, -1)
    ]
    expected = patch(model, pairs, by_hand, strategy="serial", skip_inert=False)["value"].values
    scale = 1 + np.abs(expected).max()
    np.testing.assert_allclose(found["value"].values.reshape(expected.shape), expected, rtol=0, atol=1e-5 * scale)
    widths = [min(layers, n + (window + 1) // 2) - max(0, n - window // 2) for n in range(layers)]
    assert found["window_layers"].values.tolist() == widths
    assert found.attrs["window"] == window


def test_arranged_interventions_have_the_axes_that_they_are_given() -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(7, [6, 6, 6])
    layers, heads = model.sizes["layer"], model.sizes["head"]
    each = [Change(f"L{layer}H{h}.z", -1) for layer in range(layers) for h in range(heads)]
    laid = Arranged(each, {"layer": range(layers), "head": range(heads)})
    found, expected = patch(model, pairs, laid), patch(model, pairs, grid("z", head=..., position=-1))
    assert found["value"].dims == expected["value"].dims == ("metric", "layer", "head", "example")
    np.testing.assert_array_equal(found["value"], expected["value"])
    assert found.attrs["site"] == "z"
    np.testing.assert_allclose(
        attribute(model, pairs, laid)["value"], attribute(model, pairs, grid("z", head=..., position=-1))["value"], atol=1e-5
    )


def test_cells_without_an_intervention_are_absent_and_coordinates_travel() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(8, [5])
    laid = Arranged(
        [None, Change("L0.mlp_out", 4), Change("L1.attn_out", 4), None],
        {"layer": [0, 1], "position": [3, 4]},
        site="parts",
        coords={"width": ("layer", [1, 2])},
    )
    found = patch(model, pairs, {"first": laid, "second": grid("resid_pre", position=[3, 4])})["first"].to_dataset()
    assert found["absent"].values.tolist() == [[True, False], [False, True]]
    assert found["value"].isnull().any("example").values.tolist() == [[[True, False], [False, True]]]
    assert found["width"].values.tolist() == [1, 2]
    assert found["clean_token"].dims == ("position", "example") or "clean_token" not in found.coords
    assert effects.recovery(found).dims == ("metric", "layer", "position")
    assert repr(laid) == "Arranged(parts, layer=2, position=2)"


def test_what_is_arranged_is_part_of_a_runs_identity(tmp_path: object) -> None:
    model, pairs, store = sweeps.model("gpt2"), sweeps.random_pairs(9, [5]), Store(str(tmp_path))
    for value in (0.0, 1.0, 0.0):
        laid = Arranged([Change("L0.mlp_out", 4, Constant(value)), Change("L1.mlp_out", 4)], {"layer": [0, 1]})
        patch(model, pairs, laid, store=store)
    assert len(store.runs()) == 2


def test_what_cannot_be_arranged() -> None:
    change = Change("L0.z")
    with pytest.raises(ShapeMismatchError, match=re.escape("3 interventions do not fill the axes layer=2, which have 2 cells")):
        Arranged([change] * 3, {"layer": [0, 1]})
    with pytest.raises(ShapeMismatchError, match="axes are given as head, layer; results have them in the order layer, head"):
        Arranged([change] * 2, {"head": [0], "layer": [0, 1]})
    with pytest.raises(UnknownNameError, match="sender"):
        Arranged([change], {"sender": [0]})
    with pytest.raises(InputError, match=r"interventions hold 'L0.z' of type str; expected interp.Intervention"):
        sweeps.unchecked(Arranged.__init__)(object.__new__(Arranged), ["L0.z"], {"layer": [0]})
    with pytest.raises(InputError, match=r"None in every cell: there is nothing to change"):
        Arranged([None], {"layer": [0]})
    with pytest.raises(ValueError, match="interventions say their own source"):
        patch(sweeps.model("gpt2"), sweeps.random_pairs(1, [5]), Arranged([change], {"layer": [0]}), source=Activation("base"))
