"""Recipes: everything of a call by which its numbers would change is in the files, or named as missing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import interp
from interp.engine import Edge
from interp.engine.asked import asked_pairs
from interp.engine.recipe import JSON, TENSORS, Recipe, recorded
from interp.errors import LoadError, StoreError
from interp.interventions import Activation, Change, Intervention, Rotation, Scale
from interp.interventions.files import seal, tensors_of
from interp.models import Model
from interp.prompts import Pair, Pairs, Prompt

HEADS = interp.grid("z", layer=..., head=...)


@pytest.fixture(scope="module")
def model() -> Model:
    return interp.load("zoo/language-4l")


@pytest.fixture(scope="module")
def pairs(model: Model) -> Pairs:
    return interp.tasks.ioi(3, seed=1, tokenizer=model.tokenizer)


def made(model: Model, files: dict[str, bytes], **options: Any) -> tuple[Any, dict[str, Any]]:
    return Recipe.of(files).made(model, **options)


def test_it_holds_the_call(model: Model, pairs: Pairs) -> None:
    files = recorded("patch", model, model.encode(pairs, bos=False), where=HEADS, metric=["kl"], given=None, hold=("pattern",))
    assert list(files) == [JSON], "there is no tensor in it"
    recipe = Recipe.of(files)
    assert (recipe.call, recipe.bos, recipe.plain, recipe.unwritten) == ("patch", False, False, {})
    assert recipe.model["name"] == "zoo/language-4l"
    assert recipe.model["digest"] == model.digest
    encoded, arguments = recipe.made(model)
    assert arguments == {"where": HEADS, "metric": ["kl"], "given": None, "hold": ("pattern",)}
    assert encoded.pairs.digest == pairs.digest
    assert encoded.asked is False
    assert encoded.pairs.made_by == pairs.made_by


def test_tensors_are_beside_it(model: Model, pairs: Pairs) -> None:
    vector = torch.linspace(-1, 1, 128, dtype=torch.float64)
    files = recorded("patch", model, model.encode(pairs), where=[Change("L1.resid_post", source=vector)])
    assert list(files) == [JSON, TENSORS]
    (change,) = made(model, files)[1]["where"]
    assert torch.equal(change.source.value, vector)
    assert change.source.value.dtype == torch.float64


def test_edges_are_known_by_their_names(model: Model, pairs: Pairs) -> None:
    edges = [Edge.of("L0H1.z", "L2.mlp_pre"), Edge.of("embed", "logits")]
    assert made(model, recorded("patch_edges", model, model.encode(pairs), edges=edges))[1] == {"edges": edges}


def test_plain_prompts_come_back_as_prompts(model: Model, pairs: Pairs) -> None:
    encoded, paired = asked_pairs(model, [pair.clean for pair in pairs])
    assert not paired
    assert made(model, recorded("patch", model, encoded))[0] == [pair.clean for pair in pairs]


def test_what_is_in_force_on_the_model_is_given(model: Model, pairs: Pairs) -> None:
    """What :meth:`Model.edited` has put there, before what the call itself gives."""
    own, other = Intervention.of("L0.z", edit=Scale(0.5)), Change("L1H0.z", edit=Scale(0.0))
    with model.edited(own):
        files = [recorded("patch", model, model.encode(pairs), given=given) for given in (None, other, [other])]
        expected = interp.patch(model, pairs, HEADS, given=other)
    assert [len(made(model, one)[1]["given"]) for one in files] == [1, 2, 2]
    given = made(model, files[1])[1]["given"]
    assert interp.patch(model, pairs, HEADS, given=given).attrs["spec"] == expected.attrs["spec"]


def test_another_models_activations(model: Model, pairs: Pairs) -> None:
    """The other model is described as well as the first, and loaded; the first is not loaded twice."""
    other = interp.load("zoo/induction-2l")
    where = [Change("L1.resid_post", source=Activation(model=one)) for one in (other, model, other)]
    _, arguments = made(model, recorded("patch", model, model.encode(pairs), where=where))
    loaded = [change.source.model for change in arguments["where"]]
    assert loaded[0] is not other
    assert loaded[0] is loaded[2]
    assert loaded[0].digest == other.digest
    assert loaded[1] is model


def test_what_no_file_holds_is_named_and_has_to_be_passed(model: Model, pairs: Pairs) -> None:
    shared = Rotation(128, 2)
    where = [Change("L0.z", edit=Scale(1.0)), Change("L1.resid_post", featurizer=shared, edit=lambda h, ctx: h)]
    given = Change("L0.resid_post", featurizer=shared)
    files = recorded("patch", model, model.encode(pairs), where=where, metric=lambda logits: logits[..., 0], given=given)
    recipe = Recipe.of(files)
    assert recipe.unwritten == {
        "where": "where.1.edit.function is the function <lambda>, which is code",
        "metric": "metric is the function <lambda>, which is code",
    }
    with pytest.raises(
        StoreError, match=r"no file holds: where.1.edit.* code; metric is .* code; pass it again: where=…, metric=…"
    ):
        recipe.made(model)
    with pytest.raises(
        StoreError, match=r"^it was made with what no file holds: metric is the function <lambda>, which is code;"
    ):
        recipe.made(model, where=where)
    _, arguments = recipe.made(model, where=where, metric="kl")
    assert arguments["where"] is where
    assert torch.equal(arguments["given"].featurizer.basis, shared.basis), "nothing of it is lost with what was not written"
    with pytest.raises(StoreError, match=r"patching cannot be given: the run is made again as it was, and missing of it are"):
        recipe.made(model, where=where, metric="kl", patching="noising")


def test_pairs_that_no_file_holds(model: Model) -> None:
    pairs = Pairs((Pair(Prompt((5, 6), images=[Image.new("P", (2, 2))]), Prompt((5, 7))),))
    encoded = model.encode(Pairs((Pair((5, 6), (5, 7)),)))
    recipe = Recipe.of(recorded("patch", model, replace(encoded, pairs=pairs)))
    assert list(recipe.unwritten) == ["pairs"]
    with pytest.raises(StoreError, match=rf"^pairs are Pairs\(pairs, 1 pair\), whose digest is not {pairs.digest}, that of"):
        recipe.made(model, pairs=encoded.pairs)


# what is damaged, or another


@pytest.fixture(scope="module")
def files(model: Model, pairs: Pairs) -> dict[str, bytes]:
    change = Change("L1.resid_post", "END", source=torch.ones(128))
    return recorded("patch", model, model.encode(pairs), where=[change], metric="kl")


def test_nothing_damaged_is_read(files: dict[str, bytes], seed: int) -> None:
    random = np.random.default_rng(seed)
    for name in (JSON, TENSORS):
        for at in random.integers(0, len(files[name]), 60):
            flipped = bytearray(files[name])
            flipped[at] ^= 1 << int(random.integers(8))
            with pytest.raises(StoreError):
                Recipe.of(files | {name: bytes(flipped)})
    with pytest.raises(StoreError, match="damaged"):
        Recipe.of({JSON: files[JSON]})
    with pytest.raises(StoreError, match=r"recipe.safetensors is a pickle"):
        Recipe.of(files | {TENSORS: b"PK\x03\x04"})


def test_what_is_no_recipe(files: dict[str, bytes]) -> None:
    with pytest.raises(
        StoreError, match=r"^it is kept without recipe.json, so it cannot be made again: a sweep that is called with"
    ):
        Recipe.of({})
    with pytest.raises(StoreError, match=r"^recipe.json is no recipe$"):
        Recipe.of({JSON: b"[]"})
    with pytest.raises(StoreError, match=r"^recipe.json has the format 2, but this version of interp reads format 1$"):
        Recipe.of({JSON: json.dumps(json.loads(files[JSON]) | {"format": 2}).encode()})


def test_a_model_that_is_another(model: Model, files: dict[str, bytes]) -> None:
    recipe = Recipe.of(files)
    recipe.check(model)
    other = interp.load("zoo/induction-2l")
    with pytest.raises(
        StoreError, match=rf"^model 'zoo/language-4l' had the digest {model.digest}, but this one has {other.digest}:"
    ):
        recipe.check(other)


def test_a_model_that_cannot_be_loaded_again(model: Model, pairs: Pairs) -> None:
    live = interp.load(model.module, tokenizer=model.tokenizer, name="mine")
    recipe = Recipe.of(recorded("patch", live, live.encode(pairs)))
    words = (
        r"^model 'mine' is not loaded again by itself: a live object was given, not a name; load it as you did then, and pass"
    )
    with pytest.raises(StoreError, match=words):
        recipe.load()
    recipe.check(live)


def sealed_anew(files: dict[str, bytes], **model: Any) -> dict[str, bytes]:
    """A file that somebody else wrote, whole."""
    data = json.loads(files[JSON])
    data["model"] |= model
    kept = {key: data[key] for key in data if key not in ("format", "sha256")}
    return files | {JSON: json.dumps(data | {"sha256": seal(kept, tensors_of(files[TENSORS], TENSORS))}).encode()}


def test_a_recipe_of_somebody_else_runs_no_code(files: dict[str, bytes]) -> None:
    load = {"dict": {"model": "somebody/model", "trust_remote_code": True}}
    with pytest.raises(
        StoreError, match=r"is not loaded again by itself: it was loaded with trust_remote_code=True; load it as"
    ):
        Recipe.of(sealed_anew(files, load=load)).load()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_device_that_is_not_here(model: Model, files: dict[str, bytes]) -> None:
    recipe = Recipe.of(sealed_anew(files, device="cuda:0"))
    with pytest.raises(
        LoadError, match=r"^model 'zoo/language-4l' was on cuda:0, and no GPU is here; say where else: device='cpu'$"
    ):
        recipe.load()
    assert recipe.load("cpu").digest == model.digest
