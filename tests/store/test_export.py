"""Exported files are read by the programs that they are meant for, xarray and pandas alone, and hold the same numbers."""

import builtins
import importlib.util
import json
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from interp import effects
from interp.errors import PathError, StoreError, UnknownNameError
from interp.store import Store, export

PAYLOAD = 0x7FC12345


def sweep(spec=1, dtype="float32", heads=2):
    """Layer × head × example with numbers that are easily lost: a NaN with a payload, −0, infinities, a third, odd text."""
    value = (np.arange(1, 2 * 3 * heads * 4 + 1) / 3).astype(dtype).reshape(2, 3, heads, 4)
    if dtype == "float32":
        value.view("uint32")[0, 0, 0, 0] = PAYLOAD
    value[0, 0, 0, 1:] = [np.inf, -0.0, np.nan]
    return effects.assemble(
        value,
        np.ones((2, 4), dtype) / 7,
        np.zeros((2, 4), dtype),
        axes={"layer": [0, 1, 2], "head": range(heads)},
        metrics=["logit_diff", "prob"],
        absent=np.zeros((3, heads), bool),
        coords={"template": ["", "a\x00", 'a,"b"', "é ☃"], "clean_prompt": ["one\ntwo", "# three", " four", "five;"]},
        attrs={
            "patching": "denoising",
            "noise_floor": {"logit_diff": 1e-6, "prob": 0.0},
            "engine_semantics": 1,
            "spec": {"n": spec},
            "model": "tiny",
            "seed": 2**40,
            "flag": True,
        },
    )


def begun(store, spec=1):
    """A run of which nothing is done."""
    ds = sweep(spec)
    return store.begin(ds.assign(value=ds["value"] * np.nan), chunks={"layer": 1})


def other():
    """No sweep: variables of which none has all axes."""
    return xr.Dataset(
        {
            "contribution": (("example", "term"), np.arange(6.0).reshape(2, 3) / 7),
            "total": ("example", [1.5, 2.5]),
            "by_head": (("example", "layer", "head"), np.arange(8.0).reshape(2, 2, 2) / 3),
            "counted": (("example", "term"), np.arange(6).reshape(2, 3)),
        },
        {"term": ["embed", "L0H0", "bias"], "layer": [0, 1], "head": [0, 1]},
        {"engine_semantics": 1, "spec": None},
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_netcdf_comes_back_bit_for_bit_with_xarray_alone(tmp_path, dtype):
    ds = sweep(dtype=dtype)
    store = Store(tmp_path / "runs")
    assert store.export(store.save(ds, name="heads").id, tmp_path / "heads.nc") == [tmp_path / "heads.nc"]
    with xr.open_dataset(tmp_path / "heads.nc") as found:
        found.load()
    for name in ("value", "clean", "corrupt"):
        assert found[name].dims == ds[name].dims
        assert found[name].values.astype(dtype).tobytes() == ds[name].values.tobytes()
    assert found["by_rule"].dtype == bool
    assert found["clean_prompt"].values.tolist() == ds["clean_prompt"].values.tolist()
    assert found["template"].values.tolist() == ["", "a␀", 'a,"b"', "é ☃"]
    assert found["layer"].values.tolist() == [0, 1, 2]
    assert json.loads(found.attrs["noise_floor"]) == ds.attrs["noise_floor"]
    assert (found.attrs["model"], json.loads(found.attrs["seed"]), found.attrs["flag"]) == ("tiny", 2**40, "true")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tables_come_back_bit_for_bit_with_pandas_alone(tmp_path, ending, dtype):
    ds = sweep(dtype=dtype)
    export.export(ds, tmp_path / f"heads{ending}")
    read = pd.read_csv if ending == ".csv" else pd.read_parquet
    found = read(tmp_path / f"heads{ending}")
    assert len(found) == ds["value"].size
    values, expected = found["value"].to_numpy().astype(dtype), ds["value"].values.ravel()
    real = ~np.isnan(expected)  # a table knows one NaN
    assert values[real].tobytes() == expected[real].tobytes()
    assert np.isnan(values[~real]).all()
    assert np.array_equal(found["value"].to_numpy()[real].astype("float64"), expected[real].astype("float64"))
    assert np.array_equal(found["clean"], np.broadcast_to(ds["clean"].values[:, None, None], (2, 3, 2, 4)).ravel())
    row = found.query("metric == 'prob' and layer == 2 and head == 1 and example == 3").iloc[0]
    assert row["value"] == ds["value"].sel(metric="prob", layer=2, head=1).values[3]
    assert (row["template"], row["clean_prompt"], bool(row["by_rule"])) == ("é ☃", "five;", False)
    assert set(found["clean_prompt"]) == set(ds["clean_prompt"].values)


def test_provenance_is_beside_the_csv_and_in_the_parquet(tmp_path):
    ds = sweep()
    table, beside = export.export(ds, tmp_path / "heads.csv")
    assert table.read_text().startswith("metric,layer,head,example,value,clean,corrupt")
    assert beside.name == "heads.csv.json"
    assert json.loads(beside.read_text()) == ds.attrs
    export.export(ds, tmp_path / "heads.parquet")
    assert pd.read_parquet(tmp_path / "heads.parquet").attrs == ds.attrs
    assert sorted(p.name for p in tmp_path.iterdir()) == ["heads.csv", "heads.csv.json", "heads.parquet"]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_variables_of_other_axes_have_rows_of_their_own(tmp_path, ending):
    ds = other()
    export.export(ds, tmp_path / f"dla{ending}")
    found = (pd.read_csv if ending == ".csv" else pd.read_parquet)(tmp_path / f"dla{ending}")
    assert len(found) == 6 + 8
    of_terms = found[found["contribution"].notna()]
    assert np.array_equal(of_terms["contribution"], ds["contribution"].values.ravel())
    assert np.array_equal(of_terms["counted"].astype(int), ds["counted"].values.ravel())
    of_heads = found[found["by_head"].notna()]
    assert np.array_equal(of_heads["by_head"], ds["by_head"].values.ravel())
    assert of_heads["term"].isna().all()
    row = of_heads.query("example == 1 and layer == 0 and head == 1").iloc[0]
    assert row["by_head"] == 5 / 3
    assert row["total"] == 2.5


def test_families_stand_below_each_other_in_a_table(tmp_path):
    tree = xr.DataTree.from_dict({"stream": sweep(1), "mlp": sweep(2, heads=1)})
    export.export(tree, tmp_path / "both.csv")
    found = pd.read_csv(tmp_path / "both.csv")
    assert found["family"].value_counts().to_dict() == {"stream": 48, "mlp": 24}
    mlp = found[found["family"] == "mlp"]["value"].to_numpy().astype("float32")
    assert np.array_equal(mlp, tree["mlp"]["value"].values.ravel(), equal_nan=True)
    assert json.loads((tmp_path / "both.csv.json").read_text())["mlp"]["spec"] == {"n": 2}


def without(monkeypatch, *modules):
    """As where packages are not installed."""
    find, load = importlib.util.find_spec, builtins.__import__
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)

    def refused(name, *rest, **more):
        if name.partition(".")[0] in modules:
            raise ImportError(name)
        return load(name, *rest, **more)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in modules else find(name, *rest))
    monkeypatch.setattr(builtins, "__import__", refused)


def test_what_needs_more_than_is_installed_says_what(tmp_path, monkeypatch):
    without(monkeypatch, "pyarrow", "h5netcdf", "netCDF4")
    ds, tree = sweep(), xr.DataTree.from_dict({"a": sweep(1), "b": sweep(2)})
    with pytest.raises(StoreError, match=r"'x\.parquet' needs pyarrow, which is not installed: pip install pyarrow"):
        export.export(ds, tmp_path / "x.parquet")
    with pytest.raises(
        StoreError, match=r"'x\.nc' of several families is netCDF 4 .* pip install h5netcdf h5py; .csv and .parquet"
    ):
        export.export(tree, tmp_path / "x.nc")
    long = ds.assign_coords(token_id=("example", np.array([0, 1, 2, 2**40])))
    with pytest.raises(StoreError, match=r"'token_id' has whole numbers of more than 32 bits, .* pip install h5netcdf"):
        export.export(long, tmp_path / "x.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_groups_where_something_writes_them(tmp_path):
    if export._engine() is None:
        pytest.skip("neither h5netcdf nor netCDF4 is installed: pip install h5netcdf h5py")
    tree = xr.DataTree.from_dict({"stream": sweep(1), "mlp": sweep(2, heads=1)})
    export.export(tree, tmp_path / "both.nc")
    with xr.open_datatree(tmp_path / "both.nc") as found:
        for name in ("stream", "mlp"):
            assert found[name]["value"].values.tobytes() == tree[name]["value"].values.tobytes()


def test_half_a_run_is_exported_only_when_that_is_asked_for(tmp_path):
    store = Store(tmp_path / "runs")
    writing = begun(store)
    unit = next(iter(writing))
    writing.write(unit, {"value": np.full((2, 1, 2, 4), 7, "float32")}, {})
    with pytest.raises(StoreError, match="is unfinished"):
        store.export(writing.id, tmp_path / "half.csv")
    store.export(writing.id, tmp_path / "half.csv", partial=True)
    assert (pd.read_csv(tmp_path / "half.csv")["value"] == 7).sum() == 16


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("x.xlsx", UnknownNameError, r"unknown export ending '.xlsx' of 'x.xlsx'.*\.nc.*\.csv.*\.parquet"),
        ("nowhere/x.csv", PathError, "nowhere' is no folder, so 'x.csv' cannot be written there; make it first"),
        ("folder.csv", PathError, r"path '.*folder.csv' is a folder; expected the path of a file to write"),
    ],
)
def test_mistakes_are_named(tmp_path, path, error, message):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(error, match=message):
        export.export(sweep(), tmp_path / path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder.csv"]


def test_an_array_alone(tmp_path):
    score = xr.DataArray([0.5, 0.25], {"layer": [0, 1]}, name="score", attrs={"model": "tiny", "versions": {"torch": "2"}})
    run = Store(tmp_path / "runs").save(score)
    for ending in (".nc", ".csv", ".parquet"):
        export.export(run.load(), tmp_path / f"score{ending}")
    read = xr.load_dataset(tmp_path / "score.nc")
    assert read["score"].values.tolist() == [0.5, 0.25]
    assert (read.attrs["model"], json.loads(read.attrs["versions"])) == ("tiny", {"torch": "2"})
    assert pd.read_csv(tmp_path / "score.csv").to_dict("list") == {"layer": [0, 1], "score": [0.5, 0.25]}
    assert (
        json.loads((tmp_path / "score.csv.json").read_text())
        == pd.read_parquet(tmp_path / "score.parquet").attrs
        == score.attrs
    )


def test_the_files_of_a_run_are_a_store_of_their_own(tmp_path):
    store = Store(tmp_path / "runs")
    run = store.save(sweep(), name="heads", tags=["paper"], beside={"notes.txt": b"kept"})
    store.save(sweep(2))
    for path, data in store.run("heads").content().items():
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes(data)
    copy = Store(tmp_path / "copy")
    assert copy.runs()["id"].tolist() == [run.id]
    assert copy.check("heads").status == "complete"
    assert copy.load("heads").identical(store.load("heads"))
    assert copy.run("heads").beside() == {"notes.txt": b"kept"}
    half = begun(store, 3)
    with pytest.raises(StoreError, match=f"run {half.id} is unfinished: 0 of 3 units are done"):
        store.run(half.id).content()
