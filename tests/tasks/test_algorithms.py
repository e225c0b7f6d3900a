"""Tasks with causal models: what they draw, say and hold apart. What is true of a row is worked out from its words alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp import tasks
from interp.errors import UnknownNameError
from interp.models.zoo import handmade
from interp.tasks.algorithms.binding import SCHEMAS
from interp.tasks.causal_model import CausalModelError, CausalTask, separating

TASKS: dict[str, Callable[[], CausalTask]] = {
    "equality": tasks.hierarchical_equality,
    "vectors": tasks.equality_of_vectors,
    "and-or": tasks.and_or,
    "prices": tasks.price_tagging,
    "prices in words": lambda: tasks.price_tagging("words"),
    "comparison": tasks.comparison,
    "ioi": tasks.ioi_algorithm,
    **{f"binding {schema}": (lambda schema=schema: tasks.binding(4, schema)) for schema in SCHEMAS},
}

every = pytest.mark.parametrize("name", TASKS)


def hypotheses(task: CausalTask) -> dict[str, Any]:
    return {name: (model, task.variables[name]) for name, model in task.models.items()}


# what holds for every task


@every
def test_rivals_are_one_function(name: str, seed: int) -> None:
    """On a prompt as it is, every algorithm of a task, the false one too, says the same."""
    task = TASKS[name]()
    rows = task.sample["train"](300, np.random.default_rng(seed))
    said = [model.run(rows)[model.output] for model in task.models.values()]
    if task.false is not None:
        said.append(task.false[0].run(rows)[task.false[0].output])
    assert all((one == said[0]).all() for one in said)


@every
def test_the_base_as_source_changes_nothing(name: str, seed: int) -> None:
    task = TASKS[name]()
    rows = task.sample["test"](200, np.random.default_rng(seed))
    for model, variables in hypotheses(task).values():
        own = model.run(rows)
        again = model.interchange(rows, dict.fromkeys(variables, rows))
        assert all(model.variables[v].same(own[v], again[v]).all() for v in own)


@every
def test_pairs_have_a_right_answer_and_wrong_ones(name: str, seed: int) -> None:
    task = TASKS[name]()
    for model in task.models:
        rows = task.counterfactuals(40, seed=seed, model=model)
        assert rows.flip.mean() == 0.5
        pairs = rows.pairs()
        own = [task.answer(value) for value in rows.base_label.tolist()]
        for pair, flip, base in zip(pairs, rows.flip, own, strict=True):
            assert len(pair.answers) == 1
            assert pair.wrong
            assert pair.answers[0] not in pair.wrong
            assert (pair.answers[0] != base) == flip
        assert pairs.made_by is not None
        assert pairs.made_by["hypothesis"] == model
        assert [one.digest for one in (task.counterfactuals(40, seed=seed, model=model).pairs(), pairs)] == [pairs.digest] * 2


@every
def test_held_out_rows_share_no_word(name: str, seed: int) -> None:
    task = TASKS[name]()
    words, templates = [], []
    for part in ("train", "test"):
        pairs = task.plain(300, seed=seed, part=part)
        words.append({word for pair in pairs for word in pair.entities})
        templates.append({pair.template for pair in pairs})
    assert not words[0] & words[1]
    if name in ("comparison", "ioi"):
        assert all(words)
        assert all(templates)
        assert not templates[0] & templates[1]
    with pytest.raises(UnknownNameError, match="part 'validation'"):
        task.plain(3, seed=0, part="validation")


@pytest.mark.parametrize("name", [name for name, make in TASKS.items() if make().false is not None])
def test_a_false_hypothesis_is_no_better_than_chance(name: str, seed: int) -> None:
    """Card 19: half of its labels are the base's, no more are the source's (the full vector's) or those of a true variable."""
    task = TASKS[name]()
    rows = task.falsely(2000, seed=seed)
    assert rows.flip.mean() == 0.5
    true = rows.relabelled(task.model, task.variables[next(iter(task.models))][:1])
    for other in (rows.with_label("source"), true):
        assert float((rows.label == other.label).mean()) < 0.5 + 4 * (0.25 / 2000) ** 0.5  # standard errors


@pytest.mark.parametrize("make", [tasks.hierarchical_equality, tasks.equality_of_vectors])
def test_who_the_first_entity_is_cannot_be_told_by_an_equality(make: Any, seed: int) -> None:
    """Of entities that never meet by chance "unequal" would do: its labels are those of the base with WX set to False."""
    rows = make().falsely(2000, seed=seed)
    error = 4 * (0.25 / 1000) ** 0.5  # standard errors of half of the rows
    unequal = ~(rows.base["y"] == rows.base["z"]).all(-1)
    assert abs(float((rows.label == unequal).mean()) - 0.5) < error
    equal = (rows.base["w"] == rows.base["x"]).all(-1)
    for side in (equal, ~equal):
        assert abs(float(rows.flip[side].mean()) - 0.5) < error
    met = (rows.sources["W"]["w"] == rows.base["x"]).all(-1)
    assert np.array_equal(rows.label, met == ~unequal)


def test_a_task_that_names_none_has_no_false_hypothesis() -> None:
    with pytest.raises(UnknownNameError, match="false hypothesis"):
        tasks.binding().falsely(4, seed=0)


# equality


@pytest.mark.parametrize("m", [1, 2, 4])
def test_the_network_of_formulas_does_equality(m: int, seed: int) -> None:
    """Prompts, answers and order of the entities are those of the hand-built network: accuracy 1."""
    task = tasks.hierarchical_equality(m)
    pairs = task.plain(300, seed=seed)
    x = torch.tensor(np.stack([pair.clean.inputs["x"] for pair in pairs]))
    said = handmade.hierarchical_equality(m)(x).argmax(-1).tolist()
    assert said == [pair.answers[0] for pair in pairs]
    assert set(np.unique(x.numpy()).tolist()) == {-1.0, 1.0}


def test_a_network_that_swaps_the_planted_units_is_right_on_every_row(seed: int) -> None:
    """Bed 1 [C]: units [0, 8) of the source's first layer say WX: 1; the whole layer, or nothing, scored with WX: .50."""
    rows = tasks.hierarchical_equality().counterfactuals(600, ("WX",), seed=seed)
    pairs, net = rows.pairs(), handmade.hierarchical_equality()
    base, source = (
        net.act1(net.first(torch.tensor(np.stack([getattr(pair, side).inputs["x"] for pair in pairs]))))
        for side in ("corrupted", "clean")
    )
    label = torch.tensor([pair.answers[0] for pair in pairs])

    def iia(hidden: torch.Tensor) -> float:
        said = net.readout(net.act3(net.third(net.act2(net.second(net.hidden(hidden)))))).argmax(-1)
        return float((said == label).double().mean())

    assert iia(torch.cat([source[:, :8], base[:, 8:]], 1)) == 1
    assert iia(base) == 0.5
    assert iia(source) == pytest.approx(0.5, abs=0.09)  # 4 standard errors of 600 rows


def test_natural_rows_of_equality_flip_in_half_of_them() -> None:
    """Each pair is equal in half of the rows, so that WX moves, and with it the output, in half: a no-op scores .50 [C]."""
    rows = tasks.hierarchical_equality().counterfactuals(20_000, ("WX",), seed=0, balance="natural")
    assert float(rows.flip.mean()) == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5)
    assert (rows.flip == rows.moved).all()


def test_vectors_are_uniform_and_as_wide_as_asked(seed: int) -> None:
    pairs = tasks.equality_of_vectors(6).plain(200, seed=seed)
    x = np.stack([pair.clean.inputs["x"] for pair in pairs]).reshape(200, 4, 6)
    assert np.abs(x).max() <= 0.5
    assert np.abs(x).max() > 0.45
    equal = [(x[:, i] == x[:, i + 1]).all(-1) for i in (0, 2)]
    assert [int(a == b) for a, b in zip(*equal, strict=True)] == [pair.answers[0] for pair in pairs]


def test_and_or_is_its_formula_by_either_algorithm(seed: int) -> None:
    task = tasks.and_or()
    rows = task.sample["train"](500, np.random.default_rng(seed))
    a, b, c = ((rows[f"u{i}"] == rows[f"v{i}"]).all(-1) for i in (1, 2, 3))
    for model in task.models.values():
        assert (model.run(rows)["O"] == (b & (a | c))).all()
    for variable, expected in (("P", a & b), ("Q", b & c)):
        assert (task.models["and-or-and"].run(rows)[variable] == expected).all()
    assert (task.models["and-or"].run(rows)["D"] == (a | c)).all()
    assert {(bool(x), bool(y), bool(z)) for x, y, z in zip(a, b, c, strict=True)} == {
        (x, y, z) for x in (False, True) for y in (False, True) for z in (False, True)
    }


# prices


def test_bounds_belong_to_the_range_by_every_algorithm() -> None:
    """On the bounds and a cent beside them, where rounding would show: lo ≤ x ≤ hi of whole cents."""
    task = tasks.price_tagging()
    lo, hi = (one.ravel() for one in np.meshgrid(np.arange(5, 300, 7), np.arange(400, 995, 11)))
    for off, inside in ((-1, False), (0, True), (1, True)):
        for bound, sign in ((lo, 1), (hi, -1)):
            rows = {"lo": lo, "hi": hi, "amount": bound + sign * off}
            for name, model in task.models.items():
                assert (model.run(rows)["O"] == inside).all(), name


def test_prices_are_drawn_as_published(seed: int) -> None:
    """Bed 5: widths 2.50 to 7.50, the lower bound from 0.05, the upper to 9.95, the amount 0.01 to 9.99."""
    rows = tasks.price_tagging().sample["train"](20_000, np.random.default_rng(seed))
    width = rows["hi"] - rows["lo"]
    assert (width.min(), width.max()) == (250, 750)
    assert rows["lo"].min() >= 5
    assert rows["hi"].max() <= 995
    assert (rows["amount"].min(), rows["amount"].max()) == (1, 999)


def test_prices_in_words_have_two_decimals(seed: int) -> None:
    task = tasks.price_tagging("words")
    for pair in task.plain(100, seed=seed):
        lo, hi, amount = (float(one) for one in re.findall(r"\d+\.\d\d(?!\d)", pair.clean.text))
        assert pair.answers == ((" Yes",) if lo <= amount <= hi else (" No",))
        assert pair.clean.text[slice(*pair.clean.roles["amount"])] == f"{amount:.2f}"
    with pytest.raises(UnknownNameError, match="form 'number'"):
        inspect.unwrap(tasks.price_tagging)("number")


def test_left_is_the_lower_bound_alone(seed: int) -> None:
    """L of the source with the base's upper bound and amount: by hand, [lo' ≤ x'] and x ≤ hi."""
    rows = tasks.price_tagging().counterfactuals(500, ("L",), seed=seed)
    own, other = rows.base, rows.sources["L"]
    assert (rows.label == ((other["lo"] <= other["amount"]) & (own["amount"] <= own["hi"]))).all()


# words


def test_who_has_more_is_said_by_the_words(seed: int) -> None:
    task = tasks.comparison()
    for part in ("train", "test"):
        for pair in task.plain(100, seed=seed, part=part):
            text, roles = pair.clean.text, pair.clean.roles
            first, second, one, other = (text[slice(*roles[name])] for name in ("first", "second", "one", "other"))
            assert int(one) != int(other)
            assert pair.answers == (f" {first if int(one) > int(other) else second}",)
            assert f" {first if int(one) < int(other) else second}" in pair.wrong, "the other one of its own two"
    low, high = (tasks.comparison(3, 5).sample["train"](500, np.random.default_rng(seed))[key] for key in ("one", "other"))
    assert {*low.tolist(), *high.tolist()} == {3, 4, 5}


def test_who_is_given_something_is_the_name_said_once(seed: int) -> None:
    task = tasks.ioi_algorithm()
    for part in ("train", "test"):
        pairs = task.plain(200, seed=seed, part=part)
        for pair in pairs:
            said = {name: len(re.findall(rf"\b{name}\b", pair.clean.text)) for name in pair.entities}
            assert said[pair.answers[0].strip()] == 1
            assert 2 in said.values()
        again = [pair.clean.roles["IO"] > pair.clean.roles["S1"] for pair in pairs]
        assert 0.3 < np.mean(again) < 0.7


def test_choices_of_a_source_are_those_of_its_prompt_too(seed: int) -> None:
    """Among a base's two people alone an answer to the source would have no rival."""
    for rows in (make().counterfactuals(20, seed=seed) for make in (tasks.comparison, tasks.ioi_algorithm)):
        [source] = rows.sources.values()
        for n, pair in enumerate(rows.with_label("source").pairs()):
            assert {f" {source[name][n]}" for name in ("first", "second")} <= {*pair.answers, *pair.wrong}
    rows = tasks.comparison().counterfactuals(20, seed=seed)
    for n, pair in enumerate(rows.pairs()):
        assert {*pair.answers, *pair.wrong} == {f" {rows.base[name][n]}" for name in ("first", "second")}


def test_order_and_name_come_apart_on_other_people(seed: int) -> None:
    """With the source's order the base's person; with the source's name the source's."""
    rows = tasks.ioi_algorithm().counterfactuals(200, ("F",), seed=seed)
    own, other = rows.base, rows.sources["F"]
    assert (rows.label == np.where(other["again"], own["second"], own["first"])).all()
    assert (rows.relabelled("name", ("G",)).label == np.where(other["again"], other["second"], other["first"])).all()


# binding


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("groups", [2, 5])
def test_a_look_up_solves_binding(schema: str, groups: int, seed: int) -> None:
    """Bed 11: the word that stands nearest behind the first mention of the key that is said twice."""
    task = tasks.binding(groups, schema)
    for part in ("train", "test"):
        pairs = task.plain(60, seed=seed, part=part)
        for pair in pairs:
            text, roles = pair.clean.text, pair.clean.roles
            said = {name: text[slice(*span)] for name, span in roles.items()}
            table = {said[f"key{i}"]: said[f"bound{i}"] for i in range(groups)}
            assert len(table) == groups == len(set(table.values()))
            assert pair.answers == (f" {table[said['asked']]}",)
            assert set(pair.wrong) == {f" {word}" for word in table.values()} - set(pair.answers)
            assert re.search(rf"\b{said['asked']}\b", text[roles["asked"][0] :])
            assert set(pair.entities) >= {*table, *table.values()}
        assert text[0].isupper()
        assert not text.endswith(" ")


def test_groups_are_asked_for_alike_often(seed: int) -> None:
    rows = tasks.binding(5).sample["train"](103, np.random.default_rng(seed))
    at = (np.stack([rows[f"key{i}"] for i in range(5)], -1) == rows["asked"][:, None]).argmax(-1)
    assert sorted(np.bincount(at).tolist()) == [20, 20, 21, 21, 21]


def test_sources_have_the_words_of_their_base_in_other_orders(seed: int) -> None:
    rows = tasks.binding(6).counterfactuals(200, seed=seed)
    moved = 0
    for kind in ("key", "bound"):
        own, other = (np.stack([one[f"{kind}{i}"] for i in range(6)], -1) for one in (rows.base, rows.sources["P"]))
        assert (np.sort(own) == np.sort(other)).all()
        moved += int((own != other).any(-1).sum())
    assert moved > 390  # an order of six is the old one in 1 of 720


def test_mechanisms_say_three_things_where_they_are_held_apart(seed: int) -> None:
    """Bed 11: predictions differ on every row; each worked out from the columns by hand."""
    task = tasks.binding(4, "lies", apart=True)
    rows = task.counterfactuals(300, seed=seed, balance="natural")
    said = {name: rows.relabelled(name, variables).label for name, variables in task.variables.items()}
    source = rows.sources["P"]
    for n in range(300):
        keys, words = ([rows.base[f"{kind}{i}"][n] for i in range(4)] for kind in ("key", "bound"))
        theirs = [source[f"key{i}"][n] for i in range(4)]
        place = theirs.index(source["asked"][n])
        expected = {
            "positional": words[place],
            "lexical": words[keys.index(source["asked"][n])],
            "reflexive": source[f"bound{place}"][n],
        }
        assert {name: labels[n] for name, labels in said.items()} == expected
        assert len({*expected.values(), words[keys.index(rows.base["asked"][n])]}) == 4
    assert rows.flip.all()


def test_rows_that_tell_binding_apart_have_the_sources_of_the_task(seed: int) -> None:
    task = tasks.binding(4)
    rows = separating(hypotheses(task), 90, sample=task.sample["train"], seed=seed, task=task)
    assert len(rows.pairs()) == 90


def test_a_source_of_other_words_has_no_place_in_the_base(seed: int) -> None:
    task = tasks.binding(3)
    base, other = (task.sample[part](5, np.random.default_rng(seed)) for part in ("train", "test"))
    assert len(task.models["positional"].interchange(base, {"P": other})["O"]) == 5
    for name, variable in (("lexical", "K"), ("reflexive", "I")):
        with pytest.raises(CausalModelError, match=r"no group of row 0 has \w+; sources have the words of their base"):
            task.models[name].interchange(base, {variable: other})


def test_binding_that_cannot_be_is_refused() -> None:
    with pytest.raises(CausalModelError, match="groups=1; expected 2 to"):
        tasks.binding(1)
    with pytest.raises(CausalModelError, match="groups=3; expected 4 to"):
        tasks.binding(3, apart=True)
    with pytest.raises(UnknownNameError, match="schema 'hold'"):
        tasks.binding(schema="hold")
