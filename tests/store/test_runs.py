"""The store: what comes back is bit for bit what went in, or an error that names the run and the file."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from zipfile import ZipFile

import numpy as np
import pytest
import xarray as xr
from zarr.storage import ZipStore

from interp import effects
from interp.errors import StoreError, UnknownNameError
from interp.store import Store, files, listing, run_id
from interp.store.marker import HALF, WHOLE

ATTRS = {
    "patching": "denoising",
    "noise_floor": {"logit_diff": 1e-6},
    "engine_semantics": 1,
    "model": "tiny",
    "task": "demo",
    "site": "z",
}


def result(spec=1, dtype="float32", **attrs):
    """A result with every kind of value that is easily lost: a NaN with a payload, −0, infinities, odd text."""
    bits = "uint32" if dtype == "float32" else "uint64"
    value = np.linspace(-1, 1, 24).astype(dtype).reshape(1, 3, 2, 4)
    value.view(bits)[0, 0, 0, 0] = 0x7FC12345 if dtype == "float32" else 0x7FF8000000012345
    value[0, 0, 0, 1:] = [np.inf, -0.0, np.nan]
    return effects.assemble(
        value,
        np.ones((1, 4), dtype),
        np.zeros((1, 4), dtype),
        axes={"layer": [0, 1, 2], "position": ["S2", "END"]},
        metrics=["logit_diff"],
        by_rule=np.arange(24).reshape(3, 2, 4) == 99,
        absent=np.zeros((3, 2), bool),
        coords={"template": ["", "\x00", "a\x00", "é ☃"], "clean_token": np.array([["a", " b", "\n", "<b>"]] * 2, object)},
        attrs=ATTRS | {"spec": {"n": spec}} | attrs,
    )


def same(a, b):
    """Equal in values to the bit, dtypes, coordinates, attrs and order."""
    assert a.identical(b)
    assert list(a.variables) == list(b.variables)
    for name, variable in a.variables.items():
        assert variable.dtype == b[name].dtype, name
        if variable.dtype != object:
            assert variable.values.tobytes() == b[name].values.tobytes(), name
    return True


def unchecked(function):
    """Without the tests' check of annotations (that of `sweeps` would bring torch)."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_loaded_is_what_was_saved(store, dtype):
    ds = result(dtype=dtype)
    run = store.save(ds, name="first", tags=["a"])
    assert run.status == "complete"
    assert same(store.load(run.id), ds)
    assert same(store.load("first"), ds)
    assert same(store.load(run.id[:5]), ds)
    assert same(run.load(), ds)
    same(store.load(store.save(store.load("first")).id), ds)  # and once more round


def test_a_tree_of_families(store):
    tree = xr.DataTree.from_dict({"/resid": result(1), "/z": result(2)})
    run = store.save(tree)
    found = store.load(run.id)
    assert isinstance(found, xr.DataTree)
    assert found.identical(tree)
    for name in ("resid", "z"):
        assert same(found[name].to_dataset(), tree[name].to_dataset())
    assert run.id == run_id({"families": {"/resid": {"n": 1}, "/z": {"n": 2}}}, 1)
    assert store.runs().loc[0, "site"] == "z"


def test_zarr_alone_reads_a_run(store):
    run = store.save(result())
    with ZipStore(run.path / run.marker["data"] / "data.zarr.zip", mode="r") as packed:
        plain = xr.open_zarr(packed, consolidated=False, chunks=None).load()
    assert plain["value"].shape == (1, 3, 2, 4)
    assert plain.attrs["spec"] == {"n": 1}


def test_large_arrays_are_cut_into_chunks(store, monkeypatch):
    monkeypatch.setattr("interp.store.arrays.CHUNK_BYTES", 16)
    ds = result()
    run = store.save(ds)
    with ZipFile(file_of(run)) as packed:
        assert len([f for f in packed.namelist() if f.startswith("value/c/")]) == 6  # four examples of 4 bytes each
    assert same(run.load(), ds)


def test_the_id_is_the_digest_of_spec_and_semantics(store):
    # sha256 of {"engine_semantics":1,"spec":{"n":1}}, its first 12 digits; worked out with sha256sum.
    assert store.save(result(versions={"torch": "1"})).id == "7a62bc1d18f0" == run_id({"n": 1}, 1)
    assert store.save(result(versions={"torch": "2"})).id == "7a62bc1d18f0"
    assert store.save(result(engine_semantics=2)).id != "7a62bc1d18f0"
    assert store.find({"n": 1}, 1).id == "7a62bc1d18f0"
    assert store.find({"n": 5}, 1) is None
    assert "7a62bc1d18f0" in store
    assert "nobody" not in store


def test_saving_again_replaces_the_numbers_and_keeps_the_words(store):
    store.save(result(), name="mine", tags=["a"])
    newer = result()
    newer["value"][0, 1, 1, 1] = 7.0
    newer = effects.stamped(newer)
    run = store.save(newer, tags=["b", "a"])
    assert (run.name, run.tags) == ("mine", ("a", "b"))
    assert same(store.load("mine"), newer)
    assert sorted(p.name for p in run.path.iterdir()) == sorted([run.marker["data"], WHOLE])
    assert len(store.runs()) == 1


DERIVED = {
    "arithmetic": lambda ds: 2 * ds,
    "effect": effects.effect,
    "summary": effects.summary,
    "a layer": lambda ds: ds.sel(layer=[1]),
    "other names": lambda ds: ds.assign_coords(layer=[5, 6, 7]),
    "a mean": lambda ds: ds.mean("example"),
    "half a run": lambda ds: ds.where(ds["layer"] < 1),
}


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
@pytest.mark.parametrize("first", [True, False])
def test_what_was_derived_from_a_result_does_not_answer_what_was_asked(store, derive, first):
    ds = result()
    if first:
        store.save(ds, name="asked")
    derived = derive(ds)
    assert derived.attrs["spec"] == ds.attrs["spec"]  # xarray hands attributes on
    run = store.save(derived, name="derived")
    assert run.id != "7a62bc1d18f0"
    assert run.load().identical(derived)
    assert (store.find({"n": 1}, 1) is None) == (not first)
    assert not first or same(store.load("asked"), ds)


def test_a_tree_with_a_derived_family_is_derived(store):
    tree = xr.DataTree.from_dict({"/resid": result(1), "/z": result(2).sel(layer=[1])})
    assert store.save(tree).id != run_id({"families": {"/resid": {"n": 1}, "/z": {"n": 2}}}, 1)
    assert store.like(tree) is None


def test_a_coordinate_that_no_axis_has_and_an_attribute_derive_nothing(store):
    ds = result()
    more = ds.assign_coords(note=("example", list("abcd"))).assign_attrs(in_sample=True)
    assert store.save(more).id == "7a62bc1d18f0"


def test_what_is_beside_a_run_stays_when_it_is_saved_again(store):
    store.save(result(), beside={"recipe.json": b"{}", "note.txt": b"old"})
    run = store.save(result(), beside={"note.txt": b"new"})
    assert run.beside() == {"recipe.json": b"{}", "note.txt": b"new"}
    (run.path / run.marker["data"] / "recipe.json").write_bytes(b"[]")  # damaged: its checksum does not hold
    assert store.save(result()).beside() == {}


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (["recipe.json"], "beside is of type list; expected a mapping of file names to bytes"),
        ({"data.zarr.zip": b""}, "is the name of the data itself; choose another"),
        ({"note.txt": "text"}, "is str; expected bytes"),
    ],
)
def test_what_cannot_be_beside_a_run(store, beside, message):
    with pytest.raises(StoreError, match=message):
        unchecked(Store.save)(store, result(), beside=beside)


def test_a_result_without_a_spec_is_known_by_its_content(store):
    nameless = result(made_at="2026-01-01").assign_attrs(spec=None)
    one, two = store.save(nameless, name="first"), store.save(nameless, tags=["again"])
    assert one.id == two.id
    assert (two.name, two.tags) == ("first", ("again",))
    other = store.save(nameless.assign(clean=nameless["clean"] + 1))
    assert other.id != one.id
    assert same(one.load(), nameless)
    plain = xr.Dataset({"a": ("layer", [1.0, 2.0])}, {"layer": [0, 1]}, {"model": "m"})
    assert store.save(plain).load().identical(plain)
    assert store.runs(model="m")["made_at"].notna().all()  # when it was saved


@pytest.mark.parametrize("name", ["copying", None])
def test_an_array_alone(store, name):
    scores = xr.DataArray(np.arange(6.0).reshape(2, 3), {"layer": [0, 1]}, ("layer", "head"), name, {"model": "m", "x": [1]})
    found = store.save(scores).load()
    assert isinstance(found, xr.DataArray)
    assert found.identical(scores)
    assert store.runs()["model"].tolist() == ["m"]


def test_what_is_no_result_is_refused(store):
    with pytest.raises(StoreError, match="a result is a Dataset, DataTree or DataArray of xarray; got dict"):
        unchecked(Store.save)(store, {})


def test_the_table_of_runs(store):
    assert store.runs().empty
    store.save(result(1, made_at="2026-01-01T00:00:00+00:00"), name="old", tags=["x", "y"])
    store.save(result(2, made_at="2026-02-01T00:00:00+00:00", task=None))
    table = store.runs()
    assert table.columns.tolist() == [
        *("id", "name", "model", "task", "method", "site", "patching", "metrics", "made_at", "size", "tags", "status", "reason")
    ]
    assert table["name"].tolist() == ["", "old"]  # newest first
    assert table["task"].tolist() == ["", "demo"]
    assert table["tags"].tolist() == [(), ("x", "y")]
    assert table["metrics"].tolist() == ["logit_diff", "logit_diff"]
    assert (table["size"] > 0).all()
    assert (table["status"] == "complete").all()


def test_runs_are_filtered(store):
    store.save(result(1, made_at="2026-01-01T00:00:00+00:00", method="patch"), name="old one", tags=["x", "y"])
    store.save(result(2, made_at="2026-02-01T12:00:00+00:00", model="org/tiny-2", method="ablate"), name="new", tags=["x"])

    def names(**words):
        return store.runs(**words)["name"].tolist()

    assert names(tags="x") == names(tags=["x"]) == ["new", "old one"]
    assert names(tags=["x", "y"]) == names(model="tiny") == names(method="patch") == names(name="old*") == ["old one"]
    assert names(model="*tiny*", since="2026-01-15") == names(since="2026-02-01 12:00") == ["new"]
    assert names(until="2026-02-01") == ["old one"]
    assert names(task="demo", status="complete", site="z", patching="denoising") == ["new", "old one"]
    assert names(task="none") == []
    for word in ("soon", 2026, float("nan"), "NaT"):
        with pytest.raises(StoreError, match=rf"since is {word!r}; expected a date"):
            store.runs(since=word)
    assert names(status="*") == ["new", "old one"]
    with pytest.raises(
        UnknownNameError, match=r"unknown status 'finished' of a run.*known: complete, running, unfinished, damaged"
    ):
        store.runs(status="finished")
    with pytest.raises(StoreError, match=r"tags is 3 of type int; expected texts, such as tags=\['paper', 'draft'\]"):
        unchecked(Store.runs)(store, tags=3)
    with pytest.raises(StoreError, match="model is 3 of type int; expected text"):
        unchecked(listing.table)(store.files, model=3)


def test_the_index_is_never_older_than_the_store(store):
    run = store.save(result(), name="one")
    assert store.runs()["name"].tolist() == ["one"]
    store.save(result(), name="two")
    assert store.runs()["name"].tolist() == ["two"]
    assert store.label(run.id, name="three", tags=["t"]).name == "three"
    assert store.runs()["name"].tolist() == ["three"]
    assert store.runs()["tags"].tolist() == [("t",)]
    index = store.files.root / ".index"
    for harm in (b"", b"x" * 100, index.read_bytes().replace(b"three", b"wrong")):
        index.write_bytes(harm)
        assert store.runs()["name"].tolist() == ["three"]
    store.delete(run.id)
    assert store.runs().empty
    assert same(store.save(result(made_at="x")).load(), result(made_at="x"))


def test_files_beside_the_data(store):
    run = store.save(result(), beside={"recipe.json": b"{}", "rotation.safetensors": b"\x00\x01"})
    assert run.beside() == {"recipe.json": b"{}", "rotation.safetensors": b"\x00\x01"}
    assert (run.path / run.marker["data"] / "rotation.safetensors").read_bytes() == b"\x00\x01"
    assert same(run.load(), result(made_at=run.load().attrs["made_at"]))
    (run.path / run.marker["data"] / "recipe.json").write_bytes(b"[]")
    with pytest.raises(StoreError, match=f"run {run.id}: .*recipe.json is damaged"):
        run.beside()
    for name in ("../x", "a/b", ""):
        with pytest.raises(StoreError, match="file beside a run"):
            store.save(result(2), beside={name: b""})
    with pytest.raises(StoreError, match=r"beside\['a'\] is str; expected bytes"):
        unchecked(Store.save)(store, result(2), beside={"a": "text"})
    assert store.save(result(3)).beside() == {}


def test_delete(store):
    run = store.save(result(), name="mine")
    store.delete("mine")
    assert not run.path.exists()
    with pytest.raises(StoreError, match=r"no run 'mine' among the 0 of .*runs; is it another store"):
        store.load("mine")


def test_a_full_disk_is_said_to_be_full_and_what_is_there_stays(store, monkeypatch):
    mine = result()
    run = store.save(mine, name="mine")

    def refuse(*given):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", refuse)
        with pytest.raises(StoreError, match=r"No space left on device; make room and call again, what was finished is kept$"):
            store.save(result(2))
    assert [one.id for one in store if one.status == "complete"] == [run.id]
    assert store.load("mine").identical(mine)


@pytest.mark.parametrize("name", ["../other", "a/b", "..", "a\\b", ".hidden", "", " x", "a\nb", "x" * 101])
def test_names_that_could_reach_outside_are_refused(store, name):
    with pytest.raises(StoreError, match=r"is refused: it may have 1 to 100 characters"):
        store.save(result(), name=name)
    with pytest.raises(StoreError):
        store.load(name)
    with pytest.raises(StoreError):
        store.delete(name)
    assert not store.files.root.exists()


def test_a_reference_that_fits_none_or_several(store):
    first = store.save(result(1), name="same")
    store.save(result(2), name="same")
    with pytest.raises(
        StoreError, match=rf"could be any of .*{first.id} \(z, 20..-..-.. ..:..\).*give more of the id, or give one"
    ):
        store.load("same")
    with pytest.raises(
        StoreError, match=r"no run 'xyz' among the 2 of .*runs; store.runs\(\) lists them, and so does interp ls"
    ):
        store.load("xyz")
    with pytest.raises(StoreError, match=r"run is Run\(.*\) of type Run; expected its id, the beginning of one, or its name"):
        unchecked(type(store).run)(store, first)
    with pytest.raises(StoreError, match=r"no run 'sane' among the 2 of .*runs; did you mean 'same'"):
        store.load("sane")


def test_what_cannot_be_removed_is_said(store, monkeypatch):
    run = store.save(result(), name="mine")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(StoreError, match=rf"^{run.id}/run.json in the store '.*' cannot be reached: PermissionError: "):
        store.delete("mine")
    assert store.load("mine") is not None


def test_a_store_stays_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store, of_home = Store("runs"), Store("~/runs")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.address == str(tmp_path / "runs")
    run = store.save(result())
    assert run.path == tmp_path / "runs" / run.id
    assert same(Store(tmp_path / "runs").load(run.id), result(made_at=run.load().attrs["made_at"]))
    assert of_home.address == str(tmp_path / "home" / "runs")


def test_only_a_folder_is_a_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"a store is a folder, but .* is a file"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match=r"a store is a folder, but '.*/file' is a file"):
        Store(tmp_path / "file" / "inside")
    with pytest.raises(StoreError, match=r"the store '.*x+' cannot be reached: .*too long"):
        Store(tmp_path / ("x" * 300))
    for nothing in ("", "a\0b"):
        with pytest.raises(
            StoreError, match=r"a store is given as its folder or address, got '.*'; '.' is the folder that you are in"
        ):
            Store(nothing)
    with pytest.raises(StoreError, match="a store is given as its folder or address, got 7 of type int"):
        unchecked(files.at)(7)
    with pytest.raises(StoreError, match=r"the address 'nowhere://bucket' cannot be opened: .*nowhere"):
        Store("nowhere://bucket")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda store: unchecked(Store.save)(store, result(), tags=3), "tags is 3 of type int"),
        (lambda store: unchecked(Store.save)(store, {"value": 1}), "a result is a Dataset, .* got dict"),
        (lambda store: unchecked(Store.like)(store, None), "a result is a Dataset, .* got NoneType"),
        (
            lambda store: unchecked(Store.find)(store, {1, 2}, 1),
            r"spec is of type set, which is no JSON \(.*\); expected attrs",
        ),
    ],
)
def test_what_is_given_and_what_is_expected_is_said(store, ask, message):
    with pytest.raises(StoreError, match=message):
        ask(store)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"spec": {"f": (1, 2)}}, "would change in JSON: use lists for tuples"),
        ({"x": float("nan")}, "attrs of / must be JSON"),
        ({"engine_semantics": None}, "one integer attrs.*got None"),
    ],
)
def test_attrs_that_json_would_change_are_refused(store, attrs, message):
    with pytest.raises(StoreError, match=message):
        store.save(result().assign_attrs(attrs))


def test_a_variable_that_zarr_cannot_hold_is_refused_and_leaves_nothing(store):
    ds = result().assign_coords(thing=("example", np.array([{}, 1, "a", None], object)))
    with pytest.raises(StoreError, match="cannot be written as zarr"):
        store.save(ds)
    assert len(store.runs()) == 0


# ------------------------------------------------------------------------------------------------------------------- damage


def file_of(run):
    return run.path / run.marker["data"] / "data.zarr.zip"


def test_one_flipped_bit_is_found(store, seed):
    run = store.save(result())
    other = store.save(result(2))
    rng, file = random.Random(seed), file_of(run)
    whole = file.read_bytes()
    for at in [0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(30))]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(StoreError, match=rf"run {run.id}: .*data.zarr.zip is damaged \(its checksum does not hold\)"):
            store.load(run.id)
        assert store.check(run.id).status == "damaged"
        assert store.check(other.id).status == "complete"
        assert len(store.runs()) == 2
    file.write_bytes(whole)
    assert same(store.load(run.id), result().assign_attrs(made_at=run.load().attrs["made_at"]))


@pytest.mark.parametrize("listed", [False, True], ids=["new", "in the index"])
@pytest.mark.parametrize("harm", ["truncate", "remove", "rename", "link", "folder link"])
def test_damage_is_listed_and_the_rest_stays_usable(store, tmp_path, harm, listed):
    run, other = store.save(result(), name="mine"), store.save(result(2))
    if listed:
        assert (store.runs()["status"] == "complete").all()
    file = file_of(run)
    if harm == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "remove":
        file.unlink()
    elif harm == "rename":
        file.rename(file.with_name("9"))
    elif harm == "link":
        shutil.copy(file, tmp_path / "elsewhere")
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere")
    else:
        data = run.path / run.marker["data"]
        data.rename(tmp_path / "elsewhere")
        data.symlink_to(tmp_path / "elsewhere")
    if harm != "folder link":  # its file is as long as it was; loading finds it
        table = store.runs().set_index("id")
        assert table.loc[run.id, "status"] == "damaged"
        assert table.loc[run.id, "reason"]
        assert table.loc[other.id, "status"] == "complete"
    with pytest.raises(StoreError, match=f"run {run.id}: "):
        store.load(run.id)
    store.load(other.id)
    store.delete(run.id)
    assert run.id not in store
    if "link" in harm:
        assert (tmp_path / "elsewhere").exists()


def test_a_foreign_file_in_the_data_is_found(store):
    run = store.save(result())
    file_of(run).with_name("9").write_bytes(b"x")
    with pytest.raises(StoreError, match=f"run {run.id}: .*/9 is a foreign file, not written with the run"):
        store.load(run.id)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2}', "\x00", '{"format": 2, "digest": "x"}'])
def test_a_broken_marker_is_damage(store, text):
    run = store.save(result())
    (run.path / WHOLE).write_text(text)
    assert store.runs()["status"].tolist() == ["damaged"]
    with pytest.raises(StoreError, match=f"run {run.id}: {WHOLE} is damaged"):
        store.load(run.id)


def test_a_changed_marker_is_damage(store):
    run = store.save(result(), name="mine")
    marker = json.loads((run.path / WHOLE).read_text())
    (run.path / WHOLE).write_text(json.dumps(marker | {"data": "../../other.zarr"}))
    with pytest.raises(StoreError, match=r"damaged \(its checksum does not hold\)"):
        store.load(run.id)


def test_a_renamed_run_is_damage(store):
    run = store.save(result())
    run.path.rename(store.files.root / ("0" * 12))
    with pytest.raises(StoreError, match=f"the folder was renamed; its marker belongs to run {run.id}"):
        store.load("0" * 12)


def test_another_version_is_named(store):
    run = store.save(result())
    marker = json.loads((run.path / WHOLE).read_text())
    (run.path / WHOLE).write_text(json.dumps(marker | {"format": 7}))
    with pytest.raises(StoreError, match=f"run {run.id} was written in store format 7; this version reads format 2"):
        store.load(run.id)
    assert "store format 7" in store.runs()["reason"][0]


@pytest.mark.parametrize("which", [WHOLE, HALF])
@pytest.mark.parametrize("marker", [{"format": 7}, {"format": 7, "digest": "x", "sealed": []}])
def test_a_run_of_another_version_is_not_written_over(store, which, marker):
    run = store.save(result())
    (run.path / WHOLE).rename(run.path / which)
    (run.path / which).write_text(json.dumps(marker))
    with pytest.raises(StoreError, match=f"^run {run.id} was written in store format 7; this version reads format 2: use the"):
        store.save(result())
    assert json.loads((run.path / which).read_text()) == marker
    assert sorted(one.name for one in run.path.iterdir()) == sorted([which, run.marker["data"]])


def test_foreign_things_in_the_folder_are_not_runs(store):
    run = store.save(result())
    (store.files.root / "notes.txt").write_text("hello")
    (store.files.root / "elsewhere").mkdir()
    (store.files.root / ("a" * 12)).write_text("a file with the name of a run")
    assert sorted(store.runs()["status"]) == ["complete", "damaged"]
    store.delete("a" * 12)
    assert store.runs()["id"].tolist() == [run.id]


def test_an_unfinished_run_is_listed_and_never_read(store):
    run = store.save(result())
    (run.path / WHOLE).unlink()
    table = store.runs()
    assert table["status"].tolist() == ["unfinished"]
    assert table["reason"].tolist() == ["no run.json: its writer was stopped, or is still at work"]
    with pytest.raises(StoreError, match=f"run {run.id} is unfinished"):
        store.load(run.id)
    assert same(store.save(result(made_at="x")).load(), result(made_at="x"))  # and can be saved again


WRITER = """
import sys
sys.path.insert(0, {here!r})
from test_runs import Store, effects, result
store = Store({path!r})
print("ready", flush=True)
n = 0
while True:
    ds = result(n % 3)
    ds["clean"][:] = n
    store.save(effects.stamped(ds))
    n += 1
"""


def test_a_killed_writer_leaves_whole_runs_or_unfinished_ones(store, seed):
    rng = random.Random(seed)
    code = WRITER.format(here=os.path.dirname(__file__), path=store.address)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.05, 0.5))
            writer.send_signal(signal.SIGKILL)
        for run in store:
            assert run.status in ("complete", "unfinished"), run.reason
            if run.status == "complete":
                ds = run.load()
                assert len(np.unique(ds["clean"])) == 1  # one writer's version, not a mixture
                others = result(ds.attrs["spec"]["n"], made_at=ds.attrs["made_at"])
                assert same(*(effects.stamped(one.drop_vars("clean")) for one in (ds, others)))


def test_a_reader_sees_one_version_while_it_is_replaced(store):
    code = WRITER.format(here=os.path.dirname(__file__), path=store.address)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"ready\n"
            wanted, seen, end = run_id({"n": 0}, 1), set(), time.monotonic() + 60
            while len(seen) < 3 and time.monotonic() < end:
                if store.find({"n": 0}, 1):
                    values = np.unique(store.load(wanted)["clean"])
                    assert len(values) == 1
                    seen.add(values.item())
        finally:
            writer.kill()
    assert len(seen) >= 3


def test_results_are_read_without_torch():
    code = "import sys, interp.store, interp.views, interp.effects, interp.stats, interp.report; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
