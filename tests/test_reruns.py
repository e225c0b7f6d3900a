"""Runs made again from a store: the same numbers, or it is said which are not, and why a run cannot be made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
import xarray as xr
from sweeps import unchecked
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.cli import main
from interp.engine import Edge
from interp.engine.recipe import recorded
from interp.errors import StoreError
from interp.interventions import Add, Change, Gate, Intervention, Rotation, from_safetensors, noise, resample, to_safetensors
from interp.interventions.files import seal
from interp.metrics import Readout, Reads
from interp.models import Model
from interp.prompts import Pairs
from interp.reruns import CALLS, Rerun, compared, rerun
from interp.store import Store

HEADS = interp.grid("z", layer=..., head=...)


@pytest.fixture(scope="module")
def model() -> Model:
    return interp.load("zoo/language-4l")


@pytest.fixture(scope="module")
def pairs(model: Model) -> Pairs:
    return interp.tasks.ioi(4, seed=2, tokenizer=model.tokenizer)


def kept(folder: Path, call: str, model: Model, pairs: Any, name: str = "it", **arguments: Any) -> Any:
    """A run with its recipe, as a sweep with ``store=`` leaves it."""
    result = CALLS[call](model, pairs, **arguments)
    return Store(folder).save(result, name=name, beside=recorded(call, model, model.encode(pairs), **arguments))


def trained() -> Intervention:
    rotation, gate = Rotation(128, 4, seed=3), Gate((4, 1), seed=4)
    return Intervention.of("L1.resid_post@END", featurizer=rotation) & Intervention.of("L2.z@END", edit=gate)


ARGUMENTS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "a grid": ("patch", lambda: {"where": HEADS, "metric": ["logit_diff", "kl"], "patching": "noising"}),
    "families": (
        "patch",
        lambda: {"where": {"heads": HEADS, "stream": interp.grid("resid_pre", position=["S2", "END"])}, "unequal": "mean"},
    ),
    "names": ("patch", lambda: {"where": ["L1H0.z@END", "L2.mlp_out"], "source": noise(0.3, seed=5), "edit": Add()}),
    "trained": ("patch", lambda: {"where": [trained()], "strategy": "batched", "precision": "fast"}),
    "given and held": (
        "patch",
        lambda: {
            "where": HEADS,
            "given": Change("L0.z", "END", source=resample(1)),
            "hold": ("pattern", "L2.mlp_out"),
            "skip_inert": False,
        },
    ),
    "first order": ("attribute", lambda: {"where": HEADS, "featurizer": None, "keep_error": True}),
    "edges": (
        "patch_edges",
        lambda: {"edges": [Edge.of("L0H1.z", "L2.mlp_pre"), Edge.of("L1H0.z", "logits")], "metric": "prob"},
    ),
    "ablation": (
        "ablate",
        lambda: {"where": interp.grid("z", head=..., position="END"), "kind": "resample", "seed": 7, "by": None},
    ),
    "optimal ablation": ("ablate", lambda: {"where": interp.grid("z", layer=[1], head=...), "kind": "optimal", "steps": 3}),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_the_same_numbers(case: str, tmp_path: Path, model: Model, pairs: Pairs) -> None:
    """From what is on disk alone: the model is loaded anew, so are the prompts and what was trained."""
    call, arguments = ARGUMENTS[case]
    run = kept(tmp_path, call, model, pairs, **arguments())
    again = interp.rerun(Store(tmp_path).run("it"))
    assert again.within
    assert again.worst.largest <= again.worst.allowed
    assert not [line for line in again.differs if not line.startswith("git_revision")]
    before, after = run.load(), again.result
    specs = [
        [node.attrs.get("spec") for node in (one.subtree if isinstance(one, xr.DataTree) else [one])] for one in (before, after)
    ]
    assert specs[0] == specs[1], "the same run, by its identity"
    assert any(specs[0])


def test_a_folder_and_a_model_that_is_passed(tmp_path: Path, tiny_gpt2: PreTrainedModel) -> None:
    tiny_gpt2.save_pretrained(tmp_path / "model")
    model, pairs = interp.load(tmp_path / "model"), sweeps.random_pairs(0, [6, 7])
    run = kept(tmp_path / "runs", "patch", model, pairs, where=HEADS)
    assert rerun(run).within
    precise = interp.load(tmp_path / "model", dtype="float64")
    again = rerun(run, model=precise)
    assert again.result.value.dtype == np.float64
    assert "dtype float32 → float64" in again.differs
    assert 0 < again.worst.largest < again.worst.allowed, "float32 was kept, so its rounding is allowed"
    with pytest.raises(StoreError, match=r"^run \w{12}: model and device='cpu' are both given; a model is run where it is$"):
        rerun(run, model=precise, device="cpu")
    torch.nn.init.zeros_(precise.module.transformer.ln_f.bias)
    with pytest.raises(StoreError, match=rf"^run {run.id}: model 'model' had the digest"):
        rerun(run, model=precise)


@dataclass(frozen=True)
class Margin:
    """A metric of somebody's own."""

    power: float = 1.0
    name: str = "margin"
    reads: Reads = interp.metrics.STANDARD["rank"].reads

    def __call__(self, readout: Readout) -> Tensor:
        return (readout.final.amax(-1) - readout.final.mean(-1)) ** self.power


def test_what_is_your_own_is_passed_again(tmp_path: Path, model: Model, pairs: Pairs) -> None:
    run = kept(tmp_path, "patch", model, pairs, where=HEADS, metric=Margin(2.0))
    with pytest.raises(
        StoreError, match=r"at metric: '.*\.Margin', a class that is not interp's; if you trust it, .*\(Margin,\)$"
    ):
        rerun(run, model=model)
    assert rerun(run, model=model, kinds=[Margin]).within

    def first(logits: Tensor) -> Tensor:
        return logits[..., 0]

    run = kept(tmp_path, "patch", model, pairs, where=HEADS, metric=first)
    with pytest.raises(
        StoreError, match=rf"^run {run.id}: it was made with what no file holds: metric is the function first, which"
    ):
        rerun(run, model=model)
    assert rerun(run, model=model, metric=first).within


def test_a_number_that_is_not_the_same_is_found(model: Model, pairs: Pairs) -> None:
    old = interp.patch(model, pairs, HEADS, ["logit_diff", "kl"])
    assert compared(old, old).worst.largest == 0
    for name, by in (("value", 0.01), ("clean", -0.5), ("corrupt", np.nan)):
        new = old.copy(deep=True)
        new[name][1, ..., 1] += by
        found = compared(old, new)
        assert not found.within
        assert found.worst.metric == "kl"
        assert found.worst.largest == pytest.approx(np.inf if np.isnan(by) else abs(by), rel=1e-3)
        assert repr(found).startswith("NOT the same: kl at most")
    nowhere = old.copy(deep=True)
    nowhere["value"][0, 0, 0, 0] = np.nan
    assert compared(nowhere, nowhere.copy(deep=True)).worst.largest == 0, "no number in both"
    rounded = old.assign(value=old.value + 1e-5)
    assert compared(old, rounded).within


def test_what_else_differs_is_said(model: Model, pairs: Pairs) -> None:
    old = interp.patch(model, pairs, HEADS)
    attrs = old.attrs | {
        "versions": old.attrs["versions"] | {"torch": "2.0"},
        "device_name": "an abacus",
        "spec": {"dtype": "?"},
    }
    found = compared(old.assign_attrs(attrs), old)
    assert found.within
    assert f"torch 2.0 → {torch.__version__}" in found.differs
    assert f"device_name an abacus → {old.attrs['device_name']}" in found.differs
    assert found.differs[-1].startswith("spec: dtype, model, ")
    assert repr(found).splitlines()[1] == f"  torch 2.0 → {torch.__version__}"


def test_results_of_another_shape_are_not_the_same(model: Model, pairs: Pairs) -> None:
    old = interp.patch(model, pairs, HEADS)
    for new in (old.isel(example=[0]), old.assign_coords(head=old["head"] + 1), old.assign(given=old.clean)):
        found = compared(old, new)
        assert (found.within, found.worst.largest) == (False, np.inf)
    tree = xr.DataTree.from_dict({"z": old})
    assert compared(old, tree).differs == ("families none → z",)


def test_precision_says_what_is_allowed(model: Model, pairs: Pairs) -> None:
    old = interp.patch(model, pairs, HEADS)
    largest = float(max(abs(old[name]).max() for name in ("value", "clean", "corrupt")))
    for attrs, relative in (
        ({"dtype": "float64"}, 1e-10),
        ({}, 1e-4),
        ({"float32_precision": "ieee+tf32"}, 2**-7),
        ({"dtype": "bfloat16"}, 2**-4),
    ):
        quiet = old.assign_attrs(attrs | {"noise_floor": {"logit_diff": 0.0}})
        assert compared(quiet, quiet).worst.allowed == pytest.approx(relative * (1 + largest), rel=1e-6)
    loud = old.assign_attrs(noise_floor={"logit_diff": 5.0})
    assert compared(loud, old).worst.allowed == 15


def test_what_was_trained_is_kept_beside_a_run_and_works_again(tmp_path: Path, model: Model, pairs: Pairs) -> None:
    """Trained in earnest, kept under a name of its own, and measured on other pairs from the file alone."""
    das = Intervention.of("L1.resid_post@END", featurizer=Rotation(128, 2))
    first = Rotation(128, 2).basis.detach()
    interp.training.fit(model, pairs, das, "logit_diff", epochs=2, batch=4)
    assert not torch.allclose(das.changes[0].featurizer.basis.detach(), first, atol=1e-4), "it has learned"
    files = {"das.safetensors": to_safetensors(das)}
    Store(tmp_path).save(interp.patch(model, pairs, das), name="das", beside=files)
    again = from_safetensors(Store(tmp_path).run("das").beside()["das.safetensors"])
    others = interp.tasks.ioi(3, seed=9, tokenizer=model.tokenizer)
    expected, got = (interp.patch(model, others, one) for one in (das, again))
    assert float(abs(expected.value - expected.corrupt).max()) > 1e-3
    np.testing.assert_allclose(got.value, expected.value, rtol=0, atol=1e-5 * 20)


def test_what_cannot_be_made_again(tmp_path: Path, model: Model, pairs: Pairs) -> None:
    result = interp.patch(model, pairs, HEADS)
    alone = Store(tmp_path).save(result)
    with pytest.raises(
        StoreError,
        match=rf"^run {alone.id}: it is kept without recipe.json, so it cannot be made again: .*make the same call with s",
    ):
        rerun(alone)
    with pytest.raises(
        StoreError, match=r"^run is of type Dataset; expected a run of a store, such as interp.Store\('runs'\).run"
    ):
        rerun(result)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"^model is of type str; expected a model, such as interp.load\(…\) gives"):
        unchecked(rerun)(alone, model="zoo/language-4l")
    with pytest.raises(StoreError, match=r"^kinds is 3 of type int; expected classes, such as kinds=\(MyMetric,\)"):
        unchecked(rerun)(alone, kinds=3)
    strange = Store(tmp_path).save(result, beside=recorded("invented", model, model.encode(pairs)))
    with pytest.raises(
        StoreError,
        match=r"it was made by 'invented'; this version of interp makes patch, attribute, patch_edges, patch_",
    ):
        rerun(strange)


def test_a_recipe_of_somebody_else_writes_nothing(tmp_path: Path, model: Model, pairs: Pairs) -> None:
    """Sweeps take a store to write to, which no recipe says."""
    run = kept(tmp_path, "patch", model, pairs, where=HEADS)
    recipe = json.loads(recorded("patch", model, model.encode(pairs), where=HEADS, store=str(tmp_path / "new"))["recipe.json"])
    assert "store" not in recipe["arguments"]
    recipe["arguments"]["store"] = str(tmp_path / "new")
    sealed = recipe | {"sha256": seal({k: v for k, v in recipe.items() if k not in ("format", "sha256")}, {})}
    run = Store(tmp_path).save(run.load(), beside={"recipe.json": json.dumps(sealed).encode()})
    with pytest.raises(StoreError, match=r"its recipe has the argument 'store', which interp.patch is not called with here$"):
        rerun(run, model=model)
    assert not (tmp_path / "new").exists()


# the command


def test_the_command(tmp_path: Path, model: Model, pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    kept(tmp_path / "runs", "patch", model, pairs, where=HEADS, name="heads")
    assert main(["rerun", "heads", "--store", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.startswith("the same within rounding: logit_diff at most ")
    off = interp.patch(model, pairs, HEADS)
    off["value"] += 0.1
    files = recorded("patch", model, model.encode(pairs), where=HEADS)
    Store(tmp_path / "other").save(off, name="heads", beside=files)
    assert main(["rerun", "heads", "--store", str(tmp_path / "other"), "--model", "zoo/language-4l", "--device", "cpu"]) == 1
    assert capsys.readouterr().out.startswith("NOT the same: logit_diff at most 0.1 apart, ")
    assert main(["rerun", "tails", "--store", str(tmp_path / "other")]) == 2
    assert "no run 'tails'" in capsys.readouterr().err
    assert main(["rerun", "heads", "--store", str(tmp_path / "nowhere")]) == 2


def test_a_recipe_can_be_read_without_this_library(tmp_path: Path, model: Model, pairs: Pairs) -> None:
    run = kept(tmp_path, "patch", model, pairs, where=HEADS)
    recipe = json.loads(run.beside()["recipe.json"])
    assert recipe["pairs"]["Pairs"]["items"]["tuple"][0]["Pair"]["clean"]["Prompt"]["text"] == pairs[0].clean.text
    assert isinstance(rerun(run, model=model), Rerun)
