"""Many models as an axis: every slice is what the call gives for its model alone, bit for bit; what differs is kept apart."""

from __future__ import annotations

import gc
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import xarray as xr

from interp import effects as fx
from interp import report, tasks, views
from interp.engine import patch
from interp.engine.over import OverError, over
from interp.engine.stacked_attrs import merged
from interp.engine.stacking import stack
from interp.errors import ShapeMismatchError, UnknownNameError
from interp.models import Model, load, zoo
from interp.sites import grid
from interp.store import Store

HEADS = grid("z", layer=..., head=...)
SAME = {"made_at", "wall_seconds"}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Two seeds at three steps."""
    every = zoo.checkpoints("induction-forming")
    return every[every["step"].isin([0, 400, 1000]) & every["seed"].isin([0, 2])]


@pytest.fixture(scope="module")
def pairs(table: pd.DataFrame) -> Any:
    return tasks.induction(6, seed=0, length=8, tokenizer=load(table["name"].iloc[0], check=False).tokenizer)


@pytest.fixture(scope="module")
def effects(table: pd.DataFrame, pairs: Any) -> xr.Dataset:
    return over(table, lambda model: patch(model, pairs, HEADS, metric=["logit_diff", "kl"]))


# ------------------------------------------------------------------------------------------------------------------ a table


def test_every_slice_is_the_result_of_its_model(table: pd.DataFrame, pairs: Any, effects: xr.Dataset) -> None:
    assert effects["value"].dims == ("metric", "seed", "checkpoint", "layer", "head", "example")
    assert effects["clean"].dims == ("metric", "seed", "checkpoint", "example")
    assert effects["seed"].values.tolist() == [0, 2]
    assert effects["checkpoint"].values.tolist() == [0, 400, 1000]
    for row in table.itertuples():
        alone = patch(load(row.name), pairs, HEADS, metric=["logit_diff", "kl"])
        one = effects.sel(seed=row.seed, checkpoint=row.step, drop=True)
        for name in ("value", "clean", "corrupt", "by_rule"):
            np.testing.assert_array_equal(one[name], alone[name])
        np.testing.assert_array_equal(fx.recovery(one), fx.recovery(alone))
        np.testing.assert_array_equal(
            fx.summary(one)["low"], fx.summary(effects)["low"].sel(seed=row.seed, checkpoint=row.step)
        )


def test_what_is_shared_stays_and_what_differs_goes_by_label(table: pd.DataFrame, effects: xr.Dataset) -> None:
    assert effects["clean_prompt"].dims == ("example",)
    attrs = effects.attrs
    assert attrs["task"] == "induction"
    assert attrs["model"] == "zoo/induction-forming, 6 models"
    assert attrs["models"]["seed=2 checkpoint=400"] == "zoo/induction-forming/seed2/step0400"
    assert attrs["model_digest"]["seed=0 checkpoint=0"] == load("zoo/induction-forming/seed0/step0000", check=False).digest
    assert len(set(attrs["model_digest"].values())) == 6
    assert set(attrs["noise_floor"]) == {"logit_diff", "kl"}
    assert [one["model"] for one in attrs["spec"]["each"]] == table["name"].tolist()
    assert attrs["spec"]["over"] == {"seed": [0, 0, 0, 2, 2, 2], "checkpoint": [0, 400, 1000] * 2}
    assert "model" not in attrs["spec"]["shared"]


def test_a_part_speaks_of_the_models_that_are_left(effects: xr.Dataset, pairs: Any, tmp_path: Path) -> None:
    assert fx.attrs_of(effects) == effects.attrs
    late = effects.sel(checkpoint=[400, 1000])
    assert late.attrs["model"] == "zoo/induction-forming, 6 models"  # xarray leaves them as they are
    assert fx.attrs_of(late)["model"] == "zoo/induction-forming, 4 models"
    assert list(fx.attrs_of(late)["model_digest"]) == [f"seed={s} checkpoint={c}" for s in (0, 2) for c in (400, 1000)]
    assert fx.attrs_of(effects.sel(seed=2))["model"] == "zoo/induction-forming/seed2, 3 models"
    one = effects.sel(seed=2, checkpoint=400)
    told, alone = fx.attrs_of(one), patch(load("zoo/induction-forming/seed2/step0400"), pairs, HEADS).attrs
    assert {key: told[key] for key in ("model", "model_digest")} == {key: alone[key] for key in ("model", "model_digest")}
    assert "models" not in told
    assert told["noise_floor"] == effects.attrs["noise_floor"]
    for part, said in ((late, "zoo/induction-forming, 4 models"), (one, "zoo/induction-forming/seed2/step0400")):
        assert said in report.provenance(part)["model"]
        assert Store(tmp_path).save(part.assign_attrs(spec=None)).marker["summary"]["model"] == said
    assert "zoo/induction-forming/seed2/step0400 · " in views.heatmap(one, "value").layout.title.text
    assert "zoo/induction-forming, 4 models" in views.curve(fx.recovery(late).isel(metric=0, layer=0, head=0)).layout.title.text


def test_stacked_effects_are_effects(effects: xr.Dataset, tmp_path: Path) -> None:
    assert fx.validate(effects) is effects
    assert fx.recovery(effects).dims == ("metric", "seed", "checkpoint", "layer", "head")
    late = {"metric": "logit_diff", "checkpoint": 1000}  # before, clean and corrupted cannot be told apart
    np.testing.assert_allclose(fx.summary(effects)["mean"].sel(late), fx.recovery(effects).sel(late), rtol=1e-12)
    assert fx.summary(effects)["mean"].sel(late).notnull().all()
    summary = fx.summary(effects, "effect", method="t")
    assert summary["mean"].dims == ("metric", "seed", "checkpoint", "layer", "head")
    best = fx.top(effects, 3)
    assert best["checkpoint"].isin([400, 1000]).all()
    assert best["cell"][0].endswith(f"seed={best['seed'][0]} checkpoint={best['checkpoint'][0]}")
    figure = views.heatmap(effects.isel(seed=0, layer=1), quantity="value")
    assert figure.layout.yaxis.title.text == "checkpoint"
    base = effects["corrupt"].isel(metric=0, seed=0, checkpoint=1).mean("example").item()
    assert f"corrupted {base:.3g}," in figure.data[0].text[1, 2]  # each model's own baseline
    store = Store(tmp_path)
    run = store.save(effects, name="forming")
    assert store.load("forming").identical(effects)
    assert store.find(effects.attrs["spec"], effects.attrs["engine_semantics"]).id == run.id


def test_a_store_keys_by_models_and_labels(table: pd.DataFrame, pairs: Any, tmp_path: Path) -> None:
    """The same question of the same models is the same run; other models, or other labels, are not."""

    def saved(models: Any, **options: Any) -> str:
        return Store(tmp_path).save(over(models, lambda model: patch(model, pairs, HEADS), **options)).id

    two = table["name"].tolist()[:2]
    first = saved(two)
    assert saved(two) == first
    assert saved(two[::-1]) != first
    assert saved({"a": two[0], "b": two[1]}) != first
    assert saved(table[:2]) != first


def test_a_table_says_its_axes(table: pd.DataFrame) -> None:
    found = over(table.rename(columns={"step": "checkpoint"})[["checkpoint", "seed", "path"]], lambda model: 1.0)
    assert found.dims == ("seed", "checkpoint")
    with pytest.raises(OverError, match="a column 'name' and one or several of model, seed, step"):
        over(table[["name"]], lambda model: 1.0)
    with pytest.raises(OverError, match="do not fill seed × checkpoint: 1 are lacking, such as seed=2 checkpoint=1000"):
        over(table[:-1], lambda model: 1.0)


# ----------------------------------------------------------------------------------------------------------- other arguments


def test_numbers_and_named_numbers(table: pd.DataFrame) -> None:
    names = table["name"].tolist()[:2]

    def weight(model: Model) -> torch.Tensor:
        return model.module.get_parameter("lm_head.weight").double().sum()

    found = over(names, weight)
    assert found.name == "weight"
    assert found.dims == ("model",)
    assert found["model"].values.tolist() == names
    np.testing.assert_allclose(found, [weight(load(name, check=False)).item() for name in names], rtol=1e-15)
    several = over(names, lambda model: {"weight": weight(model), "per layer": xr.DataArray([1, 2], dims="layer")})
    assert several["per layer"].dims == ("model", "layer")
    assert several["weight"].identical(found.assign_attrs({}).drop_attrs())
    assert set(several.attrs["model_digest"]) == set(names)


def test_labels_from_a_mapping_a_loader_and_live_models(seed: int) -> None:
    live = [load(tiny.gpt2(seed + k), name=f"tiny {k}") for k in range(2)]
    assert over(live, lambda m: 1)["model"].values.tolist() == ["tiny 0", "tiny 1"]
    assert over({10: live[0], 5: live[1]}, lambda m: m.name == "tiny 1", axis="checkpoint").to_series().to_dict() == {
        10: False,
        5: True,
    }
    asked: list[int] = []

    def fetch(step: int) -> Model:
        asked.append(step)
        return live[step // 100]

    found = over([0, 100], lambda m: float(m.name[-1]), axis="checkpoint", load=fetch)
    assert asked == [0, 100]
    assert found["checkpoint"].values.tolist() == found["checkpoint"].values.astype(int).tolist() == [0, 100]
    both = {(k, s): live[k] for k in range(2) for s in (3, 1)}
    nested = over(both, lambda m: 1.0, axis=("seed", "checkpoint"))
    assert nested.dims == ("seed", "checkpoint")
    swapped = over({(s, k): m for (k, s), m in both.items()}, lambda m: float(m.name[-1]), axis=("checkpoint", "seed"))
    assert swapped.dims == ("seed", "checkpoint")  # laid out as axes.SWEPT says
    assert swapped.sel(seed=1, checkpoint=3) == 1


@pytest.mark.parametrize(
    ("models", "options", "error", "words"),
    [
        ("zoo/induction-2l", {}, OverError, "expected several"),
        ([], {}, OverError, "empty"),
        (["zoo/induction-2l"], {"axis": "checkpoints"}, UnknownNameError, "did you mean 'checkpoint'"),
        (["zoo/induction-2l"], {"axis": "layer"}, UnknownNameError, "unknown axis of models 'layer'"),
        (["zoo/induction-2l"] * 2, {}, OverError, "two models are called 'zoo/induction-2l'"),
        (["zoo/induction-2l"], {"axis": "checkpoint"}, OverError, "checkpoint 'zoo/induction-2l' is no integer"),
        ({"a": "zoo/induction-2l"}, {"axis": ("seed", "checkpoint")}, OverError, "has 1 parts"),
        ([7], {}, OverError, "expected a name, a folder or a model, or give load="),
        ([7], {"axis": "seed", "load": lambda step: step}, OverError, "load gives int for 7"),
    ],
)
def test_wrong_arguments(models: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        over(models, lambda model: 1.0, **options)


def test_an_error_names_its_model(table: pd.DataFrame) -> None:
    def fails(model: Model) -> float:
        if "step0400" in model.name:
            raise ZeroDivisionError("by nought")
        return 1.0

    with pytest.raises(ZeroDivisionError, match="by nought") as error:
        over(table, fails)
    assert error.value.__notes__ == ["in model seed=0 checkpoint=400, 2 of 6 given to over"]
    with pytest.raises(UnknownNameError) as unknown:
        over({"good": "zoo/induction-2l", "bad": "zoo/induction-3l"}, lambda model: 1.0)
    assert unknown.value.__notes__ == ["in model bad, 2 of 2 given to over"]


def test_folders_are_called_by_their_own_name(table: pd.DataFrame) -> None:
    folders = [Path(table["path"].iloc[0]), str(table["path"].iloc[1])]
    assert over(folders, lambda model: 1.0)["model"].values.tolist() == ["step0000", "step0400"]


def test_results_without_names_are_refused() -> None:
    for wrong, words in ((torch.zeros(2, 3), r"Tensor of shape \(2, 3\)"), ("a", "str"), (None, "NoneType"), ([1.0], "list")):
        with pytest.raises(OverError, match=words):
            over(["zoo/induction-2l"], lambda model, wrong=wrong: wrong)


def test_one_model_at_a_time(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is alive when the next one is called, once models are too large to wait."""
    monkeypatch.setattr(import_module("interp.engine.over"), "_LARGE", 0)
    seen: list[weakref.ref[torch.nn.Module]] = []

    def alive(model: Model) -> int:
        seen.append(weakref.ref(model.module))
        return sum(one() is not None for one in seen)

    assert over(table[:3], alive).values.ravel().tolist() == [1, 1, 1]
    gc.collect()
    assert seen[-1]() is None


# ------------------------------------------------------------------------------------------------------------ what is ragged


def test_models_of_other_depths(seed: int) -> None:
    """What the shallower one lacks is absent, not zero."""
    deep, flat = load("zoo/language-4l"), load("zoo/induction-2l")
    pairs = tasks.induction(4, seed=1, length=8, tokenizer=flat.tokenizer)
    found = over({"flat": flat, "deep": deep}, lambda model: patch(model, pairs, HEADS))
    assert found["layer"].values.tolist() == [0, 1, 2, 3]
    assert found["absent"].dims == ("model", "layer", "head")
    assert found["absent"].sel(model="flat").values.tolist() == [[False] * 4] * 2 + [[True] * 4] * 2
    assert not found["absent"].sel(model="deep").any()
    np.testing.assert_array_equal(found["value"].sel(model="flat", layer=[0, 1]), patch(flat, pairs, HEADS)["value"])
    assert found["value"].sel(model="flat", layer=[2, 3]).isnull().all()
    assert fx.summary(found)["mean"].sel(model="flat", layer=3).isnull().all()
    assert "no such site" in views.heatmap(found.sel(model="flat")).data[-1].name


def test_text_keeps_its_order_and_numbers_are_sorted() -> None:
    def one(values: list[Any], **more: Any) -> xr.Dataset:
        count = xr.DataArray(range(len(values)), dims="position", coords={"position": values})
        return xr.Dataset({"count": count, "name": count.astype(str).astype(object), "even": count % 2 == 0})

    found = stack({("a",): one(["S2", "END"]), ("b",): one(["IO", "S2"])}, ("model",))
    assert found["position"].values.tolist() == ["S2", "END", "IO"]
    assert found["count"].dtype == float
    np.testing.assert_array_equal(found["count"].sel(model="b"), [1, np.nan, 0])
    assert found["name"].sel(model="b").values.tolist() == ["1", "", "0"]
    assert found["even"].dtype == bool
    numbers = stack({("a",): one([4, 9]), ("b",): one([1])}, ("model",))
    assert numbers["position"].values.tolist() == [1, 4, 9]


@pytest.mark.parametrize(
    ("a", "b", "error", "words"),
    [
        (
            xr.DataArray([1.0]),
            xr.DataArray([1.0, 2.0]),
            ShapeMismatchError,
            "differ along 'dim_0', which must agree: 1 in a, 2 in b",
        ),
        (xr.DataArray([1.0], dims="example"), xr.DataArray([1.0, 2.0], dims="example"), ShapeMismatchError, "1 in a, 2 in b"),
        (xr.DataArray(1.0), xr.Dataset({"x": 1.0}), OverError, "gives DataArray for a, but Dataset for b"),
        (xr.Dataset({"x": 1.0}), xr.Dataset({"y": 1.0}), OverError, "differ in the variables x, y"),
        (xr.DataArray([1.0], dims="model"), xr.DataArray([1.0], dims="model"), OverError, "already has 'model'"),
    ],
)
def test_what_cannot_be_stacked(a: Any, b: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        stack({("a",): a, ("b",): b}, ("model",))


def test_families_are_stacked_one_by_one(table: pd.DataFrame, pairs: Any, tmp_path: Path) -> None:
    where = {"z": HEADS, "stream": grid("resid_pre", layer=..., position=["A", "END"])}
    found = over(table[:2], lambda model: patch(model, pairs, where))
    assert [node.path for node in found.leaves] == ["/z", "/stream"]
    assert found["stream"].to_dataset()["value"].dims == ("metric", "seed", "checkpoint", "layer", "position", "example")
    alone = patch(load(table["name"].iloc[1]), pairs, where["stream"])
    np.testing.assert_array_equal(found["stream"].to_dataset()["value"].isel(seed=0, checkpoint=1), alone["value"])
    Store(tmp_path).save(found, name="tree")
    assert Store(tmp_path).load("tree").identical(found)


def test_attrs() -> None:
    found = merged(
        {
            (0, 1): {
                "noise_floor": {"kl": 1e-6, "p": None},
                "wall_seconds": 1.5,
                "made_at": "2026-01-02",
                "spec": {"a": 1, "m": 3},
            },
            (0, 2): {
                "noise_floor": {"kl": 3e-6, "p": 2.0},
                "wall_seconds": 1.5,
                "made_at": "2026-01-03",
                "spec": {"a": 1, "m": 4},
            },
        },
        ("seed", "checkpoint"),
    )
    assert found == {
        "noise_floor": {"kl": 3e-6, "p": 2.0},
        "wall_seconds": 3.0,
        "made_at": "2026-01-03",
        "spec": {"over": {"seed": [0, 0], "checkpoint": [1, 2]}, "shared": {"a": 1}, "each": [{"m": 3}, {"m": 4}]},
    }
    assert merged({("a",): {"spec": {"a": 1}}, ("b",): {"spec": None}}, ("model",)) == {"spec": None}
    assert merged({("a",): {"model": "gpt2"}, ("b",): {"model": "gpt2-medium"}}, ("model",))["model"] == "gpt2 and 1 more"
