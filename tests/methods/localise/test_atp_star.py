"""AtP*: closed forms against brute force, its fix against exact patching, GradDrop against its definition, two known nets.

Tolerances are 1e-10 relative to the largest value in float64 where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import nets_localise_attribution as nets
import numpy as np
import pytest
import sweeps
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import interp
from interp import effects
from interp.doctor import architectures
from interp.engine import attribute, gradients, patch
from interp.engine.estimates.query_key import AttentionRow
from interp.errors import InputError, UnknownNameError
from interp.interventions import Add, Change, Constant, Interpolate, Intervention, Noise
from interp.methods.localise.atp_star import ADDED, atp_star
from interp.methods.localise.verification import verify
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site, grid
from interp.store import Store

METHODS = ("atp", "atp+qk", "atp+gd", "atp*")


class Double(TorchFunctionMode):
    """Softmax, norms and rotary phases in float64 too, where models ask for float32 whatever their weights are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
        return func(*args, **kwargs)


@pytest.fixture
def double() -> Iterator[None]:
    with Double():
        yield


@cache
def in_double(kind: str) -> Model:
    """Loaded while everything is in float64; what a model learns of itself at loading is kept."""
    return load(sweeps.MAKERS[kind](0).to(torch.float64), name=f"{kind}-double")


def moved(ds: Any) -> np.ndarray[Any, Any]:
    return effects.effect(ds.to_dataset() if hasattr(ds, "to_dataset") else ds).values


def score(ds: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = ds["score"].values
    return found


# ------------------------------------------------------------------------------------------------------- closed forms


def rows(seed: int, sharpness: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Scores and δ of causal attention, ``[row, position, head, source]``; a sharpness for each head."""
    draw = torch.Generator().manual_seed(seed)
    size, each = (2, 7, len(sharpness), 7), torch.tensor(sharpness, dtype=torch.float64)[:, None]
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)[:, None]
    scores, delta = (torch.randn(size, generator=draw, dtype=torch.float64) * each for _ in range(2))
    return scores.masked_fill(hidden, torch.finfo(torch.float64).min), 3 * delta.masked_fill(hidden, 0.0)


def softmax(scores: Tensor, sink: Tensor | None) -> Tensor:
    """With a further score in each row that is no token, if there is a sink."""
    return scores.softmax(-1) if sink is None else torch.cat([scores, sink], -1).softmax(-1)[..., :-1]


@pytest.mark.parametrize("sink", [False, True])
def test_one_key_closed_form_is_the_softmax_for_every_pair_of_tokens(sink: bool, seed: int) -> None:
    """Card 5, test 1: for every (i, j), with p = 1 (row 0), masked j > i, and p below 1e-30."""
    scores, delta = rows(seed, (0.0, 1.0, 5.0) if sink else (0.0, 1.0, 5.0, 30.0, 90.0))
    beside = torch.randn(*scores.shape[:3], 1, dtype=torch.float64) if sink else None
    pattern, gradient = softmax(scores, beside), torch.randn(3, *scores.shape, dtype=torch.float64)
    if not sink:
        assert bool((pattern[:, 0, :, 0] == 1).all())
        assert bool(((pattern > 0) & (pattern < 1e-30)).any())
    row = AttentionRow.of(scores, pattern)
    found = row.shares(delta) * row.against(gradient)
    several = torch.rand(2, 7) < 0.5
    atol = 1e-8 if sink else 1e-10  # a sink is what a row falls short of 1, known to rounding
    for at in (*(torch.eye(7, dtype=torch.bool)[[j, j]] for j in range(7)), several):
        step = softmax(scores + torch.where(at[:, None, None], delta, 0.0), beside) - pattern
        torch.testing.assert_close(row.moved(delta, at), step, rtol=0, atol=atol)
        if at is not several:
            torch.testing.assert_close(found[..., at[0]][..., 0], (step * gradient).sum(-1), rtol=0, atol=atol)


def test_one_key_closed_form_of_float32_patterns_is_as_exact_as_its_scores(seed: int) -> None:
    """A pattern in float32 is 1 where the rest is below 6e-8, which decides what is left when the key is lowered."""
    scores, delta = rows(seed, (1.0, 5.0, 40.0))
    gradient = torch.randn_like(scores)
    found, exact = (AttentionRow.of(scores, pattern) for pattern in (scores.softmax(-1).float(), scores.softmax(-1)))
    assert bool((scores.softmax(-1).float().max(-1).values == 1).any())
    expected = exact.shares(delta) * exact.against(gradient)
    torch.testing.assert_close(found.shares(delta) * found.against(gradient), expected, rtol=0, atol=1e-8)


# --------------------------------------------------------------------------------------------------- against patching


def affine(model: Model, layer: int) -> list[str]:
    """What is held so that a metric linear in the logits is affine in the heads' outputs of a layer."""
    layers = model.sizes["layer"]
    later = [f"L{i}.pattern" for i in range(layer + 1, layers)]
    return ["ln_scale", *(site for i in range(layers) if model.has(Site.parse(site := f"L{i}.mlp_out"))), *later]


def spans(name: str, layer: int) -> dict[str, Any]:
    """Single tokens, roles of several, and all of them; by head and all heads."""
    return {
        "tokens": grid(name, layer=[layer], head=..., position=[1, -2, -1]),
        "roles": grid(name, layer=[layer], head=..., position=["subject", "end"]),
        "all": grid(name, layer=[layer], head=...),
        "heads": grid(name, layer=[layer], position=[-1, -2]),
    }


@pytest.mark.parametrize("name", ["q", "k"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "mistral", "qwen3", "bloom", "zoo", "gemma2"])
def test_query_and_key_fix_are_exact_where_what_follows_is_affine(kind: str, name: str, double: None, seed: int) -> None:
    """Card 5, test 2, on real architectures: rotary, grouped heads, parallel blocks, windows, soft caps, norms of queries."""
    model, pairs = in_double(kind), sweeps.random_pairs(seed, [6, 6, 6], early=True)
    metric = third if kind != "gemma2" else capped(model)
    for layer, patching in ((2, "denoising"), (1, "noising")):
        where, hold = spans(name, layer), affine(model, layer)
        exact = patch(model, pairs, where, metric, patching=patching, hold=hold)
        found = atp_star(model, pairs, where, metric, patching=patching, hold=hold, method="atp+qk")
        plain = attribute(model, pairs, where, metric, patching=patching, hold=hold)
        for cells in where:
            expected = moved(exact[cells])
            small = 1e-6 if kind == "gemma2" else 1e-9  # its norms compute in float32
            close = {"rtol": 0, "atol": small * (1 + abs(expected).max())}
            np.testing.assert_allclose(moved(found[cells]), expected, err_msg=cells, **close)
            np.testing.assert_allclose(score(found[cells]), abs(moved(found[cells])), **close)
        assert abs(moved(plain["all"]) - moved(exact["all"])).max() > 1e-4, "there was something to repair"


def third(logits: Tensor) -> Tensor:
    """Linear in the logits."""
    return logits[..., 3] - 2 * logits[..., 5]


def capped(model: Model) -> Any:
    """Linear in what the cap of the logits is taken of."""
    cap = model.module.config.final_logit_softcapping
    return lambda logits: third(cap * (logits / cap).atanh())


def test_heads_behind_one_norm_are_followed_one_by_one(double: None, seed: int) -> None:
    """OLMo 2 divides queries and keys by the norm of all heads together, so that one head's move the others' scores."""
    model, pairs = load(architectures.build("olmo2", seed).double()), sweeps.random_pairs(seed, [6, 6], early=True)
    where = {name: grid(name, layer=[2], head=...) for name in ("q", "k")}
    # A head's query moves the rows of all heads; what is followed is its own head's.
    together = atp_star(model, pairs, where, third, hold=affine(model, 2), method="atp+qk")
    for name in where:
        for head in range(2):
            alone = grid(name, layer=[2], head=[head])
            single = atp_star(model, pairs, alone, third, hold=affine(model, 2), method="atp+qk")
            np.testing.assert_allclose(moved(together[name])[:, :, [head]], moved(single), rtol=0, atol=1e-9)


def test_any_source_and_edit_is_followed(double: None, seed: int) -> None:
    """Cells that share coordinates and write different values are made in different runs."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 6, 6], early=True)
    cells = [
        Intervention.of("L2H1.q", source=Constant(0.3)), Intervention.of("L2H1.q", edit=Interpolate(0.5)),
        Intervention.of("L2.q@-1"), Intervention.of("L2H1.k@2", source=Constant(-0.5)), Intervention.of("L2H1.k@subject"),
        Intervention.of("L2H1.k@2", edit=Interpolate(2.0)),
    ]  # fmt: skip
    exact = patch(model, pairs, cells, third, hold=affine(model, 2))
    found = atp_star(model, pairs, cells, third, hold=affine(model, 2), method="atp+qk")
    np.testing.assert_allclose(moved(found), moved(exact), rtol=0, atol=1e-9 * (1 + abs(moved(exact)).max()))
    together = [Intervention.of("L2H0.q", "L2H1.k", "L1.mlp_out"), Intervention.of("L2H0.q"), Intervention.of("L2H1.k")]
    parts = moved(atp_star(model, pairs, [*together, Intervention.of("L1.mlp_out")], third, method="atp+qk"))
    np.testing.assert_allclose(parts[:, 0], parts[:, 1:].sum(1), rtol=0, atol=1e-9 * (1 + abs(parts).max()))


def test_cross_attention_is_followed_too(double: None, seed: int) -> None:
    model = load(architectures.build("t5", seed).double(), name="t5")
    ids = [(3, 9, 14, 22, 8, 5), (3, 9, 33, 22, 8, 6)]
    pairs = Pairs((Pair(Prompt(ids[0]), Prompt(ids[1]), (7,), (8,)),))
    last = model.sizes["layer"] - 1
    hold = ["ln_scale", f"L{last}.mlp_out"]
    where = {"q": grid("cross_q", layer=[last], head=...), "k": grid("cross_k", layer=[last], head=...)}
    exact = patch(model, pairs, where, third, hold=hold)
    found = atp_star(model, pairs, where, third, hold=hold, method="atp+qk")
    for name in where:
        np.testing.assert_allclose(moved(found[name]), moved(exact[name]), rtol=0, atol=1e-9, err_msg=name)
    assert abs(moved(exact["k"])).max() > 1e-5


@pytest.mark.parametrize("patching", ["noising", "denoising"])
def test_saturated_softmax_is_repaired(patching: Any) -> None:
    """N-sat (card 4, test 6, and card 5, test 3): noising the query moves p from above 1 − 1e-6 to uniform, an effect of −1;
    its slope is below 1e-5. The logits are linear in the pattern, so the fix is exact.
    """
    model, pairs = nets.saturated(), nets.saturated_pairs()
    where = grid("q", layer=[0], head=..., position=-1)
    exact = moved(patch(model, pairs, where, patching=patching))
    assert abs(abs(exact) - 1).max() < 1e-6
    found = {method: atp_star(model, pairs, where, method=method, patching=patching) for method in METHODS}
    for method in ("atp+qk", "atp*"):
        np.testing.assert_allclose(moved(found[method]), exact, rtol=0, atol=1e-12)
        np.testing.assert_allclose(score(found[method]), abs(exact), rtol=0, atol=1e-12)  # L − 1 = 1 drop leaves it as it is
    if patching == "noising":
        assert abs(moved(found["atp"])).max() <= 1e-5
        assert abs(moved(attribute(model, pairs, where, patching=patching))).max() <= 1e-5
        assert score(found["atp+gd"]).max() <= 1e-5


# ------------------------------------------------------------------------------------------------------------ GradDrop


def test_cancelled_direct_effect_is_found() -> None:
    """N-cancel (card 4, test 6, and card 5, test 4): L = 3 layers, of which the second takes back what the first says.

    AtP of the first is 0 although its direct effect, with the second held, is d; the drops give (0, d, 0), so the score is d/2.
    """
    model, pairs = nets.cancelling(), nets.cancelling_pairs()
    where = grid("mlp_out", layer=...)
    direct = moved(patch(model, pairs, where, patching="noising", hold="L1.mlp_out"))
    np.testing.assert_allclose(direct[0, 0], -nets.DIRECT)
    np.testing.assert_allclose(moved(patch(model, pairs, where, patching="noising"))[0, 0], 0.0, atol=1e-12)
    for method in ("atp+gd", "atp*"):
        found = atp_star(model, pairs, where, method=method, patching="noising")
        np.testing.assert_allclose(moved(found)[0, 0], 0.0, atol=1e-12)
        np.testing.assert_allclose(score(found)[0, :, 0], [nets.DIRECT / 2, nets.DIRECT, 0.0], atol=1e-12)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma2", "bloom"])
def test_graddrop_is_its_definition(kind: str, seed: int) -> None:
    """Card 5, tests 6 and 7: one retained graph gives what a backward pass of its own for every layer gives, in which what the
    layer adds is held, so that no gradient leads through it; inside the dropped layer a node counts 0.
    """
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(seed, [5, 5, 5], early=True)
    layers = model.sizes["layer"]
    where = {"z": grid("z", head=...), "mlp": grid("mlp_post", unit=[0, 7]), "stream": grid("resid_pre", position=...)}
    found = atp_star(model, pairs, where, ["logit_diff", "logprob"], method="atp+gd")
    assert (
        not moved(found["z"]).any()
        or abs(moved(found["z"]) - moved(attribute(model, pairs, where["z"], ["logit_diff", "logprob"]))).max() <= 1e-12
    )
    total: dict[str, Any] = dict.fromkeys(where, 0.0)
    for dropped in range(layers):
        hold = [Site(name, layer=dropped) for name in ADDED if model.has(Site(name, layer=dropped))]
        for name, cells in where.items():
            outside = [layer for layer in range(layers) if layer != dropped or name == "stream"]
            swept = {axis: values for axis, values in dict(cells.swept).items() if axis != "layer"}
            swept = {axis: ... if values is None else list(values) for axis, values in swept.items()}
            own = moved(attribute(model, pairs, grid(cells.site, layer=outside, **swept), ["logit_diff", "logprob"], hold=hold))
            full = np.zeros((len(own), layers, *own.shape[2:]))
            full[:, outside] = abs(own)
            total[name] = total[name] + full
    for name in where:
        expected = total[name] / (layers if name == "stream" else layers - 1)
        np.testing.assert_allclose(score(found[name]), expected, rtol=0, atol=1e-10 * (1 + expected.max()), err_msg=name)
        assert (score(found[name]) >= 0).all()


def test_without_cancellation_the_score_is_the_size_of_the_slope() -> None:
    """Card 5, test 5: the idle layers of N-sat and N-cancel change nothing, so every drop but a node's own gives the same."""
    model, pairs = nets.cancelling(), nets.cancelling_pairs()
    where = grid("mlp_out", layer=[1, 2])
    found = atp_star(model, pairs, where, patching="noising")
    np.testing.assert_allclose(score(found), abs(moved(found)), atol=1e-12)
    assert abs(moved(found)).max() == pytest.approx(nets.DIRECT)
    model, pairs = nets.saturated(), nets.saturated_pairs()
    for name in ("z", "v", "q", "k"):
        found = atp_star(model, pairs, grid(name, layer=[0], head=...))
        np.testing.assert_allclose(score(found), abs(moved(found)), atol=1e-12, err_msg=name)


def test_drops_are_of_every_layer_that_adds_something(seed: int) -> None:
    """As many backward passes as layers and one, and one forward pass besides the source's and those of queries and keys."""
    model = load(sweeps.MAKERS["gpt2"](seed))
    pairs = sweeps.random_pairs(seed, [5, 5])
    passes: list[str] = []
    block: Any = model.module.transformer.h[1]  # type: ignore[union-attr]
    block.register_forward_hook(lambda *a: passes.append("forward"))
    block.register_full_backward_hook(lambda *a: passes.append("backward"))
    atp_star(model, pairs, grid("z", head=...))
    assert (passes.count("forward"), passes.count("backward")) == (2, 1 + 3)


# --------------------------------------------------------------------------------------------------------- the surface


def test_method_atp_is_attribution_patching(seed: int) -> None:
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5, 6, 4])
    where = {"q": grid("q", head=...), "z": grid("z", head=..., position=["subject", -1])}
    metrics = ["logit_diff", "prob"]
    found = atp_star(model, pairs, where, metrics, method="atp")
    expected = attribute(model, pairs, where, metrics)
    for name in where:
        np.testing.assert_array_equal(found[name]["value"], expected[name]["value"])
        np.testing.assert_allclose(score(found[name]), abs(moved(expected[name])), rtol=0, atol=1e-12)
        assert (found[name].attrs["method"], found[name].attrs["estimate"]) == ("atp_star", "atp")
        effects.validate(found[name].to_dataset())


def test_only_queries_and_keys_are_fixed(seed: int) -> None:
    model, pairs = sweeps.model("gemma2"), sweeps.random_pairs(seed, [5, 6, 4])
    where = {name: grid(name, head=...) for name in ("q", "k", "v", "z")} | {"mlp": grid("mlp_out")}
    plain, fixed = (atp_star(model, pairs, where, method=method) for method in ("atp", "atp+qk"))
    for name in where:
        same = np.allclose(plain[name]["value"], fixed[name]["value"], atol=1e-4)
        assert same == (name not in ("q", "k")), name


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "mistral"])
def test_batches_padding_and_rules(kind: str, seed: int) -> None:
    """Prompts of different lengths, together and apart; what is known by rule is the base to the bit, with a score of 0."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [5, 7, 4])
    where = {
        "q": grid("q", head=..., position=[0, -1]),
        "k": grid("k", head=...),
        "stream": grid("resid_post", position=[0, -1]),
    }
    every, some = (atp_star(model, pairs, where, rows=rows) for rows in (None, 1))
    for name in where:
        most = abs(every[name]["value"].values).max() + score(every[name]).max()
        np.testing.assert_allclose(some[name]["value"], every[name]["value"], atol=1e-4 * (1 + most))
        np.testing.assert_allclose(score(some[name]), score(every[name]), atol=1e-4 * (1 + most))
        rule = every[name]["by_rule"].values
        assert not moved(every[name])[0][rule].any()
        assert not score(every[name])[0][rule].any()
    assert every["stream"]["by_rule"].any()


@pytest.mark.parametrize("architecture", ["falcon", "deepseek-v3", "gpt-oss", "qwen3-next", "mamba", "jamba", "bart", "bert"])
def test_any_architecture_is_scored(architecture: str) -> None:
    """Multi-query, latent keys, sinks, gates, mixers, two stacks; layers that lack a site are absent, not wrong."""
    model = architectures.loaded(architecture)
    prompts = [Prompt((3, 9, token, 22, 8, 5)) for token in (14, 33)]
    pairs = Pairs((Pair(*prompts, (7,), (8,)), Pair(*prompts[::-1], (8,), (7,))))
    names = [name for name in ("q", "k", "z", "mlp_out", "mixer_out", "cross_k") if any(s.name == name for s in model.sites())]
    there = {s.name for s in model.sites() if s.stream == "main"}
    found = atp_star(model, pairs, {name: grid(name) for name in names if name in there})
    for name, one in found.items():
        known = one["value"].notnull().values
        assert known.any(), name
        assert (one["score"].notnull().values == known).all()
        assert (score(one)[known] >= 0).all()
    assert max(np.nanmax(score(one)) for one in found.values()) > 0


def test_sinks_take_their_share(seed: int) -> None:
    """GPT-OSS: rows of the pattern sum to less than 1."""
    model, pairs = load(architectures.build("gpt-oss", seed)), sweeps.random_pairs(seed, [6, 6], early=True)
    last = model.sizes["layer"] - 1
    for name in ("q", "k"):
        where = spans(name, last)
        exact = patch(model, pairs, where, third, hold=affine(model, last))
        found = atp_star(model, pairs, where, third, hold=affine(model, last), method="atp+qk")
        for cells in where:
            np.testing.assert_allclose(moved(found[cells]), moved(exact[cells]), rtol=0, atol=1e-4, err_msg=f"{name} {cells}")


def test_a_run_is_kept_drawn_and_made_again(tmp_path: Any) -> None:
    model = interp.load("zoo/induction-2l")
    prompts = [(Prompt((5, 9, 7, 5, w)), Prompt((5, 9, 8, 5, 9))) for w in (7, 9)]
    pairs = Pairs(tuple(Pair(clean, corrupted, (9,), (8,)) for clean, corrupted in prompts))
    where = grid("q", head=...)
    first = atp_star(model, pairs, where, store=tmp_path, name="mine")
    assert atp_star(model, pairs, where, store=tmp_path).identical(first)
    atp_star(model, pairs, where, store=tmp_path, method="atp+gd")
    assert len(list(Store(tmp_path))) == 2, "another method is another run"
    assert Store(tmp_path).load("mine")["score"].identical(first["score"])
    assert interp.rerun(Store(tmp_path).run("mine")).worst.largest == 0
    assert interp.views.heatmap(first["score"].sel(metric="logit_diff").mean("example")).data
    assert interp.views.heatmap(first).data
    title = interp.views.heatmap(first, "score", metric="logit_diff").layout.title.text
    assert title.startswith("score of logit_diff, layer by head")
    assert "zoo/induction-2l" in title
    assert len(interp.top(first, 3)) == 3


def test_mistakes_are_named(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    with pytest.raises(UnknownNameError, match=r"unknown method 'atp\+dg'.*did you mean 'atp\+gd'"):
        sweeps.unchecked(atp_star)(model, pairs, grid("z"), method="atp+dg")
    with pytest.raises(InputError, match=r"^method='atp\*' and 'atp\+gd' drop one layer .* is known of 0 layers, and two are"):
        atp_star(load(_Plain().double()), pairs, grid("out:input", position=[-1]))
    gradient = gradients(model, model.encode(pairs), ["L1.z"])
    assert gradient.gradient[Site("z", layer=1)].any(), "gates are gone"


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(97, 8), nn.Linear(8, 97)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.embed(input_ids))


def test_corruption_in_place_of_another_prompt(double: None, seed: int) -> None:
    """Noise on a token: queries and keys of the noisy run are followed as exactly as those of another prompt."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 6], early=True)
    options: dict[str, Any] = {"corruption": Change("embed", "subject", Noise(1.0), Add()), "hold": affine(model, 2)}
    for patching in ("noising", "denoising"):
        for name in ("q", "k"):
            where = grid(name, layer=[2], head=..., position=...)
            exact = patch(model, pairs, where, third, patching=patching, **options)
            found = atp_star(model, pairs, where, third, patching=patching, method="atp+qk", **options)
            np.testing.assert_allclose(moved(found), moved(exact), rtol=0, atol=1e-9 * (1 + abs(moved(exact)).max()))
        checked = verify(model, pairs, where, found, third, top=3, sample=3, **options)
        assert checked.exact.attrs["corruption"] == found.attrs["corruption"]
