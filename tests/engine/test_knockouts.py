"""Rows of attention changed at chosen attended positions, in every strategy, beside fused attention and under eager.

``serial`` runs eager attention, one intervention a pass, token by token. What is independent of the engine: a softmax that is
replaced by hand in transformers' eager code, sums of values by hand, and a mask handed to transformers' own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anything
import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interp.doctor import architectures
from interp.engine import attribute, explain, patch, pieces
from interp.errors import GradientError, OrderError, PositionError, UnknownNameError
from interp.interventions import (
    Activation,
    Add,
    Change,
    Constant,
    Cut,
    Interpolate,
    Intervention,
    Replace,
    Scale,
    attention_knockout,
    mean,
    resample,
)
from interp.metrics import FromLogits
from interp.models import Encoded, Model, Tokens, load
from interp.models.queries import AtQueries
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site, grid

ATOL = 1e-5 * 11  # these models' logits are below 10
FIRST = FromLogits(lambda logits: logits[..., 0], name="first")
BESIDE = "as in the model, changed rows beside it"
EDITS = (Scale(0.0), Scale(0.5), Replace(), Add(0.7), Interpolate(0.3))


def rows_of(kind: str, layers: int = 3) -> list[Intervention]:
    """Changes of scores and patterns at one or two queries and at spans that differ from prompt to prompt."""
    spans = (("end", "subject"), (-1, ...), ("subject", (0, 1)), ((1, -1), -2), (2, "subject[-1]"))
    found = [
        Change(f"L{i % layers}{head}.{name}", query, Constant(0.3), EDITS[i % 5], attended=span)
        for name in ("scores", "pattern")
        for i, (query, span) in enumerate(spans)
        for head in ("", "H3")
    ]
    sets = [Intervention((change,)) for change in found]
    sets += [attention_knockout("end", "subject", layers=range(layers), renormalise=mask) for mask in (False, True)]
    two = attention_knockout("end", 0, layers=1) & attention_knockout(1, 0, layers=1, heads=2)
    return [*sets, two, Intervention((found[0], Change(found[0].site, "end", edit=Scale(2.0), attended=0)))]


@torch.no_grad()
def top(model: Model, tokens: Tokens) -> float:
    """The largest logit of some prompts."""
    logits = Site("logits")
    return float(model.backend.run(model.inputs(tokens), [logits], {})[logits].abs().max())


def same(model: Model, pairs: Any, where: Any, metric: Any = "logit_diff", atol: float | None = None, **options: Any) -> Any:
    """The numbers of ``serial``, which the other strategies give too."""
    serial = patch(model, pairs, where, metric, strategy="serial", **options)
    encoded = pairs if isinstance(pairs, Encoded) else model.encode(pairs)
    atol = 1e-5 * (1 + max(top(model, side) for side in (encoded.clean, encoded.corrupted))) if atol is None else atol
    assert serial.attrs["attention"].startswith("eager")
    for strategy in ("batched", "auto") if model.stack is not None else ("batched",):
        found = patch(model, pairs, where, metric, strategy=strategy, **options)
        expected = BESIDE if not model.beside_refused else f"eager, because {model.beside_refused}"
        assert found.attrs["attention"] == expected or "more than half of a prompt's queries" in found.attrs["attention"]
        np.testing.assert_allclose(found["value"], serial["value"], rtol=0, atol=atol, err_msg=strategy)
        assert max(found.attrs["noise_floor"].values()) <= atol
    return serial


@pytest.mark.parametrize(("kind", "given"), [*((kind, False) for kind in sweeps.MAKERS), ("gpt2", True), ("mistral", True)])
def test_every_strategy_gives_the_numbers_of_eager_attention(kind: str, given: bool, seed: int) -> None:
    """Padded prompts, rows of many cells in one batch, spans of their own, and rows of attention given on the base."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [7, 5, 6])
    base = [
        Change("L1.pattern", (1, -1), edit=Scale(0.4), attended="subject"),
        Change("L0H1.scores", -1, edit=Cut(), attended=0),
    ]
    found = same(model, pairs, rows_of(kind), given=base if given else None)
    moved = np.abs(found["value"] - (found["given"] if given else found["corrupt"])).max("example").squeeze()
    assert int((moved > 1e-3).sum()) > len(moved) * 0.6, "most cells do something"


ELSEWHERE = {*sweeps.MAKERS, "gpt-neox", "gpt-neo", "gpt-j", "blip", "mamba", "resnet", "dcgan"}
"""Architectures that the test above has, that run eager attention anyway, and that have none."""


@pytest.mark.parametrize("architecture", sorted({*architectures.available()} - ELSEWHERE))
def test_every_architecture(architecture: str, seed: int) -> None:
    """The last layer of every stream, cross-attention too."""
    model = anything.model(architecture)
    encoded = model.encode(anything.pairs(model, seed))
    last = {(s.name, s.stream): s for s in model.sites() if s.name.endswith(("pattern", "scores"))}
    edits = {"pattern": Scale(0.0), "scores": Add(1.0)}
    where = [
        Change(site.at(head=head), query, Constant(0.8), edits[site.name.removeprefix("cross_")], attended=span)
        for site in last.values()
        for head, query, span in ((None, -1, 0), (1, (1, -1), (0, 1)), (0, 2, ...))
    ]
    same(model, encoded, where, FIRST)


# against what knows nothing of the engine


def softmaxed(monkeypatch: pytest.MonkeyPatch, module: nn.Module, change: Callable[[int, Tensor, bool], Tensor]) -> Any:
    """transformers' eager attention with its softmax wrapped: ``change(layer, tensor, after)`` before and after it."""
    module.set_attn_implementation("eager")  # type: ignore[operator]
    plain = nn.functional.softmax
    calls: Iterator[int] = iter(range(100))

    def softmax(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = next(calls)
        return change(layer, plain(change(layer, scores, False), *args, **kwargs), True)

    monkeypatch.setattr(nn.functional, "softmax", softmax)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_a_knockout_is_what_a_hand_written_hook_on_eager_attention_does(
    kind: str, renormalise: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prompt at a time, unpadded, through the raw module."""
    pairs = sweeps.random_pairs(seed, [7, 5])
    cells = [attention_knockout("end", "subject", layers=[0, 2], heads=[1, 2], renormalise=renormalise)]
    found = patch(load(sweeps.MAKERS[kind](0)), pairs, cells, FIRST, patching="noising")
    assert found.attrs["attention"] == BESIDE
    for number, pair in enumerate(pairs):
        start, stop = pair.clean.roles["subject"]

        def change(layer: int, tensor: Tensor, after: bool, start: int = start, stop: int = stop) -> Tensor:
            if layer in (0, 2) and after != renormalise:
                tensor = tensor.clone()
                tensor[:, 1:3, -1, start:stop] = -torch.inf if renormalise else 0.0
            return tensor

        module = sweeps.MAKERS[kind](0)
        with torch.no_grad(), monkeypatch.context() as patched:
            softmaxed(patched, module, change)
            expected = module(torch.tensor([pair.clean.text])).logits[0, -1, 0]
        np.testing.assert_allclose(found["value"][0, 0, number], float(expected), atol=ATOL)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_minus_infinity_is_a_mask_handed_to_the_model(kind: str, seed: int) -> None:
    """transformers takes a mask [example, 1, query, key] of its own; every layer and head then lacks what it leaves out."""
    model = sweeps.model(kind)
    n, window = 7, 4 if kind == "mistral" else 100
    ids = torch.randint(0, tiny.VOCAB, (3, n), generator=torch.Generator().manual_seed(seed))
    spans, query = [(5, 6), (4, 6), (3, 5)], 6
    pairs = Pairs(
        tuple(
            Pair(Prompt(tuple(row), {"cut": span}), Prompt(tuple(row), {"cut": span}), (1,), (2,))
            for row, span in zip(ids.tolist(), spans, strict=True)
        )
    )
    distance = torch.arange(n)[:, None] - torch.arange(n)
    mask = ((distance >= 0) & (distance < window)).repeat(3, 1, 1, 1)
    for row, (start, stop) in enumerate(spans):
        mask[row, :, query, start:stop] = False
    with torch.no_grad():
        expected = model.module(ids, attention_mask=torch.where(mask, 0.0, torch.finfo(torch.float32).min)).logits[:, -1, 0]
    cell = attention_knockout(query, "cut", layers=range(3), renormalise=True)
    for strategy in ("serial", "batched", "auto"):
        found = patch(model, pairs, cell, FIRST, strategy=strategy)
        np.testing.assert_allclose(found["value"].squeeze(), expected, atol=ATOL, err_msg=strategy)
    plain = patch(model, pairs, Change("L0.z", 0, edit=Scale(1.0)), FIRST)
    assert float(abs(plain["value"] - found["value"].values).max()) > 1e-2


def test_a_knockout_takes_away_the_weighted_values_and_cards_hold(seed: int) -> None:
    """z' = z − Σ A v over the span; with −∞, z' divided by what is left; rows sum to 1 − mass, or to 1 (card 7, test 4)."""
    model = sweeps.model("llama")
    ids = torch.randint(0, tiny.VOCAB, (2, 6), generator=torch.Generator().manual_seed(seed))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    z, v, pattern, scores = (Site(name, layer=1) for name in ("z", "v", "pattern", "scores"))
    query, span = 4, slice(1, 3)

    def at_span(value: float) -> Callable[[Tensor], Tensor]:
        def change(rows: Tensor) -> Tensor:
            rows[..., span] = value
            return rows

        return change

    where = torch.tensor([query])
    with torch.no_grad():
        with model.prepared([pattern]):
            plain = model.backend.run(inputs, [z, v, pattern], {})
        with model.prepared([pattern], beside=True):
            reads = {z: None, pattern: where}
            zeroed = model.backend.run(inputs, reads, {pattern: AtQueries(where, at_span(0.0))})
            masked = model.backend.run(inputs, reads, {scores: AtQueries(where, at_span(-torch.inf))})
    values = plain[v].repeat_interleave(2, 2)
    taken = torch.einsum("eht,ethd->ehd", plain[pattern][:, :, query, span], values[:, span])
    mass = plain[pattern][:, :, query, span].sum(-1)
    torch.testing.assert_close(zeroed[z][:, query], plain[z][:, query] - taken, atol=1e-5, rtol=0)
    torch.testing.assert_close(zeroed[pattern][:, :, 0].sum(-1), 1 - mass, atol=1e-5, rtol=0)
    torch.testing.assert_close((1 - mass)[..., None] * masked[z][:, query], zeroed[z][:, query], atol=1e-5, rtol=0)
    torch.testing.assert_close(masked[pattern][:, :, 0].sum(-1), torch.ones_like(mass), atol=1e-6, rtol=0)
    others = [p for p in range(6) if p != query]
    fused = model.backend.run(inputs, [z], {})[z]
    assert torch.equal(zeroed[z][:, others], fused[:, others]), "queries that are not written keep their bits"


def test_all_of_a_row_in_zero_mode_leaves_b_o_and_in_mask_mode_raises(seed: int) -> None:
    """Card 7, test 3: attn_out = b_O; a row without anything has no softmax."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    everything = patch(model, pairs, attention_knockout(-1, ..., layers=2), FIRST)
    bias = model.module.transformer.h[2].attn.c_proj.bias.detach()
    replaced = patch(model, pairs, Change("L2.attn_out", -1, Constant(bias)), FIRST)
    np.testing.assert_allclose(everything["value"], replaced["value"], atol=ATOL)
    nothing_left = [
        attention_knockout(-1, ..., layers=2, renormalise=True),
        attention_knockout(0, 0, layers=0, renormalise=True),
        attention_knockout(1, 0, layers=1, heads=2, renormalise=True) & attention_knockout(1, 1, layers=1, renormalise=True),
    ]
    for cell in nothing_left:
        for strategy in ("serial", "batched", "auto"):
            with pytest.raises(PositionError, match=r"leaves nothing to attend to: a row of −∞ has no softmax"):
                patch(model, pairs, cell, FIRST, strategy=strategy)
    later = patch(model, pairs, attention_knockout(1, (2, 3), layers=0, renormalise=True), FIRST)  # masked already
    np.testing.assert_allclose(later["value"][0, 0], later["corrupt"][0], atol=ATOL)


@pytest.mark.parametrize("kind", sweeps.MAKERS)
@pytest.mark.parametrize("query", ["all but -1", ..., "subject"])
def test_a_token_is_left_to_attend_to_itself(kind: str, query: Any, seed: int) -> None:
    """Expected: the same said query by query, each with the others before it; padded prompts, in every strategy."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 6, 5])
    found = same(model, pairs, attention_knockout(query, "all but 0", layers=(0, 2), renormalise=True, own=False))
    assert query == "subject" or float(abs(found["value"] - found["corrupt"]).max()) > 1e-3  # a subject may stand first
    for number, pair in enumerate(pairs):
        tokens = range(len(pair.corrupted.text))
        where = range(*pair.corrupted.roles["subject"]) if query == "subject" else tokens[:-1] if query is not ... else tokens
        each = [attention_knockout(q, list(range(1, q)), layers=(0, 2), renormalise=True) for q in where if q > 1]
        if not each:
            continue
        by_hand = patch(model, pairs[number : number + 1], Intervention(tuple(c for one in each for c in one.changes)))
        np.testing.assert_allclose(found["value"][0, 0, number], by_hand["value"][0, 0, 0], atol=ATOL)


def test_a_gradient_knows_what_a_token_is_left(seed: int) -> None:
    """Of a last token that attends to itself alone, nothing is left to scale: its slope is 0 where ``own`` is left out."""
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 5])
    base = attention_knockout(-1, "all but -1", layers=2, renormalise=True)
    slopes = attribute(
        model,
        pairs,
        [Change("L2.pattern", -1, edit=Scale(0.0), attended=..., own=own) for own in (True, False)],
        FIRST,
        given=base,
    )["value"]
    exact = patch(
        model, pairs, [Change("L2.pattern", -1, edit=Scale(0.0), own=own) for own in (True, False)], FIRST, given=base
    )
    assert float(abs(exact["value"] - exact["given"])[0, 0].min()) > 1e-3
    np.testing.assert_allclose(exact["value"][0, 1], exact["given"][0], atol=ATOL)
    np.testing.assert_allclose(slopes[0, 1], exact["given"][0], atol=ATOL)
    assert float(abs(slopes[0, 0] - exact["given"][0]).min()) > 1e-4


# what is refused, and what is said


def test_changes_of_one_row_meet_where_their_spans_do(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6])
    one, other = (
        Change("L1H0.pattern", -1, Constant(0.2), attended=(0, 1)),
        Change("L1.pattern", -1, edit=Scale(0.5), attended=(2, 3)),
    )
    both = same(model, pairs, [Intervention((one, other)), Intervention((other, one))])
    np.testing.assert_allclose(both["value"][:, 0], both["value"][:, 1], atol=ATOL)
    for cell in (Intervention((one, other)), Intervention((one,)), Intervention((other,))):
        assert float(abs(patch(model, pairs, cell)["value"] - both["corrupt"]).max()) > 1e-4
    overlapping = Change("L1.pattern", -1, edit=Scale(0.5), attended=(1, 2))
    with pytest.raises(OrderError, match="do not commute"):
        patch(model, pairs, Intervention((one, overlapping)))
    same(model, pairs, Intervention((one,)).then(Intervention((overlapping,))))
    roles = [Change("L1.pattern", -1, Constant(0.2), attended=span) for span in ("subject", "end")]
    with pytest.raises(OrderError, match="do not commute"):
        patch(model, pairs, Intervention((roles[0], Change("L1.pattern", "end", Constant(0.1), attended="subject[0]"))))


def test_rows_that_differ_in_their_span_alone_do_not_share_their_beginning(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6])
    later = [Intervention.of(Change("L2.z", -1, edit=Scale(factor))) for factor in (0.5, 1.0)]
    first = [attention_knockout(-1, span, layers=0) for span in ((0, 1), (2, 3, 4))]
    found = same(model, pairs, [one & other for one in first for other in later])
    assert float(abs(found["value"][:, :2] - found["value"].values[:, 2:]).max()) > 1e-4


def test_spans_that_no_prompt_has_are_refused(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 5])
    with pytest.raises(UnknownNameError, match=r"unknown role 'subjet'; did you mean 'subject'\?"):
        patch(model, pairs, attention_knockout("end", "subjet", layers=0))
    with pytest.raises(
        PositionError, match=r"attended position of L0\.pattern 5 is past the end of example 1, which has 5 tokens"
    ):
        patch(model, pairs, attention_knockout("end", 5, layers=0))


def test_explain_and_results_say_how_attention_ran(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6])
    cases: Sequence[tuple[Any, dict[str, Any], str]] = [
        (grid("pattern", layer=..., position=-1), {"edit": Scale(0.0)}, BESIDE),
        (grid("z", layer=..., position=-1), {}, "as in the model"),
        (grid("pattern", layer=..., position=-1), {}, BESIDE),
        (
            grid("pattern", layer=...),
            {"edit": Scale(0.0)},
            "eager, because L1.pattern is changed at more than half of a prompt's queries (all)",
        ),
        (grid("z", layer=...), {"given": Change("L0.scores", -1, edit=Scale(0.5))}, BESIDE),
        (grid("scores", layer=1, position=-1), {"source": resample()}, BESIDE),
        (
            grid("pattern", layer=1, position=-1),
            {"source": mean()},
            "eager, because Activation(source, mean over example) is of",
        ),
    ]
    for where, options, said in cases:
        found = patch(model, pairs, where, **options)
        assert found.attrs["attention"].startswith(said)
        shown = f"note        attention {said}"
        assert (shown in str(explain(model, pairs, where, **options))) == (said != "as in the model")
    span = patch(model, pairs, grid("pattern", layer=..., position=-1, attended="subject"), edit=Scale(0.0))
    whole = patch(model, pairs, grid("pattern", layer=..., position=-1), edit=Scale(0.0))
    assert span.attrs["spec"]["grid"]["attended"] == "subject"
    assert "attended" not in str(whole.attrs["spec"])


def test_first_order_estimates_take_spans_and_refuse_minus_infinity(seed: int) -> None:
    """Gradient times difference at the span alone: the estimate of a whole row is the sum of those of its tokens."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6])
    each = [grid("pattern", layer=..., head=..., position=-1, attended=p) for p in range(6)]
    parts = [attribute(model, pairs, where, edit=Scale(0.0)) for where in each]
    whole = attribute(model, pairs, grid("pattern", layer=..., head=..., position=-1), edit=Scale(0.0))
    total = sum(part["value"] - part["corrupt"] for part in parts)
    np.testing.assert_allclose(total, whole["value"] - whole["corrupt"], atol=1e-5)
    listed = attribute(model, pairs, [Change("L1H2.pattern", -1, edit=Scale(0.0), attended=p) for p in range(6)])
    np.testing.assert_allclose(listed["value"].squeeze(), [part["value"][0, 1, 2] for part in parts], atol=1e-5)
    with pytest.raises(GradientError, match="−∞ has no first-order estimate"):
        attribute(model, pairs, attention_knockout(-1, 0, layers=1, renormalise=True))


def test_values_of_a_run_at_a_span(seed: int) -> None:
    """Patching a row by spans that make up all of it is patching the row."""
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6])
    parts = Intervention.of(*(Change("L1.pattern", -1, attended=span) for span in ((0, 1), (2, 3, 5), 4)))
    for source in (Activation(), Activation("clean"), resample()):
        cells = [Intervention.of(*(Change(c.site, c.positions, source, attended=c.attended) for c in parts.changes))]
        found = patch(model, pairs, [*cells, Change("L1.pattern", -1, source)])
        np.testing.assert_allclose(found["value"][:, 0], found["value"][:, 1], atol=ATOL)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_spread(dtype: torch.dtype, seed: int) -> None:
    """bf16 and fp16 within a few units in the last place of logits near 5, beside and eager."""
    model, pairs = sweeps.model("llama", dtype), sweeps.random_pairs(seed, [7, 5])
    assert model.beside_refused == ""
    cells = [attention_knockout("end", "subject", layers=range(3), renormalise=mask) for mask in (False, True)]
    atol = 5 * 8 * torch.finfo(dtype).eps
    same(model, pairs, cells, FIRST, atol=atol)


# memory


class Largest(TorchDispatchMode):
    """The most numbers of a tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        views = "view" in func.name() or "expand" in func.name() or "as_strided" in func.name()
        for tensor in tree_leaves(found) if not views else ():
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return found


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("strategy", ["batched", "auto"])
def test_nothing_is_as_large_as_all_scores_of_a_head(strategy: Any, renormalise: bool, seed: int) -> None:
    """20 spans of 2,048 positions, one query each, in every layer; eager attention forms a piece of every head."""
    n, piece = 2048, pieces.SIZE["cpu"]
    model = load(tiny.llama(seed, max_position_embeddings=n, num_hidden_layers=2))
    ids = torch.randint(0, tiny.VOCAB, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    pairs = Pairs((Pair(Prompt(tuple(ids)), Prompt((*ids[:-1], (ids[-1] + 1) % tiny.VOCAB)), (5,), (6,)),))
    spans = [tuple(range(start, start + 5)) for start in range(0, 2000, 100)]
    cells = [attention_knockout(-1, span, layers=range(2), renormalise=renormalise) for span in spans]
    with Largest() as largest:
        found = patch(model, pairs, cells, FIRST, strategy=strategy, rows=1)
    assert found.attrs["attention"] == BESIDE
    assert largest.numbers <= piece * n < n * n / 2
    assert float(abs(found["value"] - found["corrupt"]).max()) > 0
    model.beside_refused = "a test asks for eager attention"
    with Largest() as largest:
        patch(model, pairs, cells[:1], FIRST, strategy=strategy, rows=1)
    assert largest.numbers == 4 * piece * n


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen3"])
def test_padding_is_nothing_to_eager_attention_in_float64(kind: str) -> None:
    """Whole patterns of padded prompts: each prompt's numbers are those that it has alone.

    Models that ask for a softmax in float32 would make rows of padding NaN, which every later token then is too.
    """
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(8, [6, 5, 8])
    halved = Change("L1.pattern", edit=Scale(0.5))
    found = patch(model, pairs, halved, patching="noising")
    assert found.attrs["attention"].startswith("eager")
    alone = [patch(model, pairs[n : n + 1], halved, patching="noising")["value"].values for n in range(3)]
    np.testing.assert_allclose(found["value"], np.concatenate(alone, -1), rtol=0, atol=1e-10 if kind == "gpt2" else 1e-6)
