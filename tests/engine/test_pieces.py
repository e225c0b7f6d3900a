"""Long prompts in pieces: the same numbers as whole ones, nothing as wide as the prompt is long, and what cannot be cut is not.

That sweeps in pieces give the numbers of ``serial`` is drawn in test_wavefront.py; here is what that does not see.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from memory import taken
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from interp.engine import explain, patch, pieces
from interp.engine.prompts import forward
from interp.engine.runs import Runs
from interp.engine.wave import Pass
from interp.interventions import Activation, Add, Change, Constant, Edit, Intervention, Scale, Source
from interp.models import Model, load
from interp.models.hooks import Hooks
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site, grid


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pieces of two tokens from now on, and the number of pieces of every pass."""
    monkeypatch.setitem(pieces.SIZE, "cpu", 2)
    run, seen = Pass.run, []

    def spy(self: Pass) -> Tensor:
        seen.append(len(self.pieces))
        return run(self)

    monkeypatch.setattr(Pass, "run", spy)
    return seen


@pytest.mark.parametrize("size", [1, 2, 5, 512])
def test_pieces_hold_every_column_once_and_none_is_short(size: int) -> None:
    for start in range(0, 3 * size, max(1, size // 3)):
        for stop in range(start + 1, start + 5 * size, max(1, size // 4)):
            found = pieces.pieces(range(start, stop), size)
            assert [column for part in found for column in part] == [*range(start, stop)]
            assert all(part.stop % size == 0 for part in found[:-1])
            assert len(found) == 1 or size // 2 <= len(found[-1]) <= size + size // 2


# what can be cut


@pytest.mark.parametrize(
    ("name", "edit", "source", "cut"),
    [
        ("pattern", Scale(0.0), None, True),
        ("scores", Add(0.5), Activation(), True),
        ("pattern", None, None, True),
        ("pattern", None, Constant(0.2), False),  # gives later tokens a share
        ("z", Add(1.0), Constant(0.3), True),
    ],
    ids=str,
)
def test_what_lets_a_token_see_later_ones_is_not_cut(
    name: str, edit: Edit | None, source: Source | None, cut: bool, cuts: list[int]
) -> None:
    model = sweeps.model("llama")
    pairs = Pairs(tuple(Pair(Prompt((*range(i, i + 8),)), Prompt((*range(i + 9, i + 17),)), (3,), (4,)) for i in (20, 30)))
    asked = [Intervention((Change(f"L1.{name}", at, source=source, edit=edit),)) for at in (1, -1)]
    found = patch(model, pairs, asked, ["logit_diff", "kl"], skip_inert=False)
    assert any(n > 1 for n in cuts) == cut
    serial = patch(model, pairs, asked, ["logit_diff", "kl"], strategy="serial", skip_inert=False)
    np.testing.assert_allclose(found["value"], serial["value"], rtol=0, atol=1e-5 * (1 + float(abs(serial["value"]).max())))


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "bloom"])
@torch.no_grad()
def test_a_forward_in_pieces_is_the_forward(kind: str, cuts: list[int], seed: int) -> None:
    """Every site, patterns and scores too, of left-padded prompts, at some columns and at all; keys and values as well."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [9, 6, 8])
    tokens = model.encode(pairs).clean
    sites = [site for site in model.sites() if site.layer is not None]
    with model.prepared(sites):
        at = torch.tensor([1, 2, 6, 8])
        found = forward(model, tokens, {site: at if i % 2 else None for i, site in enumerate(sites)}, keeping=True)
        with Hooks(model.module, model.anatomy.taps, sites) as hooks:
            model.module(**model.inputs(tokens))
    real = tokens.mask
    for site in sites:
        whole, kept = hooks.found[site], found.found[site]
        axis = site.axes.index("position")
        whole = whole.movedim(axis, 1)
        mask = real if kept.columns is None else real[:, kept.columns]
        expected = (whole if kept.columns is None else whole[:, kept.columns])[mask]
        got = kept.tensor[mask]
        if site.name in ("scores", "pattern"):  # what is masked is any large negative number
            got, expected = (torch.where(tensor < -1e4, -1e4, tensor) for tensor in (got, expected))
        assert torch.allclose(got, expected, atol=2e-5), site
    assert found.before is not None
    assert [layer.keys.shape[2] for layer in found.before] == [tokens.width] * len(found.before)


def test_explain_says_so(cuts: list[int], seed: int) -> None:
    """As often as it is asked with gradients on, as users have them."""
    plan = explain(sweeps.model("gpt2"), sweeps.random_pairs(seed, [9, 9]), grid("z", layer=...))
    assert "note        prompts of 9 positions run in pieces of 2, one after another" in str(plan)


# memory


def test_a_source_keeps_the_columns_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens of a prompt of forty; of the base what is moved there, and what rows carry on from the first of them."""
    model, made, start = sweeps.model("gpt2"), [], Runs.__init__
    pairs = Pairs(tuple(Pair(Prompt((*range(i, i + 40),)), Prompt((*range(i + 9, i + 49),)), (3,), (4,)) for i in (0, 30)))

    def noted(self: Runs, *args: Any, **options: Any) -> None:
        made.append(self)
        start(self, *args, **options)

    monkeypatch.setattr(Runs, "__init__", noted)
    patch(model, pairs, grid("z", layer=1, position=[30, 37]), skip_inert=False)
    kept = {(key[1], site): found for key, sites in made[0].found.items() for site, found in sites.items()}
    z, stream = Site("z", layer=1), Site("resid_pre", layer=1)
    for side, site, columns in (("clean", z, [30, 37]), ("corrupted", z, [30, 37]), ("corrupted", stream, [*range(30, 40)])):
        found = kept[side, site]
        assert found.columns is not None
        assert found.columns.tolist() == columns
        assert found.tensor.shape[1] == len(columns)


@pytest.mark.parametrize("where", ["z", "resid_pre"])
def test_a_long_prompt_takes_no_more_than_twice_a_plain_forward(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of tensors alive at once: 2,048 tokens, 8 positions, against a forward without a cache that gives one logit row."""
    monkeypatch.setitem(pieces.SIZE, "cpu", 128)
    model, tokens = long_model(), torch.randint(3, 500, (2048,), generator=torch.Generator().manual_seed(1))
    places = torch.linspace(0, 2047, 8).long()
    other = tokens.scatter(0, places, (tokens[places] + 1) % 500)
    pairs = Pairs((Pair(Prompt(tuple(tokens.tolist())), Prompt(tuple(other.tolist())), (5,), (6,)),))
    plain = taken(lambda: model.module(tokens[None], use_cache=False, logits_to_keep=1))
    sweep = taken(lambda: patch(model, pairs, grid(where, layer=..., position=places.tolist())))
    assert sweep <= 2 * plain, f"{sweep / 2**20:.1f} MiB against {plain / 2**20:.1f}"


def long_model() -> Model:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    return load(LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=0, eos_token_id=0)).eval())
