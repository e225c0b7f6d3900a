"""All for One: context-aware mean ablation, attention-based peeking, and the search (methods/localise.md, card 8)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import anything
import nets_all_for_one as nets
import numpy as np
import pytest
import sweeps
import tiny
import torch

from interp import views
from interp.engine import patch, run
from interp.errors import HeadOutOfRangeError, InputError, UnequalLengthsError, UnknownSiteError
from interp.interventions import Activation, Change, Intervention, attention_knockout, cama, peeking
from interp.methods.localise.all_for_one import all_for_one, faithfulness, pruned_heads, subgraph
from interp.metrics import FromLogits
from interp.models import Model, load
from interp.prompts import Pair, Pairs

KINDS = ("gpt2", "llama", "neox", "gemma2")
FIRST = FromLogits(lambda logits: logits[..., 0], name="first")
PROMPTS = [(1, a, 5, b, 7) for a, b in itertools.product((2, 3, 4), (6, 8, 9))]
EXACT = 1e-7
"""Of float64 models, of which some take the softmax in float32."""
BLOCKS, BLOCK = 4, 2


def same_but_one(prompts: list[tuple[int, ...]] = PROMPTS) -> Pairs:
    """Each prompt beside itself, with answers that are never read."""
    return Pairs(tuple(Pair(prompt, prompt, (3,), (4,)) for prompt in prompts))


def answered(model: Model, prompts: list[tuple[int, ...]] = PROMPTS) -> Pairs:
    """Prompts with what the model says to them."""
    says = run(model, [list(prompt) for prompt in prompts], logits="last").logits[:, -1].argmax(-1).tolist()
    return Pairs(tuple(Pair(prompt, prompt, (one,), ((one + 1) % 90,)) for prompt, one in zip(prompts, says, strict=True)))


def values(model: Model, what: Intervention, **options: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first logit of every prompt with an intervention, and without it."""
    found = patch(model, same_but_one(), what, FIRST, patching="noising", **options)
    return found["value"].values[0, 0], found["given" if options.get("given") is not None else "clean"].values[0]


def adding(dtype: torch.dtype = torch.float32) -> Model:
    return load(nets.adding_net(BLOCKS, BLOCK).to(dtype), name="adding")


# the ground truths of the card


@pytest.mark.parametrize("kind", KINDS)
def test_1_means_change_nothing_where_attention_below_is_to_oneself_alone(kind: str) -> None:
    """A state is then a function of its token and place (and of BOS, which all share), and equals its conditional mean."""
    model = sweeps.model(kind, torch.float64)
    for bos in (0, None):
        found, base = values(model, cama(2), given=peeking([], [0, 1], bos=bos))
        np.testing.assert_allclose(found, base, rtol=0, atol=EXACT)
    found, base = values(model, cama(3), given=peeking([], [0, 1]))
    assert abs(found - base).max() > 1e-3, "block 2 mixes tokens"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, EXACT), (torch.float32, 2e-3)])
def test_2_means_at_the_embedding_change_nothing(kind: str, dtype: torch.dtype, atol: float) -> None:
    """Float32: 1e-4 × (1 + max |logit|), the card's T2, with logits of up to 16."""
    found, base = values(sweeps.model(kind, dtype), cama(0, spared=None))
    np.testing.assert_allclose(found, base, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_3_the_first_token_behind_bos_keeps_its_state(kind: str) -> None:
    """A causal model knows nothing there but BOS and the token itself; behind it, it does."""
    model = sweeps.model(kind, torch.float64)
    found, base = values(model, cama(2, spared=(0, 2, 3, 4)))
    np.testing.assert_allclose(found, base, rtol=0, atol=EXACT)
    found, base = values(model, cama(2, spared=(0, 1, 2, 4)))
    assert abs(found - base).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_4_a_mask_that_hides_nothing_and_one_that_hides_all_but_bos_and_self(kind: str) -> None:
    """To the bit, in passes of one shape. Hidden from each other in every block, prompts with one last token say the same."""
    model, prompts = sweeps.model(kind), [list(prompt) for prompt in PROMPTS[:8]]
    eager = {"capture": "L0.pattern", "logits": "last"}
    plain, nothing, everything = (
        run(model, prompts, what, **eager).logits for what in (None, peeking([], range(3), bos=range(5)), peeking([], range(3)))
    )
    assert torch.equal(nothing, plain)
    assert torch.equal(everything, everything[:1].expand_as(everything))
    assert float((plain - plain[:1])[1:].abs().amax((1, 2)).min()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_5_the_planted_net_adds_where_its_block_transfers_and_nowhere_else(dtype: torch.dtype) -> None:
    """Accuracy is 1 where waits ≤ k < waits + transfers, k the index of the block that adds.

    Where operands are hidden in it, the answer is always 0, right in 1 of 16; where it waits, the mean 3, right in 4 of 16.
    """
    found = all_for_one(adding(dtype), nets.every_sum(), ["top1", "accuracy"], waits=range(BLOCKS + 1), bos=True)
    assert found["value"].dims == ("metric", "layer", "window", "example")
    accuracy = found["value"].mean("example").sel(metric="top1")
    for waits, transfers in itertools.product(range(BLOCKS + 1), range(BLOCKS + 1)):
        value = float(accuracy.sel(layer=waits, window=transfers))
        if waits + transfers > BLOCKS:
            assert np.isnan(value)
            assert bool(found["absent"].sel(layer=waits, window=transfers))
        else:
            assert value == (4 / 16 if waits > BLOCK else 1.0 if waits + transfers > BLOCK else 1 / 16)
    told = found.attrs["all_for_one"]
    assert (told["kept"], told["of"]) == (16, 16)
    assert told["contexts"] == {"prompts": 16, "least": 4, "median": 16.0, "alone": 0.0}
    np.testing.assert_array_equal(faithfulness(found).sel(metric="top1"), accuracy)


def test_5_the_search_finds_the_planted_block() -> None:
    found = subgraph(adding(), nets.every_sum(), bos=True)
    assert (found.waits, found.transfers, found.faithfulness) == (BLOCK, 1, 1.0)
    assert repr(found) == "Subgraph(waits=2, transfers=1: blocks 0 to 1 wait, 2 to 2 transfer; faithfulness 1.00 in 16 of 16)"
    assert found.by_waits["value"].mean("example").values[0].tolist() == [1, 1, 1, 4 / 16]
    assert found.by_transfers["value"].mean("example").values[0].tolist() == [1 / 16, 1, 1]
    assert found.within is not None
    assert found.within["given"].mean("example").values.tolist() == [1.0], "sufficient"
    assert found.within["value"].mean("example").values.tolist() == [[1 / 16]], "necessary"
    assert found.within["layer"].values.tolist() == [BLOCK]
    assert found.single["value"].mean("example").values[0].tolist() == [1, 1, 1 / 16, 1]
    assert found.single.attrs["in_sample"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_takes_the_most_that_wait_and_the_fewest_that_transfer(kind: str) -> None:
    """Both are read off the map; random models do not fall monotonically."""
    model = sweeps.model(kind)
    pairs = answered(model)
    share = all_for_one(model, pairs, bos=True)["value"].mean("example").values[0]
    full = [share[w, 3 - w] for w in range(3)]
    threshold = float(max(full)) - 1e-6
    found = subgraph(model, pairs, threshold=threshold, bos=True)
    assert found.waits == max(w for w in range(3) if full[w] >= threshold)
    assert found.transfers == min(t for t in range(4 - found.waits) if share[found.waits, t] >= threshold)
    assert found.by_waits["value"].mean("example").values[0].tolist() == full


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_6_the_mean_over_a_finite_template_and_an_estimate_of_it(kind: str, seed: int) -> None:
    """Root mean squares over positions and units: the error of a sample's mean is below 3 standard errors."""
    model, site = sweeps.model(kind, torch.float64), "L1.resid_post"
    every = [(1, a, 5, b, 7) for a in range(10, 34) for b in (2, 3)]
    h = run(model, [list(prompt) for prompt in every], capture=site, logits="none")[site]
    alike = torch.tensor([prompt[3] == 2 for prompt in every])
    expected, spread = h[alike, 3].mean(0), h[alike, 3].std(0)

    def at_operand(prompts: list[tuple[int, ...]]) -> torch.Tensor:
        return run(model, [[1, 20, 5, 2, 7]], cama(2, prompts=prompts), capture=site, logits="none")[site][0, 3]

    torch.testing.assert_close(at_operand(every), expected, rtol=0, atol=1e-6)
    drawn = torch.randint(0, 24, (96,), generator=torch.Generator().manual_seed(seed)).tolist()
    estimate = at_operand([(1, 10 + a, 5, 2, 7) for a in drawn])
    error = (estimate - expected).square().mean().sqrt()
    assert 0 < float(error) < 3 * float(spread.square().mean().sqrt()) / 96**0.5
    plain = Change(site, 3, Activation(every, pool="mean", over=("example",), positions=3))
    unconditional = run(model, [[1, 20, 5, 2, 7]], plain, capture=site, logits="none")[site][0, 3]
    assert float((unconditional - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_7_rows_sum_to_one_and_have_two_entries(kind: str) -> None:
    """Gemma-2's windows of 4 hide BOS from the last token in every other layer: then the token itself is left."""
    model = sweeps.model(kind)
    what = peeking([1], [2])
    patterns = run(model, [list(prompt) for prompt in PROMPTS], what, capture=["L0.pattern", "L1.pattern", "L2.pattern"])
    plain = run(model, [list(prompt) for prompt in PROMPTS], capture=["L1.pattern"])
    for layer in range(3):
        sums = patterns[f"L{layer}.pattern"].sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)
    alone = torch.zeros(5, 5, dtype=torch.bool)
    alone[:, 0] = alone.diagonal()[:] = True
    windowed = kind == "gemma2"
    for layer, queries in ((1, 4), (2, 5)):
        shown = patterns[f"L{layer}.pattern"][..., :queries, :] > 0
        expected = alone[:queries].expand_as(shown).clone()
        if windowed and bool((plain["L1.pattern"][..., -1, 0] == 0).all()) and layer == 1:
            expected[..., 4:, 0] = False
        if windowed and layer % 2 == 0:
            expected[..., 4:, 0] = False
        assert torch.equal(shown, expected)
    assert bool((patterns["L1.pattern"][..., -1, 1:4] > 0).all()), "the last token sees the others"


# what else it does


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_in_every_strategy(kind: str) -> None:
    model = sweeps.model(kind)
    contexts = [list(prompt) for prompt in PROMPTS]
    cells = [cama(w, prompts=contexts) & peeking(range(w, w + 1), range(w + 1, 3)) for w in range(3)]
    serial, *others = (
        patch(model, same_but_one(), cells, FIRST, patching="noising", strategy=strategy)["value"]
        for strategy in ("serial", "batched", "wavefront")
    )
    for other in others:
        np.testing.assert_allclose(other, serial, rtol=0, atol=1e-5 * 17)
    found = all_for_one(model, answered(model), [FIRST, "top1"], transfers=[1], bos=True)
    np.testing.assert_allclose(found["value"][0, :, 0], serial[0], rtol=0, atol=1e-5 * 17)


@pytest.mark.parametrize("architecture", ["bloom", "deepseek-v3", "falcon-new", "gpt-neo", "gpt-oss", "llava", "qwen3-moe"])
def test_other_decoders(architecture: str) -> None:
    """Alibi, latent attention, parallel blocks, eager attention of their own, sinks, pictures and experts."""
    model = anything.model(architecture)
    layers = model.sizes["layer"]
    pairs, pattern = answered(model), f"L{layers - 1}.pattern"
    found = all_for_one(model, pairs, FIRST, waits=[1], bos=True)
    rows = run(model, [list(prompt) for prompt in PROMPTS], cama(1) & peeking([], range(1, layers)), capture=pattern)[pattern]
    assert ((rows[..., 1:, :] > 0).sum(-1) <= 2).all()
    own = found["value"][0, 0].values
    assert np.ptp(own[0]) < 1e-4, "the last token alone is left"
    assert np.ptp(own[layers - 1]) > 1e-3


def test_only_prompts_that_are_answered_correctly_are_kept() -> None:
    model, pairs = sweeps.model("llama"), answered(sweeps.model("llama"))
    wrong = Pair(pairs[0].clean, pairs[0].clean, pairs[0].wrong, pairs[0].answers)
    found = all_for_one(model, Pairs((wrong, *pairs.items[1:])), waits=[1], transfers=[2], bos=True)
    assert found.sizes["example"] == len(PROMPTS) - 1
    assert (found.attrs["all_for_one"]["kept"], found.attrs["all_for_one"]["of"]) == (8, 9)
    assert found.attrs["all_for_one"]["contexts"]["prompts"] == 9, "means are over all of them"
    assert bool((found["clean"] == 1).all())


def test_other_prompts_may_be_the_contexts_and_a_mean_over_one_is_told() -> None:
    model, pairs = sweeps.model("llama"), answered(sweeps.model("llama"))
    more = [*PROMPTS, *PROMPTS, *((1, a, 5, b, 7) for a in range(10, 20) for b in (6, 8, 9))]
    found = all_for_one(model, pairs, FIRST, waits=[2], transfers=[1], contexts=more, bos=True)
    assert found.attrs["all_for_one"]["contexts"] == {"prompts": 39, "least": 13, "median": 39.0, "alone": 0.0}
    own = all_for_one(model, pairs, FIRST, waits=[2], transfers=[1], bos=True)
    assert float(abs(found["value"] - own["value"]).max()) > 1e-3
    with pytest.warns(RuntimeWarning, match="in 100% of the prompts some token's mean is over that one prompt alone"):
        alone = all_for_one(model, pairs[:1], FIRST, waits=[2], transfers=[1], bos=True)
    assert alone.attrs["all_for_one"]["contexts"]["alone"] == 1.0


def test_a_map_is_drawn_kept_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adding()
    found = all_for_one(model, nets.every_sum(), bos=True, store=tmp_path / "runs", name="map")
    figure = views.heatmap(found, "value")
    assert figure.layout.xaxis.title.text == "transfers"
    assert figure.layout.yaxis.title.text == "waits"
    assert any(trace.name == "no such site" for trace in figure.data)
    assert "L2 window=1" in str(figure.data[0].text)
    with monkeypatch.context() as patched:
        patched.setattr("interp.engine.stored.Store.begin", None)
        again = all_for_one(model, nets.every_sum(), bos=True, store=tmp_path / "runs")
    np.testing.assert_array_equal(again["value"], found["value"])
    assert again.attrs["all_for_one"] == found.attrs["all_for_one"]


def test_it_is_judged_on_other_prompts() -> None:
    pairs = nets.every_sum()
    some, others = (
        Pairs(tuple(pair for pair in pairs if sum(pair.clean.text[1:4:2]) % 4 in which)) for which in ((0, 1), (2, 3))
    )
    found = subgraph(adding(), some, judged=others, bos=True, threshold=1.0)
    assert (found.waits, found.transfers, found.faithfulness) == (BLOCK, 1, 1.0)
    assert not found.by_transfers.attrs["in_sample"]
    assert not found.single.attrs["in_sample"]


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_ranked_on_some_prompts_and_judged_on_others(kind: str) -> None:
    """Expected: each head's own effect in the subgraph, and masks of as many heads, made by hand."""
    model = sweeps.model(kind)
    pairs = answered(model, [(1, a, 5, b, 7) for a in (2, 3, 4, 10) for b in (6, 8, 9)])
    train, test = (Pairs(pairs.items[k::2]) for k in (0, 1))
    contexts = [list(prompt) for prompt in PROMPTS] + [[1, 10, 5, b, 7] for b in (6, 8, 9)]
    found = pruned_heads(model, train, test, 1, 2, ["logprob", "top1"], contexts=contexts, bos=True)
    assert (found.sizes["cell"], found.attrs["in_sample"]) == (2 * tiny.HEADS, False)
    subgraph_ = cama(1, prompts=contexts) & peeking([1, 2], [])
    heads = list(itertools.product((1, 2), range(tiny.HEADS)))

    def hidden(layer: int, head: int) -> Intervention:
        return attention_knockout(-1, (1, 2, 3), layers=layer, heads=head, renormalise=True)

    alone = patch(model, train, [hidden(*head) for head in heads], "logprob", patching="noising", given=subgraph_)
    order = np.argsort(-alone["value"].mean("example").values[0])
    assert list(zip(found["layer"].values, found["head"].values, strict=True)) == [heads[k] for k in order]
    three = Intervention(tuple(change for k in order[:3] for change in hidden(*heads[k]).changes))
    by_hand = patch(model, test, subgraph_ & three, "logprob", patching="noising")
    np.testing.assert_allclose(found["value"][0, 2], by_hand["value"][0, 0], rtol=0, atol=1e-5 * 17)
    none = patch(model, test, cama(1, prompts=contexts) & peeking([], [1, 2]), "logprob", patching="noising")
    np.testing.assert_allclose(found["value"][0, -1], none["value"][0, 0], rtol=0, atol=1e-5 * 17)


# what is refused


def test_models_that_it_does_not_fit_are_refused() -> None:
    mamba, bert, t5 = (anything.model(kind) for kind in ("mamba", "bert", "t5"))
    with pytest.raises(UnknownSiteError, match=r"blocks of .* have no attention scores, so that tokens cannot be hidden from"):
        all_for_one(mamba, same_but_one())
    with pytest.raises(InputError, match="does not read from left to right"):
        all_for_one(bert, same_but_one())
    with pytest.raises(InputError, match="has cross-attention, through which every token of the decoder sees the encoder's"):
        all_for_one(t5, same_but_one())


def test_prompts_that_it_does_not_fit_are_refused() -> None:
    model = sweeps.model("llama")
    pairs = answered(model)
    with pytest.raises(
        UnequalLengthsError, match=r"prompts and contexts have different lengths \(1 of 4 tokens, 18 of 5 tokens\)"
    ):
        all_for_one(model, pairs, contexts=[*PROMPTS, (1, 2, 3, 4)], bos=True)
    wrong = Pairs(tuple(Pair(pair.clean, pair.clean, pair.wrong, pair.answers) for pair in pairs))
    with pytest.raises(InputError, match=r"answers none of 9 prompts correctly \(to the first, .* take a task that it does"):
        all_for_one(model, wrong, bos=True)


@pytest.mark.parametrize("argument", ["waits", "transfers"])
@pytest.mark.parametrize("wrong", [[], [-1], [4], [1, 1]])
def test_numbers_of_blocks_that_there_are_not_are_refused(argument: str, wrong: list[int]) -> None:
    model = sweeps.model("llama")
    with pytest.raises(HeadOutOfRangeError, match=rf"{argument}=\[.*\]: expected different numbers of blocks from 0 to 3"):
        all_for_one(model, answered(model), bos=True, **{argument: wrong})


def test_one_number_of_blocks_is_as_a_list_of_it() -> None:
    model = sweeps.model("llama")
    one = all_for_one(model, answered(model), bos=True, waits=1, transfers=2)
    many = all_for_one(model, answered(model), bos=True, waits=[1], transfers=[2])
    assert dict(one.sizes) == dict(many.sizes)
    np.testing.assert_array_equal(one["value"], many["value"])
    for wrong in ("12", [1.5]):
        with pytest.raises(InputError, match=r"waits=.*: expected whole numbers of blocks from 0 to 3, such as waits=range"):
            sweeps.unchecked(all_for_one)(model, answered(model), bos=True, waits=wrong)


def test_a_builder_refuses_less_than_no_block() -> None:
    with pytest.raises(HeadOutOfRangeError, match=r"waits=-1: expected how many blocks wait, 0 or more"):
        cama(-1)
    assert repr(cama(0)).startswith("Intervention(L0.resid_pre@all but 0")
    assert repr(cama(2, spared="A")).startswith("Intervention(L1.resid_post@all but A")


def test_a_search_without_anything_faithful_says_why() -> None:
    model = sweeps.model("llama")
    with pytest.raises(
        InputError, match=r"at full transfer the metric is at most 0\.\d\d of .*, where \d blocks wait, below threshold=1"
    ):
        subgraph(model, answered(model), bos=True, threshold=1.0)
    with pytest.raises(InputError, match=r"transfers=0; expected how many blocks transfer, a whole number from 1 on"):
        pruned_heads(model, answered(model), answered(model), 2, 0, bos=True)
    with pytest.raises(HeadOutOfRangeError, match=r"waits=2 and transfers=2: expected 3 blocks in all at most"):
        pruned_heads(model, answered(model), answered(model), 2, 2, bos=True)
    with pytest.raises(InputError, match=r"threshold=0: expected a share of the full model's metric"):
        subgraph(model, answered(model), bos=True, threshold=0)
