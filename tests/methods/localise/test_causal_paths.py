"""Causal paths (card 9): attention between spans by hand, planted heads, and p-values under the null.

Tolerance: 1e-6 in float32, 1e-7 where softmax alone is, 1e-12 in float64: masses are sums of a few numbers of at most 1.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from scipy.stats import kstest
from torch import Tensor

from interp import effects as fx
from interp import views
from interp.doctor import architectures
from interp.engine import patch
from interp.errors import InputError, PositionError, UnknownNameError, UnknownSiteError
from interp.interventions import Change, Context, Intervention
from interp.methods.localise.causal_paths import SPANS, causal_paths, span_attention
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid
from interp.store import Store

BECAUSE, AND = 95, 96
CASES = [(torch.float32, [9, 6, 7], 1e-6), (torch.float64, [8, 8], 1e-7)]
"""Prompts of several lengths, padded on the left; and double precision, in which softmaxes of Llama and NeoX are not."""
KINDS = ["gpt2", "llama", "neox", "gemma2"]


def sentences(seed: int, lengths: list[int], *, corrupted: str = "delimiter") -> Pairs:
    """Ids: "e because c" and "c so e" in turn, the delimiter at a random place."""
    rng = np.random.default_rng(seed)
    items = []
    for number, n in enumerate(lengths):
        at = int(rng.integers(2, n - 2))
        ids = rng.integers(0, 90, n)
        ids[at] = BECAUSE
        other = ids.copy()
        other[at if corrupted == "delimiter" else int(rng.integers(1, at))] = AND
        clauses = [(0, at), (at + 1, n)][:: 1 if number % 2 else -1]
        roles = {"cause": clauses[0], "effect": clauses[1], "delimiter": (at, at + 1)}
        clean, corrupt = (Prompt(tuple(map(int, each)), roles) for each in (ids, other if corrupted != "same" else ids))
        items.append(Pair(clean, corrupt, (1,), (2,), f"t{number % 2}"))
    return Pairs(tuple(items), task="sentences")


def uniform(h: Tensor, ctx: Context) -> Tensor:
    """Attention that is equal over what is attended to at all."""
    seen = (h > 0).to(h)
    return seen / seen.sum(-1, keepdim=True).clamp(min=1)  # rows of padding see nothing


def everywhere(edit: Any) -> Intervention:
    return Intervention(tuple(Change(f"L{layer}.pattern", edit=edit) for layer in range(tiny.LAYERS)))


@cache
def scored(kind: str) -> xr.DataTree:
    model = sweeps.model(kind)
    return causal_paths(model, sentences(5, [9, 7, 8, 9, 7]), sentences(6, [8, 8, 9, 6, 7], corrupted="cause"))


def by_loops(pattern: np.ndarray, roles: dict[str, tuple[int, int]]) -> np.ndarray:
    """``[span, source_span]`` of one pattern, as the formula reads."""
    n = len(pattern)
    own = {span: [p for p in range(*roles[span]) if p > 0] for span in SPANS}
    rest = [p for p in range(1, n) if not any(p in positions for positions in own.values())]
    sources = [[0], *own.values(), rest]
    queries = [*own.values(), list(range(roles["delimiter"][1], n))]
    return np.array([[np.mean([sum(pattern[i, j] for j in b) for i in a]) for b in sources] for a in queries])


@pytest.mark.parametrize("kind", KINDS)
def test_span_attention_is_the_mean_over_one_span_of_the_sum_over_the_other(kind: str, seed: int) -> None:
    """Expected: transformers' own patterns, summed by loops; prompts are padded on the left."""
    model, pairs = sweeps.model(kind), sentences(seed, [9, 6, 7])
    found = span_attention(model, pairs)
    assert found.mass.dims == ("example", "layer", "head", "span", "source_span")
    module = model.module
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    for example, pair in enumerate(pairs):
        with torch.no_grad():
            patterns = module(torch.tensor([pair.clean.text]), output_attentions=True).attentions
        for layer in range(tiny.LAYERS):
            for head in range(tiny.HEADS):
                expected = by_loops(patterns[layer][0, head].numpy().astype(float), dict(pair.clean.roles))
                np.testing.assert_allclose(found.mass[example, layer, head], expected, atol=1e-5)
    module.set_attn_implementation(before)


@pytest.mark.parametrize(("dtype", "lengths", "atol"), CASES)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_uniform_causal_attention_gives_the_formula(
    kind: str, dtype: torch.dtype, lengths: list[int], atol: float, seed: int
) -> None:
    """Card 9.1: S = mean over i in A of |B ∩ {j ≤ i}| / (i + 1); the ratio is 1."""
    model, pairs = sweeps.model(kind, dtype), sentences(seed, lengths)
    found = span_attention(model, pairs, given=everywhere(uniform))
    for example, pair in enumerate(pairs):
        n = len(tuple(pair.clean.text))
        equal = np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
        expected = by_loops(equal, dict(pair.clean.roles))
        np.testing.assert_allclose(found.uniform[example], expected, atol=1e-12)
        np.testing.assert_allclose(found.mass[example], np.broadcast_to(expected, found.mass.shape[1:]), atol=atol)
    ratio = found.ratio.where(found.uniform > 0)
    assert float(abs(ratio - 1).max()) < 10 * atol
    assert bool((ratio.isnull() == (found.uniform == 0)).all())


@pytest.mark.parametrize(("dtype", "lengths", "atol"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_masses_over_a_partition_of_what_is_attended_to_sum_to_one(
    kind: str, dtype: torch.dtype, lengths: list[int], atol: float, seed: int
) -> None:
    """Card 9.2, where every span that attends has a token."""
    model, pairs = sweeps.model(kind, dtype), sentences(seed, lengths)
    np.testing.assert_allclose(span_attention(model, pairs).mass.sum("source_span", skipna=False), 1, atol=1e-6)
    some = span_attention(model, pairs, ["delimiter"], side="corrupted").mass
    assert some["source_span"].values.tolist() == ["first", "delimiter", "rest"]
    np.testing.assert_allclose(some.sum("source_span", skipna=False), 1, atol=1e-6)


def test_the_first_token_is_its_own_span_also_where_a_role_covers_it() -> None:
    roles = {"cause": (0, 1), "effect": (2, 4), "delimiter": (1, 2)}
    found = span_attention(sweeps.model("gpt2"), Prompt((5, BECAUSE, 8, 9), roles))
    assert found.mass.sel(span="cause").isnull().all(), "no token of it is left that attends"
    assert (found.mass.sel(span="delimiter", source_span="cause") == 0).all()
    total = found.mass.sel(span="delimiter", source_span=["first", "delimiter"]).sum("source_span")
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_identical_variants_give_a_patch_grid_of_zeros(kind: str) -> None:
    """Card 9.3, bit for bit; and identical sentences no syntax."""
    same = sentences(3, [7, 6, 8], corrupted="same")
    found = causal_paths(sweeps.model(kind), same, same)
    assert (fx.effect(found["patching"].to_dataset()) == 0).all()
    assert (found["heads"].score == 0).all()
    assert found["heads"].p_perm.isnull().all(), "what is 0 everywhere is not tested"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("weight", [0.25, 0.8])
def test_a_planted_head_has_its_weight_as_its_score_and_no_other_head_has_any(kind: str, weight: float) -> None:
    """Card 9.4: after "because" L1H2 attends with ``weight`` to the cause, else to the first token, as all other heads do."""
    ids = np.random.default_rng(7).integers(0, 90, (6, 8))
    roles = {"cause": (1, 4), "effect": (5, 8), "delimiter": (4, 5)}

    def sentence(row: np.ndarray, delimiter: int) -> Prompt:
        return Prompt(tuple(int(t) for t in (*row[:4], delimiter, *row[5:])), roles)

    pairs = Pairs(tuple(Pair(sentence(row, BECAUSE), sentence(row, AND), (1,), (2,)) for row in ids))

    def planted(h: Tensor, ctx: Context) -> Tensor:
        new = torch.zeros_like(h)
        new[..., 0] = 1.0
        if ctx.site.layer == 1:
            axes = [ctx.axes.index(axis) for axis in ("example", "head", "position", "source_position")]
            by_head = new.permute(axes)  # a view: what is written there is in new
            rows = (ctx.tokens == BECAUSE).nonzero()
            for row, position in rows.tolist():
                by_head[row, 2, position, 0] = 1 - weight
                by_head[row, 2, position, 1:4] = weight / 3
        return new

    model = sweeps.model(kind, torch.float64)
    found = causal_paths(model, pairs, sentences(8, [8] * 4, corrupted="cause"), given=everywhere(planted))
    contrast = found["attention"].contrast.sel(span_pair="delimiter → cause")
    expected = np.zeros((tiny.LAYERS, tiny.HEADS))
    expected[1, 2] = weight
    np.testing.assert_allclose(contrast.mean("example"), expected, atol=1e-12)
    assert found["attention"].contrast.sel(span_pair="delimiter → effect").isnull().all(), "it comes later"
    syntax = found["heads"].sel(kind="syntax")
    np.testing.assert_allclose(syntax.score, expected / 2, atol=1e-12)  # the mean with "later → delimiter", which is 0
    assert float(syntax.p_perm[1, 2]) == pytest.approx(1 / 2**5), "all six pairs agree: one of 2⁵ different swaps"
    assert int(syntax.p_perm.notnull().sum()) == 1


def test_p_is_uniform_under_the_null(seed: int) -> None:
    """Card 9.5: which sentence of a pair is called causal is drawn at random, anew for each of 300 tables of random numbers."""
    from interp.methods.localise.causal_paths import _tested

    rng = np.random.default_rng(seed)
    found = []
    for draw in range(300):
        masses = rng.dirichlet([1.0, 2.0, 3.0], size=(2, 20))[..., 0]
        contrast = (masses[0] - masses[1]) * rng.choice([-1, 1], size=20)
        each = xr.DataArray(contrast[:, None, None], dims=("example", "layer", "head"), coords={"layer": [0], "head": [0]})
        found.append(_tested(each, None, flips=500, seed=draw).p_perm.item())
    assert kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_heads_by_syntax_and_semantics(kind: str) -> None:
    """Expected: contrasts of the spans, and the effects of :func:`interp.patch`, each averaged here."""
    model, found = sweeps.model(kind), scored(kind)
    heads, attention = found["heads"], found["attention"]
    assert heads.score.dims == heads.p_perm.dims == heads.p_adjusted.dims == ("kind", "layer", "head")
    assert heads["kind"].values.tolist() == ["syntax", "semantics"]
    pairs = sentences(5, [9, 7, 8, 9, 7])
    clean, other = (span_attention(model, pairs, side=side).mass for side in ("clean", "corrupted"))
    for example in range(5):
        first = "effect" if example % 2 == 0 else "cause"
        sums = sum(
            (clean - other)[example].sel(span=span, source_span=source)
            for span, source in (("delimiter", first), ("later", "delimiter"))
        )
        np.testing.assert_allclose(attention.contrast[example].mean("span_pair"), sums / 2, atol=1e-6)
    np.testing.assert_allclose(heads.score[0], attention.contrast.mean("span_pair").mean("example"), atol=1e-12)
    effects = patch(model, sentences(6, [8, 8, 9, 6, 7], corrupted="cause"), grid("z", layer=..., head=...))
    np.testing.assert_array_equal(found["patching"].value, effects.value)
    np.testing.assert_allclose(heads.score[1], fx.effect(effects).mean("example")[0], atol=1e-6)
    assert ((heads.p_perm >= 1 / 2**4) | heads.p_perm.isnull()).all()
    assert ((heads.p_adjusted >= heads.p_perm) | heads.p_perm.isnull()).all()
    assert set(attention.template.values.tolist()) == {"t0", "t1"}


def test_views_draw_what_it_finds(tmp_path: Any) -> None:
    found = scored("gpt2")
    heads = found["heads"].to_dataset()
    assert views.heatmap(heads.score.sel(kind="syntax")).data
    assert views.heatmap(heads.score, slider="kind").data
    assert len(views.curve(abs(heads.score).mean("head"), x="layer").data) >= 2
    assert views.heatmap(found["patching"].to_dataset()).data
    Store(tmp_path).save(found, name="paths")
    xr.testing.assert_equal(Store(tmp_path).load("paths")["heads"].to_dataset(), heads)


def test_the_effects_go_to_a_store(tmp_path: Any) -> None:
    model, same = sweeps.model("gpt2"), sentences(3, [7, 6, 8], corrupted="cause")
    causal_paths(model, same, same, store=tmp_path, name="content")
    assert Store(tmp_path).runs()["name"].tolist() == ["content"]


def test_what_cannot_be_compared_is_refused() -> None:
    model = sweeps.model("gpt2")
    prompt = Prompt((5, 6, 7, 8), {"cause": (1, 3), "effect": (2, 4), "delimiter": (2, 3)})
    with pytest.raises(PositionError, match="spans 'cause' and 'effect' share token 2 of example 0; give spans"):
        span_attention(model, prompt, ["cause", "effect"])
    with pytest.raises(PositionError, match=r"spans is empty; name roles of the prompts, such as \('cause', 'effect', 'delimi"):
        span_attention(model, prompt, [])
    with pytest.raises(UnknownNameError, match=r"'delimeter'.*did you mean 'delimiter'"):
        span_attention(model, prompt, ["delimeter"])
    same = sentences(3, [7, 6], corrupted="cause")
    with pytest.raises(UnknownNameError, match=r"unknown clusters 'templat'; did you mean 'template'"):
        causal_paths(model, same, same, clusters="templat")
    with pytest.raises(UnknownSiteError, match="pattern"):
        span_attention(architectures.loaded("mamba"), prompt)


def test_attention_to_later_positions_is_refused() -> None:
    def both_ways(h: Tensor, ctx: Context) -> Tensor:
        return torch.full_like(h, 1 / h.shape[-1])

    with pytest.raises(InputError, match="gpt2-0 attends to later positions, and spans are compared with causal attention"):
        span_attention(sweeps.model("gpt2"), sentences(1, [7, 7]), given=everywhere(both_ways))
