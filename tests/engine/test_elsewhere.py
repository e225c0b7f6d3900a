"""Values from elsewhere – another layer, site, position, prompt, several prompts, another model – against plain torch hooks.

The four uses: Patchscopes (arXiv 2401.06102), function vectors (arXiv 2310.15213), cross-model patching, prepending tests.
Tolerance: 1e-5 × (1 + max |logit|) in float32; these models' logits are below 10.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor

from interp.engine import attribute, generate, patch
from interp.errors import HeadOutOfRangeError, InputError, ShapeMismatchError, UnequalLengthsError, UnknownNameError
from interp.interventions import Activation, Add, Change, Constant, Intervention, Scale
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid

ATOL = 1e-5 * 11
STRATEGIES = ("serial", "batched", "wavefront")
BLOCK = "transformer.h.{}"
CONTEXTS = [(4, 8, 15, 16), (23, 42, 7), (9, 9, 2, 5, 1, 80)]
"""In-context prompts of different length."""
TARGET, OTHER = (3, 1, 4, 1, 5, 9), (2, 7, 1, 8)


def third(logits: Tensor) -> Tensor:
    return logits[..., 3]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


def alone(*prompts: Any) -> Pairs:
    """Prompts without a contrast."""
    return Pairs(tuple(Pair(prompt, prompt) for prompt in prompts))


def put(module: Any, layer: int, prompt: Any, rows: dict[int, Tensor], *, add: bool = False) -> Tensor:
    """Last logits of a prompt with rows of block ``layer``'s output replaced, or added to, by a hook."""

    def change(h: Tensor) -> Tensor:
        h = h.clone()
        for position, row in rows.items():
            h[0, position] = h[0, position] + row if add else row
        return h

    return sweeps.rerun(module, BLOCK.format(layer), prompt, change)


# Patchscopes


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_state_of_another_prompt_layer_and_position(strategy: Any) -> None:
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    asked = [
        Change(f"L{into}.resid_post", -2, Activation(OTHER, layer=layer, positions=1)) for layer in (0, 2) for into in (0, 1)
    ]
    found = patch(model, alone(TARGET), asked, third, strategy=strategy)
    expected = []
    for layer in (0, 2):
        state = sweeps.record(module, BLOCK.format(layer), OTHER)[0, 1]
        expected += [float(put(module, into, TARGET, {4: state})[3]) for into in (0, 1)]
    close(found["value"].values[0, :, 0], expected)
    assert np.abs(np.array(expected) - found["corrupt"].values[0, 0]).min() > 1e-3


def test_a_patchscope_writes_what_a_hook_makes_it_write() -> None:
    """Each new token is the raw module's likeliest one, with the row put in at the prompt's place in every pass."""
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    change = Change("L0.resid_post", -1, Activation(OTHER, layer=2, positions=-1))
    made = generate(model, [list(TARGET)], change, max_new_tokens=4, eos_token_id=None)
    state, text = sweeps.record(module, BLOCK.format(2), OTHER)[0, -1], list(TARGET)
    for token in made.ids[0, 0].tolist():
        assert token == int(put(module, 0, text, {len(TARGET) - 1: state}).argmax())
        text.append(token)


def test_the_same_prompt_layer_and_position_change_nothing() -> None:
    model = sweeps.model("gpt2")
    same = [Change(f"L{layer}.resid_post", -1, Activation(TARGET, layer=layer, positions=-1)) for layer in range(3)]
    made = generate(model, [list(TARGET)], [None, *same], max_new_tokens=5, eos_token_id=None)
    for cell in (1, 2, 3):
        assert made.ids[cell].tolist() == made.ids[0].tolist()
        close(made.logprobs[cell], made.logprobs[0])
    for ask in (patch, attribute):
        found = ask(model, alone(TARGET), same, third)
        close(found["value"].values[0, :, 0], [float(found["corrupt"].squeeze())] * 3)


# function vectors


def vector(heads: list[tuple[int, int]]) -> Tensor:
    """The sum over heads of the mean over contexts of what each writes at the last token, by hand from z and W_O."""
    module: Any = sweeps.model("gpt2").module
    total = torch.zeros(tiny.WIDTH)
    for layer, head in heads:
        path, at = f"transformer.h.{layer}.attn.c_proj", slice(8 * head, 8 * head + 8)
        z = torch.stack([sweeps.record(module, path, context, "input")[0, -1, at] for context in CONTEXTS]).mean(0)
        total += z @ module.get_submodule(path).weight[at]
    return total.detach()


def added(heads: list[tuple[int, int]], layer: int) -> Intervention:
    sources = [Activation(CONTEXTS, site=f"L{at}H{head}.result", positions=-1, pool="mean") for at, head in heads]
    return Intervention.of(*(Change(f"L{layer}.resid_post", -1, source, Add()) for source in sources))


HEADS = [(0, 1), (1, 3), (2, 0)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_function_vector_is_the_vector_added_by_a_hook(strategy: Any) -> None:
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    prompts = [(5, 6), (7, 8, 9, 10)]
    together = [added(HEADS, 1), Intervention.of(Change("L1.resid_post", -1, Constant(vector(HEADS)), Add()))]
    found = patch(model, alone(*prompts), together, third, strategy=strategy)
    expected = [float(put(module, 1, p, {len(p) - 1: vector(HEADS)}, add=True)[3]) for p in prompts]
    for cell in (0, 1):
        close(found["value"].values[0, cell], expected)
    assert np.abs(np.array(expected) - found["corrupt"].values[0]).min() > 1e-3


def test_a_function_vector_with_everything_else() -> None:
    """Generated, on a base that is changed already, and to first order: always what the constant vector gives."""
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    made = generate(model, [[5, 6]], added(HEADS, 2), max_new_tokens=1)
    assert int(made.ids[0, 0, 0]) == int(put(module, 2, [5, 6], {1: vector(HEADS)}, add=True).argmax())
    given = Intervention.of(Change("L0.resid_post", -1, edit=Scale(0.5)))
    strategies = [patch(model, alone((5, 6)), added(HEADS, 1), third, given=given, strategy=s)["value"] for s in STRATEGIES]
    constant = Change("L1.resid_post", -1, Constant(vector(HEADS)), Add())
    for value in strategies:
        close(value, patch(model, alone((5, 6)), constant, third, given=given)["value"])
    for ask in (patch, attribute):
        close(*(ask(model, alone((5, 6)), one, third)["value"] for one in (added(HEADS, 1), constant)))


def test_the_mean_of_several_prompts_at_roles_indices_and_all_their_tokens() -> None:
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    roles = [Prompt(ids, {"key": (i, i + 1)}) for i, ids in enumerate(CONTEXTS)]
    states = [sweeps.record(module, BLOCK.format(1), ids)[0] for ids in CONTEXTS]
    cases: list[tuple[Change, Tensor]] = [
        (Change("L1.resid_post", -1, Activation(CONTEXTS, pool="mean")), torch.stack([h[-1] for h in states]).mean(0)),
        (
            Change("L1.resid_post", -1, Activation(CONTEXTS, pool="mean", positions=1)),
            torch.stack([h[1] for h in states]).mean(0),
        ),
        (
            Change("L1.resid_post", -1, Activation(roles, pool="mean", positions="key")),
            torch.stack([h[i] for i, h in enumerate(states)]).mean(0),
        ),
        (
            Change("L1.resid_post", -1, Activation(CONTEXTS, pool="mean", positions=[0, -1], over=("example", "position"))),
            torch.stack([h[i] for h in states for i in (0, -1)]).mean(0),
        ),
        (
            Change("L1.resid_post", -1, Activation(CONTEXTS, pool="mean", positions=..., over=("example", "position"))),
            torch.cat(states).mean(0),
        ),
    ]
    for change, mean in cases:
        found = patch(model, alone(TARGET), change, third)
        close(float(found["value"].squeeze()), float(put(module, 1, TARGET, {5: mean})[3]))
    two = Change("L1.resid_post", [0, -1], Activation(CONTEXTS, pool="mean"))
    rows = {0: torch.stack([h[0] for h in states]).mean(0), 5: torch.stack([h[-1] for h in states]).mean(0)}
    close(float(patch(model, alone(TARGET), two, third)["value"].squeeze()), float(put(module, 1, TARGET, rows)[3]))


def test_a_mean_at_named_positions_of_pairs_of_different_length(seed: int) -> None:
    """``positions=-1`` is each prompt's own last token, not the raw index of the base's."""
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    pairs = sweeps.random_pairs(seed, [6, 4, 5])
    mean = torch.stack([sweeps.record(module, BLOCK.format(1), pair.clean.text)[0, -1] for pair in pairs]).mean(0)
    found = patch(model, pairs, Change("L1.resid_post", -1, Activation(pool="mean", positions=-1)), third)
    expected = [float(put(module, 1, p.corrupted.text, {len(p.corrupted.text) - 1: mean})[3]) for p in pairs]
    close(found["value"].values[0, 0], expected)


# another model


def perturbed(model: Model, seed: int = 5) -> Model:
    """The same with other weights in its blocks; embeddings, last norm and unembedding are shared."""
    module = copy.deepcopy(model.module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if ".h." in name:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return load(module, name="perturbed")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_last_block_of_another_model_gives_its_logits(strategy: Any, seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    other = perturbed(model)
    last = Change("L2.resid_post", ..., Activation("base", model=other))
    found = patch(model, pairs, last, third, strategy=strategy)
    with torch.no_grad():
        expected = [float(other.module(torch.tensor([p.corrupted.text])).logits[0, -1, 3]) for p in pairs]
    close(found["value"].values[0, 0], expected)
    assert np.abs(np.array(expected) - found["corrupt"].values[0]).min() > 1e-3


def test_another_model_with_everything_else(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    other = perturbed(model)
    last = Change("L2.resid_post", -1, Activation("base", model=other))
    made = generate(model, pairs, last, max_new_tokens=1)
    with torch.no_grad():
        expected = [int(other.module(torch.tensor([p.corrupted.text])).logits[0, -1].argmax()) for p in pairs]
    assert made.ids[0, :, 0].tolist() == expected
    given = Intervention.of(Change("L0.resid_post", -1, edit=Scale(0.5)))
    ungiven = patch(model, pairs, last, third)["value"]
    close(patch(model, pairs, last, third, given=given)["value"], ungiven)  # the last word is the other model's, as it is
    where = grid("resid_post", layer=..., position=[-1])
    estimated, same = (attribute(model, pairs, where, third, source=Activation("base", model=m)) for m in (other, model))
    assert np.abs(estimated["value"] - same["value"]).max() > 1e-3
    close(same["value"].values[0, :, 0], np.stack([same["corrupt"].values[0]] * 3))


# prepending


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_behind_a_prefix(kind: str, seed: int) -> None:
    """Token embeddings do not know of a prefix; block outputs are those of a hook, from shifted positions."""
    model, module = sweeps.model(kind), sweeps.model(kind).module
    path = {"gpt2": "transformer.h.1", "llama": "model.layers.1"}[kind]
    prefix = (11, 12, 13)
    prompts = [Prompt(ids, {"key": (1, 3), "end": (len(ids) - 1, len(ids))}) for ids in ((3, 1, 4, 1, 5), (9, 2, 6, 5))]
    behind = [Prompt(prefix + p.text, {r: (a + 3, b + 3) for r, (a, b) in p.roles.items()}) for p in prompts]
    pairs = Pairs(tuple(Pair(one, other) for one, other in zip(prompts, behind, strict=True)))
    options: dict[str, Any] = {"patching": "noising"}
    found = patch(model, pairs, grid("resid_post", layer=[1], position=["key", "end"]), third, **options)
    for i, (one, other) in enumerate(zip(prompts, behind, strict=True)):
        states = sweeps.record(module, path, other.text)[0]
        for k, role in enumerate(("key", "end")):
            (a, b), (c, d) = one.roles[role], other.roles[role]

            def change(h: Tensor, at: slice = slice(a, b), new: Tensor = states[c:d]) -> Tensor:
                h = h.clone()
                h[0, at] = new
                return h

            close(found["value"].values[0, 0, k, i], float(sweeps.rerun(module, path, one.text, change)[3]))
    embedded = patch(model, pairs, grid("embed", position=["key", "end"]), third, **options)
    close(embedded["value"].values[0], np.stack([embedded["clean"].values[0]] * 2))
    shared = Activation(behind[0], positions="key")  # the same by naming the prompt: one run for all
    named = patch(model, alone(prompts[0]), Change("L1.resid_post", "key", shared), third)
    close(float(named["value"].squeeze()), found["value"].values[0, 0, 0, 0])


def test_what_comes_behind_changes_nothing_before_it(seed: int) -> None:
    """In a causal model: the states of the same tokens with a suffix are those without, at every layer."""
    model = sweeps.model("gpt2")
    prompt = Prompt(TARGET, {"key": (2, 4)})
    pairs = Pairs((Pair(prompt, Prompt((*TARGET, 5, 6, 7), {"key": (2, 4)})),))
    found = patch(model, pairs, grid("resid_post", layer=..., position=["key"]), third, patching="noising", skip_inert=False)
    close(found["value"].values.ravel(), [float(found["clean"].squeeze())] * 3)


# what is refused


def test_refusals() -> None:
    model, wide = sweeps.model("gpt2"), load(tiny.random_model(_wide(), 0), name="wide")
    pairs = alone(Prompt(TARGET, {"key": (2, 4)}))
    cases: list[tuple[Change, type[Exception], str]] = [
        (Change("L1.resid_post", -1, Activation("base", model=wide)), ShapeMismatchError, r"\(48,\).*\(32,\)"),
        (Change("L2.resid_post", -1, Activation("base", model=wide)), HeadOutOfRangeError, "layer 2 of L2.resid_post"),
        (Change("L1.resid_post", -1, Activation(OTHER, layer=9)), HeadOutOfRangeError, "layer 9"),
        (Change("L1.resid_post", "key", Activation(OTHER)), UnknownNameError, "these prompts name none"),
        (
            Change("L1.resid_post", "key", Activation(CONTEXTS, pool="mean", positions=[0, 1, 2])),
            ShapeMismatchError,
            "needs one, or as many",
        ),
    ]
    for change, error, words in cases:
        for ask in (patch, attribute):
            with pytest.raises(error, match=words):
                ask(model, pairs, change, third)
    with pytest.raises(UnknownNameError) as caught:
        patch(model, pairs, Change("L1.resid_post", "key", Activation(OTHER)), third)
    assert "what L1.resid_post@key ← Activation(prompt (2, 7, 1, 8)) reads" in caught.value.__notes__[0]


def _wide() -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_layer=2, n_embd=48, n_head=4, n_positions=64, vocab_size=tiny.VOCAB, bos_token_id=0, eos_token_id=0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"prompt": CONTEXTS}, ValueError, "a list of 3 prompts, of which a mean is taken"),
        ({"prompt": CONTEXTS, "pool": "resample"}, ValueError, "pool='resample'"),
        ({"prompt": CONTEXTS, "pool": "mean", "by": "template"}, ValueError, "by='template'"),
        ({"prompt": [], "pool": "mean"}, InputError, "prompt is empty"),
        ({"prompt": [Pair((1, 2), (3, 4))], "pool": "mean"}, InputError, r"\[pair.clean for pair in pairs\]"),
        ({"prompt": 1.5}, InputError, "holds a float"),
    ],
)
def test_prompts_that_make_no_sense(options: dict[str, Any], error: type[Exception], words: str) -> None:
    source = Activation()
    for name, value in options.items():
        object.__setattr__(source, name, value)
    with pytest.raises(error, match=words):
        source.__post_init__()


def test_another_model_is_matched_by_raw_index_in_equal_lengths_alone(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 6], longer=[1, 1])
    with pytest.raises(UnequalLengthsError, match="and perturbed 5; use a role, or count from the end"):
        patch(model, pairs, grid("L1.resid_post", position=2), source=Activation(model=perturbed(model)))


def test_lists_arrays_and_tensors_of_ids_are_the_same_prompts() -> None:
    spec = Activation(CONTEXTS, pool="mean").spec()
    for given in ([list(c) for c in CONTEXTS], [np.array(c) for c in CONTEXTS], [torch.tensor(c) for c in CONTEXTS]):
        assert Activation(given, pool="mean").spec() == spec
    assert Activation(torch.tensor(OTHER)).spec() == Activation(OTHER).spec()
    assert repr(Activation(CONTEXTS, positions=-1, pool="mean")) == "Activation(3 prompts, @-1, mean over example)"
