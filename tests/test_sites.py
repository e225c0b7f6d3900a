"""Sites, positions and grids: names in and out, near matches, order of cells."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import unchecked

from interp import axes
from interp.errors import HeadOutOfRangeError, PositionError, UnknownNameError, UnknownSiteError
from interp.sites import ALL, COMPONENTS, LAST, Positions, Site, grid

numbers = st.integers(0, 200)
KINDS = {name: (c.per_layer, c.selectable) for name, c in COMPONENTS.items()}


@st.composite
def sites(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of any site that a role names; heads and units only where the component has them.

    Not the site itself, nor anything of this package: beartype draws random numbers when it checks a call, which hypothesis
    forbids inside a strategy.
    """
    name = draw(st.sampled_from(sorted(KINDS)))
    per_layer, selectable = KINDS[name]
    optional = st.none() | numbers
    return {
        "name": name,
        "layer": draw(optional) if per_layer else None,
        "head": draw(optional) if axes.HEAD in selectable else None,
        "unit": draw(optional) if axes.UNIT in selectable else None,
        "stream": draw(st.sampled_from(["main", "encoder", "vision"])),
        "call": draw(optional),
    }


@settings(max_examples=200)
@given(sites())
def test_a_site_is_read_back_from_what_it_prints(given_: dict[str, Any]) -> None:
    site = Site(**given_)
    assert Site.parse(repr(site)) == site


@settings(max_examples=50)
@given(sites())
def test_lens_names_are_read_back(given_: dict[str, Any]) -> None:
    """The hook name holds component and layer; head, unit, stream and call are not part of it."""
    site = Site(**given_)
    if site.component.per_layer and site.layer is None:
        return
    assert Site.parse(site.lens) == Site(site.name, layer=site.layer)


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("blocks.3.attn.hook_z", Site("z", layer=3)),
        ("blocks.11.hook_resid_pre", Site("resid_pre", layer=11)),
        ("blocks.0.attn.hook_attn_scores", Site("scores", layer=0)),
        ("blocks.2.mlp.hook_post", Site("mlp_post", layer=2)),
        ("hook_embed", Site("embed")),
        ("hook_pos_embed", Site("pos_embed")),
        ("9.6", Site("z", layer=9, head=6)),
        ("L9H6", Site("z", layer=9, head=6)),
        ("a9.h6", Site("z", layer=9, head=6)),
        ("9.6.q", Site("q", layer=9, head=6)),
        ("a9.h6.pattern", Site("pattern", layer=9, head=6)),
        ("L9H6.v", Site("v", layer=9, head=6)),
        ("m3", Site("mlp_out", layer=3)),
        ("L3.resid_mid", Site("resid_mid", layer=3)),
        ("resid_pre", Site("resid_pre")),
        ("H2.z", Site("z", head=2)),
        ("L4.mlp_post[17]", Site("mlp_post", layer=4, unit=17)),
        ("encoder:L3.z#2", Site("z", layer=3, stream="encoder", call=2)),
        (" L3.z ", Site("z", layer=3)),
        ("transformer.h.3.mlp:output", Site("output", path="transformer.h.3.mlp")),
        ("fc1:input", Site("input", path="fc1")),
    ],
)
def test_aliases(text: str, site: Site) -> None:
    assert Site.parse(text) == site


def test_a_parsed_site_is_itself() -> None:
    site = Site("z", layer=1)
    assert Site.parse(site) is site


@pytest.mark.parametrize("path", ["mlp", "transformer.h.3.mlp"])
@pytest.mark.parametrize("side", ["input", "output"])
def test_a_module_is_read_back_from_what_it_prints(path: str, side: str) -> None:
    assert Site.parse(repr(Site(side, path=path))) == Site(side, path=path)


@pytest.mark.parametrize("more", [{"unit": 3}, {"call": 2}])
def test_sites_of_a_module_that_differ_print_differently(more: dict[str, int]) -> None:
    assert repr(Site("output", path="mlp", **more)) != repr(Site("output", path="mlp"))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("resid_prex", "'resid_pre'"),
        ("resid_psot", "'resid_post'"),
        ("blocks.3.hook_resid_prex", "'blocks.{layer}.hook_resid_pre'"),
        ("L3.mlp_poost", "'mlp_post'"),
        ("pattrn", "'pattern'"),
    ],
)
def test_an_unknown_site_names_the_near_matches(text: str, near: str) -> None:
    with pytest.raises(UnknownSiteError) as error:
        Site.parse(text)
    assert str(error.value).startswith("unknown site '")
    assert "did you mean" in str(error.value)
    assert near in str(error.value)
    assert isinstance(error.value, KeyError)


@pytest.mark.parametrize("text", ["", "L", "L3", "L3.", ".z", "z.", "9.", "L3H", "LxHy", "3", "L-1.z", "L3H2.H4.z", "L3.z@5"])
def test_what_is_no_site_is_refused(text: str) -> None:
    with pytest.raises(UnknownSiteError):
        Site.parse(text)


def test_a_head_where_there_are_none() -> None:
    with pytest.raises(
        HeadOutOfRangeError,
        match=r"site 'resid_pre' has no head axis \(its axes are example, position, d_model\), but head=2 was given",
    ):
        Site("resid_pre", layer=1, head=2)
    with pytest.raises(HeadOutOfRangeError, match=r"site 'z' has no unit axis .* but unit=2 was given"):
        Site("z", layer=1, unit=2)
    with pytest.raises(HeadOutOfRangeError, match="site 'embed' exists once, not per layer, but layer=0 was given"):
        Site("embed", layer=0)


def test_the_side_of_a_module() -> None:
    with pytest.raises(UnknownSiteError, match="unknown side of a module 'outptu'; did you mean 'output'"):
        Site("outptu", path="mlp")


def test_every_component_has_its_own_lens_name_and_known_axes() -> None:
    assert len({c.lens for c in COMPONENTS.values()}) == len(COMPONENTS)
    for component in COMPONENTS.values():
        assert axes.check(component.axes)[0] == "example"


# positions


@pytest.mark.parametrize(
    ("given_", "positions", "text"),
    [
        (..., ALL, "all"),
        (None, ALL, "all"),
        ("all", ALL, "all"),
        ("last", LAST, "-1"),
        (-1, LAST, "-1"),
        (4, Positions(indices=(4,)), "4"),
        ([0, -2], Positions(indices=(0, -2)), "0,-2"),
        ((3,), Positions(indices=(3,)), "3"),
        (range(2), Positions(indices=(0, 1)), "0,1"),
        ("subject", Positions(role="subject"), "subject"),
        ("subject[-1]", Positions(role="subject", pick=-1), "subject[-1]"),
        ("IO 2[0]", Positions(role="IO 2", pick=0), "IO 2[0]"),
        ("all but 0", Positions(but=Positions(indices=(0,))), "all but 0"),
        ("all but 0,-1", Positions(but=Positions(indices=(0, -1))), "all but 0,-1"),
        ("all but subject[-1]", Positions(but=Positions(role="subject", pick=-1)), "all but subject[-1]"),
    ],
)
def test_positions(given_: object, positions: Positions, text: str) -> None:
    found = Positions.parse(given_)  # type: ignore[arg-type]
    assert found == positions
    assert repr(found) == text
    assert Positions.parse(found) is found


@pytest.mark.parametrize(
    "positions",
    [
        Positions(indices=(-1,)),
        Positions(indices=(4,)),
        Positions(indices=(0, -2)),
        ALL,
        Positions(role="subject"),
        Positions(role="subject", pick=-1),
        Positions(but=Positions(indices=(0, -1))),
        Positions(but=Positions(role="subject")),
    ],
    ids=repr,
)
def test_positions_are_read_back_from_what_they_print(positions: Positions) -> None:
    """So that ``"L9H6.z@-1"``, which is how a change prints, means what it prints."""
    assert Positions.parse(repr(positions)) == positions


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Positions(indices=(1,), role="x"), r"either indices or a role, not both: indices=\(1,\), role='x'"),
        (lambda: Positions(pick=1), "pick=1 needs a role to pick from"),
        (lambda: Positions.parse([]), "positions are an empty tuple; leave them out to mean all of them"),
        (lambda: Positions.parse("a[b]"), r"positions 'a\[b\]' are neither 'all', 'last', a role nor a picked role"),
        (lambda: Positions.parse("all but all"), "but=all names the tokens that are left out of all"),
        (lambda: Positions.parse("all but all but 0"), "but=all but 0 names the tokens that are left out of all"),
        (lambda: Positions((1,), but=Positions((0,))), "but=0 names the tokens .*, with nothing beside it"),
        (lambda: Positions.parse(""), "neither 'all', 'last', a role nor a picked role"),
    ],
)
def test_what_are_no_positions(make: object, words: str) -> None:
    with pytest.raises(PositionError, match=words):
        make()  # type: ignore[operator]


# grids

SIZES = {"layer": 3, "head": 2, "unit": 5, "position": 4}


def test_a_grid_lays_its_cells_out_with_the_last_axis_fastest() -> None:
    cells = list(grid("z", layer=..., head=[1, 0], position=...).cells(SIZES))
    expected = [(layer, head, position) for layer in range(3) for head in (1, 0) for position in range(4)]
    assert [tuple(c.coords.values()) for c in cells] == expected
    assert list(cells[0].coords) == ["layer", "head", "position"]
    assert cells[5].sites == (Site("z", layer=0, head=0),)
    assert cells[5].positions == Positions(indices=(1,))


@settings(max_examples=30)
@given(st.permutations(["layer", "head", "position"]), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4))
def test_the_order_of_axes_does_not_depend_on_the_order_of_arguments(
    order: list[str], layers: int, heads: int, at: int
) -> None:
    options = {"layer": list(range(layers)), "head": list(range(heads)), "position": list(range(at))}
    made = grid("z", **{axis: options[axis] for axis in order})  # type: ignore[arg-type]
    assert made.axes == ("layer", "head", "position")
    assert len(list(made.cells(SIZES))) == layers * heads * at


def test_fixed_axes_are_not_swept() -> None:
    made = grid("z", layer=1, head=..., position="S2")
    assert made.axes == ("head",)
    assert [c.sites for c in made.cells(SIZES)] == [(Site("z", layer=1, head=0),), (Site("z", layer=1, head=1),)]
    assert {c.positions for c in made.cells(SIZES)} == {Positions(role="S2")}
    assert repr(made) == "grid(L1.z, head=all, position=S2)"


def test_a_grid_without_axes_is_one_cell() -> None:
    cells = list(grid("L1H1.z").cells(SIZES))
    assert [(c.sites, c.positions, dict(c.coords)) for c in cells] == [((Site("z", layer=1, head=1),), ALL, {})]


@given(st.integers(1, 12), st.integers(1, 15))
def test_windows_are_those_of_the_formula(layers: int, window: int) -> None:
    """Expected: layers [max(0, l − ⌊w/2⌋), min(L, l + ⌈w/2⌉)) (Meng et al. 2022; Zhang & Nanda 2023)."""
    cells = list(grid("mlp_out", position=0, window=window).cells({"layer": layers}))
    for layer, cell in enumerate(cells):
        expected = [n for n in range(layers) if layer - window // 2 <= n < layer + math.ceil(window / 2)]
        assert [site.layer for site in cell.sites] == expected
        assert cell.coords["layer"] == layer


def test_a_window_says_so_and_needs_layers_to_slide_along() -> None:
    made = grid("mlp_out", layer=[1, 2], window=3)
    assert repr(made) == "grid(mlp_out, layer=[1, 2], window=3)"
    assert made.spec()["window"] == 3
    assert "window" not in grid("mlp_out").spec()
    with pytest.raises(HeadOutOfRangeError, match=r"window=0: give a number of adjacent layers, 1 at least"):
        grid("mlp_out", window=0)
    with pytest.raises(HeadOutOfRangeError, match=r"window='all': give a number of adjacent layers"):
        unchecked(grid)("mlp_out", window="all")
    with pytest.raises(HeadOutOfRangeError, match=r"window=3 of L1.mlp_out: a window slides along layers, and this grid does"):
        grid("L1.mlp_out", window=3)


def test_several_positions_together_are_one_cell_and_a_list_is_an_axis() -> None:
    assert grid("resid_pre", layer=0, position=Positions.parse([0, 1])).axes == ()
    assert grid("resid_pre", layer=0, position=[0, 1]).axes == ("position",)
    swept = list(grid("resid_pre", layer=0, position=["S1", "S2[-1]", 3]).cells(SIZES))
    assert [c.coords["position"] for c in swept] == ["S1", "S2[-1]", 3]
    assert swept[1].positions == Positions(role="S2", pick=-1)


def test_units() -> None:
    made = grid("mlp_post", layer=[2], unit=...)
    assert [c.sites[0].unit for c in made.cells(SIZES)] == list(range(5))


def test_the_spec_is_json_and_tells_grids_apart() -> None:
    grids = [
        grid("z", layer=..., head=...),
        grid("z", layer=[0, 1], head=...),
        grid("z", layer=..., head=..., position=-1),
        grid("z", layer=..., head=..., position=[-1]),
        grid("z", layer=..., head=..., position="S2"),
        grid("z", layer=...),
        grid("L0.z", head=...),
        grid("result", layer=..., head=...),
    ]
    specs = [json.dumps(g.spec(), sort_keys=True) for g in grids]
    assert len(set(specs)) == len(specs)


def test_without_a_layer_a_grid_sweeps_all_of_them() -> None:
    assert grid("z", head=...).spec() == grid("z", layer=..., head=...).spec()
    assert grid("L2.z", head=...).axes == ("head",)
    assert grid("embed").axes == ()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: grid("z", layer=[]), "layer is an empty list"),
        (lambda: grid("resid_pre", layer=..., head=...), "site 'resid_pre' has no head axis"),
        (lambda: grid("z", layer=..., unit=[0]), "site 'z' has no unit axis"),
        (lambda: grid("embed", layer=...), "site 'embed' exists once, not per layer"),
    ],
)
def test_grids_that_cannot_be(make: object, words: str) -> None:
    with pytest.raises(HeadOutOfRangeError, match=words):
        make()  # type: ignore[operator]


def test_a_grid_over_no_positions() -> None:
    with pytest.raises(PositionError, match="position is an empty list; give at least one"):
        grid("resid_pre", layer=..., position=[])
    with pytest.raises(PositionError, match="position names a value twice"):
        grid("resid_pre", layer=..., position=[0, 1, 0])


def test_values_that_repeat_are_refused_before_anything_runs() -> None:
    with pytest.raises(HeadOutOfRangeError, match=r"layer names a value twice: \[0, 1, 0\]"):
        grid("z", layer=[0, 1, 0])
    with pytest.raises(PositionError, match="name one token twice"):
        Positions.parse([3, 3])


def test_numpy_integers_are_integers() -> None:
    assert grid("z", layer=np.int64(1), head=[0]) == grid("z", layer=1, head=[0])
    assert Positions.parse(np.int64(2)) == Positions(indices=(2,))
    assert type(grid("z", layer=np.int64(1)).site.layer) is int


def test_numpy_arrays_are_lists() -> None:
    assert grid("z", layer=np.arange(2)) == grid("z", layer=[0, 1])
    assert grid("z", layer=list(np.arange(2))) == grid("z", layer=[0, 1])
    assert Positions.parse(np.array([0, -1])) == Positions(indices=(0, -1))


def test_a_module_has_no_layers_and_heads() -> None:
    with pytest.raises(HeadOutOfRangeError, match="mlp:output is one module, without layers and heads; its last axis is unit"):
        Site("output", path="mlp", head=1)
    with pytest.raises(HeadOutOfRangeError, match="one module, without layers"):
        grid("mlp:output", layer=...)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (grid("z", layer=[3], head=...), "layer 3 of 'z' does not exist: this model has 3 layers there, 0 to 2"),
        (grid("z", layer=-1, head=...), "layer -1 of 'z' does not exist"),
        (grid("z", layer=..., head=[0, 2]), "head 2 of 'z' does not exist: this model has 2 heads there, 0 to 1"),
        (grid("L0H2.z"), "head 2 of 'z' does not exist"),
        (grid("mlp_post", layer=..., unit=[5]), "unit 5 of 'mlp_post' does not exist: this model has 5 units there, 0 to 4"),
    ],
)
def test_indices_beyond_the_model(made: object, words: str) -> None:
    with pytest.raises(HeadOutOfRangeError, match=words):
        made.values(SIZES)  # type: ignore[attr-defined]


# axes


def test_axes_are_checked_with_near_matches() -> None:
    assert axes.check(("layer", "head", "d_model")) == ("layer", "head", "d_model")
    with pytest.raises(UnknownNameError, match="unknown axis 'postion'; did you mean 'position'"):
        axes.check(("layer", "postion"))
