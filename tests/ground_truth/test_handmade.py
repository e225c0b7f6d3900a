"""Networks of formulas do what their formulas say; expected numbers are counts and truth tables computed here."""

from __future__ import annotations

import itertools

import pytest
import torch

from interp.models import zoo
from interp.models.zoo.handmade import ROOT, parents_of

TREE = (-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1)
RANDOM = (-1, -1, 0, 2, 1, -1, 3, 6, 0, 5, 2, 9)


def conditional(row: list[int], parents: tuple[int, ...], n_tokens: int, eligible_only: bool = False) -> list[float] | None:
    """#{i: x[parent(i)] = x[last], x[i] = s} / #{…}, counted; None where nothing matches."""
    counts = [0] * n_tokens
    for i in range(len(row) - 1):
        if parents[i] >= 0 and (eligible_only or row[parents[i]] == row[-1]):
            counts[row[i]] += 1
    return [c / sum(counts) for c in counts] if sum(counts) else None


@pytest.mark.parametrize("parents", ["chain", TREE, RANDOM])
@torch.no_grad()
def test_induction_construction_counts(parents: str | tuple[int, ...]) -> None:
    x = zoo.induction_sequences(200, seed=1, parents=parents)
    expected = [conditional(row, parents_of(parents, 12), 5) for row in x.tolist()]
    matched = torch.tensor([e is not None for e in expected])
    truth = torch.tensor([e for e in expected if e is not None], dtype=torch.float64)
    assert 50 < matched.sum() < 200  # both cases occur
    model = zoo.induction_construction(parents=parents)
    for dtype, tolerance in ((torch.float64, 1e-15), (torch.float32, 1e-6)):  # float rounding; exp(-40) is 4e-18
        found = model.to(dtype)(x).logits[:, -1].double()
        torch.testing.assert_close(found[matched], truth, rtol=0, atol=tolerance)
    unmatched = [conditional(row, parents_of(parents, 12), 5, eligible_only=True) for row in x[~matched].tolist()]
    torch.testing.assert_close(found[~matched], torch.tensor(unmatched, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sharpness", "error"), [(20, 1e-7), (10, 2e-3), (5, 0.2)])
@torch.no_grad()
def test_induction_construction_blurs_with_softer_attention(sharpness: float, error: float) -> None:
    """Known largest errors 8e-8, 1e-3 and 8e-2 at sharpness 20, 10, 5 (measured when the card was written), as bounds."""
    x = zoo.induction_sequences(300, seed=2)
    sharp = zoo.induction_construction().double()(x).logits[:, -1]
    soft = zoo.induction_construction(beta=sharpness, gamma=sharpness).double()(x).logits[:, -1]
    matched = torch.tensor([conditional(row, parents_of("chain", 12), 5) is not None for row in x.tolist()])
    worst = (soft - sharp)[matched].abs().max().item()
    assert error / 100 < worst < error


@torch.no_grad()
def test_induction_construction_has_exactly_two_working_heads() -> None:
    """Zeroing a head's output changes nothing for the idle two and the answer for the working two."""
    x = zoo.induction_sequences(100, seed=3)
    model = zoo.induction_construction().double()
    before = model(x).logits
    width = model.config.head_dim
    for layer, head in itertools.product(range(2), range(2)):
        other = zoo.induction_construction().double()
        other.model.layers[layer].self_attn.o_proj.weight[:, head * width : (head + 1) * width] = 0.0
        change = (other(x).logits - before).abs().max().item()
        assert (change > 0.1) if (layer, head) in zoo.INDUCTION_HEADS else (change == 0.0)
        moved = zoo.induction_construction().double()
        moved.model.layers[layer].self_attn.q_proj.weight[head * width : (head + 1) * width] *= -1.0
        change = (moved(x).logits - before).abs().max().item()
        assert (change > 0.1) if (layer, head) in zoo.INDUCTION_HEADS else (change == 0.0)


@torch.no_grad()
def test_without_the_first_head_the_answer_is_uniform_over_eligible_positions() -> None:
    """Card 12: ablating layer 1 leaves nothing to match; then every position with a parent counts the same."""
    x = zoo.induction_sequences(50, seed=4)
    model = zoo.induction_construction().double()
    (layer, head), width = zoo.INDUCTION_HEADS[0], model.config.head_dim
    model.model.layers[layer].self_attn.o_proj.weight[:, head * width : (head + 1) * width] = 0.0
    expected = [conditional(row, parents_of("chain", 12), 5, eligible_only=True) for row in x.tolist()]
    torch.testing.assert_close(model(x).logits[:, -1], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@torch.no_grad()
def test_attention_of_the_two_heads_is_the_parent_and_the_matches() -> None:
    model = zoo.induction_construction(parents=TREE)
    model.set_attn_implementation("eager")
    x = zoo.induction_sequences(20, seed=5, parents=TREE)
    first, second = (model(x, output_attentions=True).attentions[layer][:, head] for layer, head in zoo.INDUCTION_HEADS)
    for i, parent in enumerate(TREE):
        if parent != ROOT:
            torch.testing.assert_close(first[:, i, parent], torch.ones(20))
    for row, tokens in enumerate(x.tolist()):
        matches = [float(p != ROOT and tokens[p] == tokens[-1] and i < 11) for i, p in enumerate(TREE)]
        if sum(matches):
            torch.testing.assert_close(second[row, -1], torch.tensor(matches) / sum(matches))


def test_induction_sequences_follow_their_chain() -> None:
    """With a tiny Dirichlet parameter every row of the matrix is nearly surely one-hot, so a token has one successor.

    A draw is split between two tokens with probability of order alpha = 1e-5; 200 sequences visit at most 1000 rows.
    """
    x = zoo.induction_sequences(200, seed=0, alpha=1e-5)
    followers = [set(itertools.pairwise(row[:-1])) for row in x.tolist()]
    assert all(len({a for a, _ in pairs}) == len(pairs) for pairs in followers)
    assert torch.equal(zoo.induction_sequences(200, seed=0), zoo.induction_sequences(200, seed=0))
    assert not torch.equal(zoo.induction_sequences(200, seed=0), zoo.induction_sequences(200, seed=1))


def test_wrong_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match="the parent of position 2 is 2; expected an earlier position, or -1 for none"):
        zoo.induction_construction(length=3, parents=(-1, 0, 2))
    with pytest.raises(ValueError, match="parents has 2 entries, but length=3"):
        zoo.induction_construction(length=3, parents=(-1, 0))
    with pytest.raises(ValueError, match="expected 'chain' or one parent a position"):
        zoo.induction_construction(parents="ring")
    with pytest.raises(ValueError, match="n_tokens=27: this tokenizer has one letter a token"):
        zoo.induction_tokenizer(27)


def test_induction_tokenizer_adds_nothing() -> None:
    tokenizer = zoo.induction_tokenizer(5)
    assert tokenizer("a b e a")["input_ids"] == [0, 1, 4, 0]
    assert tokenizer.decode([0, 1, 4, 0]) == "a b e a"
    assert len(tokenizer) == 5


def every_input(m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All combinations of four entities, and their label by definition."""
    entities = list(itertools.product((-1.0, 1.0), repeat=m))
    rows = list(itertools.product(entities, repeat=4))
    return torch.tensor(rows).flatten(1), torch.tensor([(w == x) == (y == z) for w, x, y, z in rows])


@pytest.mark.parametrize("m", [1, 2, 3])
@torch.no_grad()
def test_hierarchical_equality_is_right_on_every_input(m: int) -> None:
    inputs, label = every_input(m)
    score = zoo.hierarchical_equality(m)(inputs)
    assert torch.equal(score.argmax(-1).bool(), label)
    assert torch.equal(score.abs(), torch.ones_like(score))  # whole numbers: exact in float32
    assert torch.equal(score[:, 0], -score[:, 1])


@torch.no_grad()
def test_hierarchical_equality_interchanges_exactly() -> None:
    """Swapping the planted units, or the planted direction, changes the label as the causal model says; IIA is 1 (card 1)."""
    net = zoo.hierarchical_equality(4, dtype=torch.float64)
    base, source = net.rows(2000, 0), net.rows(2000, 1)
    hidden = [net.hidden(net.act1(net.first(rows.inputs))) for rows in (base, source)]
    rest = torch.nn.Sequential(net.second, net.act2, net.third, net.act3, net.readout)
    u_p, u_q = net.planted()
    for pair, (units, u) in enumerate(((slice(0, 8), u_p), (slice(8, 16), u_q))):
        equal = base.equal.clone()
        equal[:, pair] = source.equal[:, pair]
        label = equal[:, 0] == equal[:, 1]
        swapped = hidden[0].clone()
        swapped[:, units] = hidden[1][:, units]
        assert torch.equal(rest(swapped).argmax(-1).bool(), label)
        direction = u / u.norm()
        along = hidden[0] + ((hidden[1] - hidden[0]) @ direction)[:, None] * direction
        assert torch.equal(rest(along).argmax(-1).bool(), label)
        everything = (rest(hidden[1]).argmax(-1).bool() == label).double().mean().item()
        nothing = (rest(hidden[0]).argmax(-1).bool() == label).double().mean().item()
        assert abs(everything - 0.5) < 0.05  # 4 standard errors of 2000 fair coins; .50 in card 1
        assert abs(nothing - 0.5) < 0.05
    # the planted functional is the distance of the pair
    x = base.inputs.unflatten(1, (4, 4))
    torch.testing.assert_close(hidden[0] @ u_p, (x[:, 0] - x[:, 1]).abs().sum(-1))
    torch.testing.assert_close(hidden[0] @ u_q, (x[:, 2] - x[:, 3]).abs().sum(-1))


@torch.no_grad()
def test_rotated_equality_is_the_same_function_with_another_basis() -> None:
    net = zoo.hierarchical_equality(4, dtype=torch.float64)
    turned = net.rotated(seed=7)
    rows = net.rows(500, 2)
    torch.testing.assert_close(turned(rows.inputs), net(rows.inputs), rtol=0, atol=1e-12)
    q = turned.hidden.weight
    torch.testing.assert_close(q @ q.T, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (q.abs() > 0.01).double().mean() > 0.8  # no unit is left alone
    assert not torch.equal(q, net.rotated(seed=8).hidden.weight)


def test_rows_are_balanced_and_labelled_by_their_entities() -> None:
    rows = zoo.hierarchical_equality(4).rows(4000, 3)
    w, x, y, z = rows.inputs.unflatten(1, (4, 4)).unbind(1)
    assert torch.equal((w == x).all(-1), rows.equal[:, 0])
    assert torch.equal((y == z).all(-1), rows.equal[:, 1])
    assert torch.equal(rows.label, rows.equal[:, 0] == rows.equal[:, 1])
    assert (rows.equal.double().mean(0) - 0.5).abs().max() < 0.04  # 5 standard errors
    assert rows.inputs.abs().unique().tolist() == [1.0]
