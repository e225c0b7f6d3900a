"""Sweeps over prompts that have no counterfactual, and sites in place of their grids."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor

from interp import effects, views
from interp.engine import attribute, explain, patch, run
from interp.errors import AnswerError, HeadOutOfRangeError, InputError, UnknownSiteError
from interp.interventions import Activation, Change, Scale
from interp.methods.ablation.ablation import ablate
from interp.prompts import Pair, Prompt
from interp.sites import Site, grid

HEADS = grid("z", layer=..., head=...)


@pytest.fixture
def prompts(seed: int) -> list[list[int]]:
    return torch.randint(0, tiny.VOCAB, (3, 6), generator=torch.Generator().manual_seed(seed)).tolist()


def third(logits: Tensor) -> Tensor:
    return logits[..., 3]


def test_cells_are_what_a_run_with_the_change_gives(prompts: list[list[int]]) -> None:
    model = sweeps.model("gpt2")
    found = patch(model, prompts, HEADS, [third, "kl"], edit=Scale(0.0))
    ran = run(model, prompts, [None, Change("L1H2.z", edit=Scale(0.0))])
    log = ran.final.log_softmax(-1)
    assert torch.allclose(torch.tensor(found["clean"].values[0]), ran.final[0, :, 3], atol=1e-5)
    cell = found["value"].sel(layer=1, head=2).values
    assert torch.allclose(torch.tensor(cell[0]), ran.final[1, :, 3], atol=1e-5)
    kl = (log[0].exp() * (log[0] - log[1])).sum(-1)
    assert torch.allclose(torch.tensor(cell[1]), kl, atol=1e-5)
    assert found.attrs["paired"] is False


def test_the_plan_and_the_slopes_take_them_too(prompts: list[list[int]]) -> None:
    model = sweeps.model("gpt2")
    assert "× 3 examples" in repr(explain(model, prompts, HEADS, third, edit=Scale(0.0)))
    exact, estimate = (of(model, prompts, HEADS, third, edit=Scale(0.999)) for of in (patch, attribute))
    np.testing.assert_allclose(effects.effect(estimate), effects.effect(exact), atol=1e-4)
    with pytest.warns(RuntimeWarning, match="every estimate is 0 to first order; use another metric"):
        attribute(model, prompts, HEADS, "kl", edit=Scale(0.0))


def test_one_prompt_is_one(prompts: list[list[int]]) -> None:
    assert patch(sweeps.model("gpt2"), [prompts[0]], HEADS, third, edit=Scale(0.0)).sizes["example"] == 1


def test_what_needs_another_prompt_says_so(prompts: list[list[int]]) -> None:
    model = sweeps.model("gpt2")
    for options in ({}, {"source": Activation("clean")}, {"edit": Scale(0.0), "given": Change("L0.mlp_out")}):
        with pytest.raises(InputError, match=r"but these are no pairs: pass interp\.Pair"):
            patch(model, prompts, HEADS, third, **options)
    with pytest.raises(InputError, match="but these are no pairs"):
        explain(model, prompts, Change("L1.z"), third)
    with pytest.raises(AnswerError, match="choose a metric that does not read them, such as 'kl'"):
        patch(model, prompts, HEADS, edit=Scale(0.0))
    with pytest.raises(InputError, match=r"pairs is int; expected a text, .* or pairs as interp.pairs"):
        patch(model, 3, HEADS, edit=Scale(0.0))


def test_recovery_is_not_defined(prompts: list[list[int]]) -> None:
    model = sweeps.model("gpt2")
    for found in (
        patch(model, prompts, HEADS, third, edit=Scale(0.0)),
        ablate(model, prompts, HEADS, "mean", third),
    ):
        for of in (effects.recovery, effects.damage):
            with pytest.raises(effects.EffectsError, match=r"have none; take the effect: interp.effect\(effects\)"):
                of(found)
        table = effects.top(found, 3)
        assert {"recovery", "damage"}.isdisjoint(table.columns)
        assert table["effect"].notna().all()
        figure = views.heatmap(found)
        assert "effect" in str(figure.layout.title.text)
        assert "no counterfactual" in str(figure.to_dict())
        assert "unchanged" in str(figure.data[0].text[0][0])
        assert "denoising" not in str(figure.to_dict())
        assert "corrupted" not in str(figure.to_dict())


def test_a_figure_says_what_was_done(prompts: list[list[int]]) -> None:
    gone = patch(sweeps.model("gpt2"), prompts[:1], "mlp_out", third, edit=Scale(0.25))
    title = str(views.curve(gone).layout.title.text)
    assert "no counterfactual, Scale(factor=0.25) · gpt2-0" in title
    assert "source" not in title
    assert "interval" not in title  # one example has none


def test_prompts_paired_with_the_same_prompts_have_none(prompts: list[list[int]]) -> None:
    """Two prompts that say the same are no contrast, though they are two: nothing is normalised by a difference of 0."""
    twice = [Pair(Prompt(ids, {"end": (2, 3)}), Prompt(ids, {"end": (2, 3)}), (1,), (2,)) for ids in prompts]
    found = patch(sweeps.model("gpt2"), twice, "mlp_out", edit=Scale(0.25), patching="noising")
    assert found.attrs["paired"] is False
    assert np.isfinite(effects.top(found, 1)["effect"]).all()


def test_pairs_have_it(seed: int) -> None:
    found = patch(sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6]), HEADS)
    assert "paired" not in found.attrs
    assert "recovery" in effects.top(found, 3).columns


@pytest.mark.parametrize(
    ("where", "same"),
    [
        ("L1.z", grid("L1.z")),
        ("z", grid("z", layer=...)),
        (Site("z", layer=1, head=2), grid("L1H2.z")),
        ("blocks.1.hook_mlp_out", grid("L1.mlp_out")),
        ("embed", grid("embed")),
        ("transformer.h.1.mlp:output", grid("transformer.h.1.mlp:output")),
    ],
)
def test_a_site_is_its_grid(where: Any, same: Any, prompts: list[list[int]]) -> None:
    model = sweeps.model("gpt2")
    one, other = (patch(model, prompts, asked, third, edit=Scale(0.0)) for asked in (where, same))
    assert one.attrs["spec"] == other.attrs["spec"]
    np.testing.assert_array_equal(one["value"], other["value"])
    tree = patch(model, prompts, {"there": where}, third, edit=Scale(0.0))
    np.testing.assert_array_equal(tree["there"]["value"], other["value"])
    ablated = ablate(model, prompts, where, "zero", third)
    assert ablated["value"].dims == one["value"].dims


def test_each_of_a_list_of_sites_is_a_cell(prompts: list[list[int]]) -> None:
    model, sites = sweeps.model("gpt2"), ["L1H2.z@-1", "L0.mlp_out", Site("z", layer=2, head=1)]
    found = patch(model, prompts, sites, third, edit=Scale(0.0))
    changes = [Change("L1H2.z", -1, edit=Scale(0.0)), Change("L0.mlp_out", edit=Scale(0.0)), Change("L2H1.z", edit=Scale(0.0))]
    same = patch(model, prompts, changes, third)
    assert found.attrs["spec"] == same.attrs["spec"]
    np.testing.assert_array_equal(found["value"], same["value"])
    np.testing.assert_array_equal(
        ablate(model, prompts, sites, "zero", third)["value"], ablate(model, prompts, changes, "zero", third)["value"]
    )
    with pytest.raises(UnknownSiteError, match="unknown site 'mlp_oot' of gpt2-0; did you mean 'mlp_out'"):
        patch(model, prompts, ["L0.mlp_out", "L1.mlp_oot"], third, edit=Scale(0.0))


@pytest.mark.parametrize("path", ["transformer.h.1.mlp", "lm_head"])
def test_a_modules_path_says_which_side(path: str, prompts: list[list[int]]) -> None:
    with pytest.raises(UnknownSiteError, match=rf"a module by its path says which side is meant, '{path}:output' or"):
        run(sweeps.model("gpt2"), prompts, capture=path)


def test_a_misspelt_site_is_answered_with_the_models_own(prompts: list[list[int]]) -> None:
    model = sweeps.model("gpt2")
    with pytest.raises(UnknownSiteError) as told:
        patch(model, prompts, "resid_psot", third, edit=Scale(0.0))
    assert str(told.value).startswith("unknown site 'resid_psot' of gpt2-0; did you mean 'resid_post'")
    assert "model.sites() lists them with their axes" in str(told.value)
    assert set(told.value.known) == {site.name for site in model.sites()}
    with pytest.raises(UnknownSiteError, match="unknown site 'rusid' of gpt2-0"):
        model.run(prompts, capture="L1.rusid")


def test_a_change_that_names_no_layer(prompts: list[list[int]]) -> None:
    words = "does not say which layer: name one, as in L3.resid_post, or sweep all of them with interp.grid('resid_post')"
    with pytest.raises(HeadOutOfRangeError, match=re.escape(words)):
        patch(sweeps.model("gpt2"), prompts, Change("resid_post", edit=Scale(0.0)), third)


def test_a_site_at_its_positions_is_one_cell() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(1, [6, 6])
    alone, listed = (patch(model, pairs, where) for where in ("L1H2.z@end", ["L1H2.z@end"]))
    assert alone.sizes["cell"] == 1
    np.testing.assert_array_equal(alone["value"], listed["value"])
    with pytest.raises(UnknownSiteError, match="unknown site 'y'"):
        patch(model, pairs, "L1H2.y@end")
