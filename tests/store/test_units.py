"""Runs that are written unit by unit: resumed, shared, read while they are made."""

import json
import threading
import time

import half_runs as half
import numpy as np
import pytest
import xarray as xr

from interp import effects
from interp.errors import StoreError
from interp.store import Store, leases, marker
from interp.store.leases import Leases

COUNT = 9  # 5 layers two at a time, 7 examples three at a time


class StoppedError(Exception):
    pass


def stop_at(number):
    def slow(unit):
        if unit.number == number:
            raise StoppedError

    return slow


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def begun(store):
    """A run that was stopped in its fifth unit."""
    with pytest.raises(StoppedError):
        half.write(store, slow=stop_at(4), name="mine", tags=["a"], beside={"recipe.json": b"{}"})
    return store.run("mine")


def test_units_make_a_run(store):
    done, run = half.write(store, name="mine", tags=["a"], beside={"recipe.json": b"{}"})
    assert done == list(range(COUNT))
    assert (run.status, run.name, run.tags, run.progress) == ("complete", "mine", ("a",), (1, 1))
    found = run.load()
    assert np.array_equal(found["value"].values, half.whole())
    assert found.attrs["units"] == list(range(COUNT))
    expected = half.skeleton(made_at=found.attrs["made_at"], units=list(range(COUNT)))
    assert found.identical(effects.stamped(expected.assign(value=(expected["value"].dims, half.whole()))))
    assert run.beside() == {"recipe.json": b"{}"}
    assert sorted(p.name for p in run.path.iterdir()) == sorted([run.marker["data"], "run.json"])
    assert store.save(found).id == run.id


def test_what_was_begun_is_resumed(store, begun):
    assert (begun.status, begun.reason, begun.progress) == ("unfinished", "4 of 9 units are done", (4, COUNT))
    with pytest.raises(StoreError, match=r"is unfinished: it has no run.json; ask for it again to finish it"):
        begun.load()
    table = store.runs()
    assert table[["name", "model", "method", "status", "reason"]].values.tolist() == [
        ["mine", "tiny", "patch", "unfinished", "4 of 9 units are done"]
    ]
    done, run = half.write(store)
    assert done == [4, 5, 6, 7, 8]
    assert (run.name, run.tags, run.beside()) == ("mine", ("a",), {"recipe.json": b"{}"})
    assert np.array_equal(run.load()["value"].values, half.whole())
    assert half.write(store)[0] == []  # and once more: nothing is left to do
    assert store.runs()["status"].tolist() == ["complete"]


def test_half_a_run_that_is_saved_is_another_run(store, begun):
    half_read = begun.load(partial=True)
    saved = store.save(half_read, name="half")
    assert saved.id != begun.id
    assert saved.load().identical(half_read)
    assert store.run(begun.id).status == "unfinished"
    assert half.write(store)[0] == [4, 5, 6, 7, 8]


def test_a_name_that_is_given_later_is_the_name(store, begun):
    run = half.write(store, name="finished", tags=["b"])[1]
    assert (run.name, run.tags) == ("finished", ("a", "b"))


def test_a_run_that_others_finish_meanwhile_is_theirs(store):
    with store.begin(half.skeleton(), chunks=half.CHUNKS) as late:
        unit = next(iter(late))
        with store.begin(half.skeleton(), chunks=half.CHUNKS, expiry=0.0) as other:  # to whom every lease is void
            for one in other:
                other.write(one, half.part(one))
            run = other.finish()
        late.write(unit, half.part(unit))
        assert list(late) == []
        assert late.finish().load().identical(run.load())
    assert sorted(store.files.names(run.id)) == sorted([run.marker["data"], "run.json"])


def test_half_a_run_is_read_as_far_as_it_is(store, begun):
    found = begun.load(partial=True)["value"].values
    known = ~np.isnan(found)
    assert np.array_equal(found[known], half.whole()[known])
    expected = np.zeros_like(known)
    expected[:, :2] = True
    expected[:, 2:4, :, :3] = True
    assert np.array_equal(known, expected)
    assert store.load("mine", partial=True)["clean"].values.tolist() == [[1.0] * 7]


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "remove", "swap"])
def test_a_damaged_unit_is_not_there_and_is_done_again(store, begun, harm):
    units = sorted((begun.path / f"{begun.marker['data']}.units").iterdir())
    data = units[1].read_bytes()
    if harm == "flip":
        units[1].write_bytes(data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])
    elif harm == "truncate":
        units[1].write_bytes(data[:-1])
    elif harm == "empty":
        units[1].write_bytes(b"")
    elif harm == "swap":
        units[1].write_bytes(units[0].read_bytes())
    else:
        units[1].unlink()
    found = begun.load(partial=True)["value"].values
    assert np.isnan(found[:, :2, :, 3:6]).all()
    assert np.array_equal(found[:, :2, :, :3], half.whole()[:, :2, :, :3])
    done, run = half.write(store)
    assert sorted(done) == [1, 4, 5, 6, 7, 8]
    assert np.array_equal(run.load()["value"].values, half.whole())


def files_of(run, but=()):
    return {
        p.relative_to(run.path).as_posix(): p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name not in but
    }


def flip(path):
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])


def test_a_damaged_plan_is_said_and_the_run_made_anew(store, begun):
    (begun.path / "plan.json").write_text("{")
    assert store.runs()["reason"].tolist() == [f"run {begun.id}: plan.json is damaged (JSONDecodeError)"]
    before = files_of(begun, but=["plan.json"])
    with pytest.warns(
        UserWarning, match=r"plan.json is damaged \(JSONDecodeError\); it is made anew.*\.units, plan.json\.\w{8}$"
    ):
        done, run = half.write(store)
    assert len(done) == COUNT
    assert np.array_equal(run.load()["value"].values, half.whole())
    assert before.items() <= files_of(run).items()


@pytest.mark.parametrize("harm", ["marker", "data", "size", "removed"])
def test_a_damaged_run_is_made_anew_when_it_is_asked_for_and_what_was_there_is_kept_and_named(store, harm):
    run = half.write(store, name="mine", beside={"recipe.json": b"{}"})[1]
    mark, data = run.path / "run.json", run.path / run.marker["data"] / "data.zarr.zip"
    if harm == "marker":
        mark.write_text(mark.read_text().replace("mine", "yours"))
    elif harm == "data":
        flip(data)  # of the same size: found by its checksum alone
    elif harm == "size":
        data.write_bytes(data.read_bytes()[:-1])
    else:
        data.unlink()
    before, text = files_of(run, but=["run.json"]), mark.read_bytes()
    folder = run.marker["data"]
    with pytest.warns(
        UserWarning, match=f"^run {run.id}: .*; it is made anew. What was there is kept in .*{folder}.*run.json"
    ) as said:
        done, again = half.write(store)
    assert len(said) == 1
    assert len(done) == COUNT
    assert np.array_equal(again.load()["value"].values, half.whole())
    assert again.name == (None if harm == "marker" else "mine"), "what a damaged marker says is not trusted"
    kept = files_of(again)
    assert before.items() <= kept.items()
    assert text in kept.values()
    assert half.write(store)[0] == []
    removed = store.tidy()
    assert any(folder in path for path in removed)
    assert sorted(p.name for p in run.path.iterdir()) == sorted([again.marker["data"], "run.json"])


@pytest.mark.parametrize("harm", ["format", "renamed", "link", "foreign"])
def test_a_run_that_may_be_good_is_refused_and_left_as_it_is(store, harm, tmp_path):
    run = half.write(store)[1]
    mark, message = run.path / "run.json", "links are not followed"
    if harm == "format":
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"format": 7}))
        message = "was written in store format 7; this version reads format 2"
    elif harm == "renamed":
        other = half.write(store, spec=2)[1]
        store.delete(run.id)
        other.path.rename(run.path)
        message = f"the folder was renamed; its marker belongs to run {other.id}"
    elif harm == "foreign":
        (run.path / run.marker["data"] / "notes.txt").write_text("mine")
        message = "notes.txt is a foreign file"
    else:
        (run.path / run.marker["data"]).rename(tmp_path / "elsewhere")
        (run.path / run.marker["data"]).symlink_to(tmp_path / "elsewhere")
    before = files_of(run)
    with pytest.raises(StoreError, match=message):
        half.write(store)
    assert files_of(run) == before


def test_a_run_that_another_made_anew_meanwhile_is_not_set_aside(store, monkeypatch):
    flip(next(half.write(store)[1].path.rglob("data.zarr.zip")))
    real, found = marker.content, []

    def late(*given):  # this writer has read the marker when another one begins and finishes
        if not found:
            found.append(None)
            found.append(half.write(store)[1])
        return real(*given)

    monkeypatch.setattr(marker, "content", late)
    with (
        pytest.warns(UserWarning, match="it is made anew") as said,
        store.begin(half.skeleton(), chunks=half.CHUNKS) as writing,
    ):
        assert list(writing) == []
    assert len(said) == 1, "of the other one"
    assert store.find({"n": 1}, 1).marker == found[1].marker


def test_a_run_lists_its_units_no_oftener_for_having_more(store, monkeypatch):
    listed, names = [], type(store.files).names

    def counted(self, folder):
        listed.append(folder)
        return names(self, folder)

    monkeypatch.setattr(type(store.files), "names", counted)
    half.write(store)
    few = len(listed)
    monkeypatch.setattr(half, "CHUNKS", {"layer": 1, "position": 1, "example": 1})
    monkeypatch.setattr(half, "part", lambda unit: {"value": half.whole()[(slice(None), *unit.index.values())]})
    done, _ = half.write(store, spec=2)
    assert len(done) == 105
    assert len(listed) == 2 * few


def test_two_writers_share_the_units(store):
    found = {}

    def write(who):
        found[who] = half.write(store, slow=lambda unit: time.sleep(0.02))

    threads = [threading.Thread(target=write, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [number for units, _ in found.values() for number in units]
    assert sorted(done) == list(range(COUNT))  # each once
    assert sum(bool(units) for units, _ in found.values()) >= 2
    assert {run.status for _, run in found.values()} == {"complete"}
    assert np.array_equal(store.load(found[0][1].id)["value"].values, half.whole())
    assert len(list(store.files.root.iterdir())) == 1


def test_a_run_at_work_is_running(store):
    seen = []
    with store.begin(half.skeleton(), chunks=half.CHUNKS) as writing:
        seen.append(next(iter(store)).status)
        for unit in writing:
            seen.append(next(iter(store)).status)
            writing.write(unit, half.part(unit))
            seen.append(next(iter(store)).status)
    assert set(seen) == {"running"}
    assert next(iter(store)).status == "unfinished"


def test_a_lease_without_a_sign_of_life_is_taken_over(store):
    first = Leases(store.files, "x", expiry=0.2)
    assert first.claim("a")  # never renewed: its thread does not run
    second = Leases(store.files, "x", expiry=0.2)
    assert not second.claim("a")
    time.sleep(0.3)
    assert second.claim("a")
    first.release("a")  # no more its own
    assert store.files.names("x") == ["a"]
    second.release("a")
    assert store.files.names("x") == []


def test_a_lease_that_is_renewed_is_kept(store):
    with Leases(store.files, "x", expiry=0.2) as first:
        assert first.claim("a")
        second = Leases(store.files, "x", expiry=0.2)
        for _ in range(4):
            assert not second.claim("a")
            time.sleep(0.1)
        assert leases.alive(store.files, "x")
    assert second.claim("a")  # let go of at the end


def test_a_lease_of_a_process_that_ended_is_void_at_once(store):
    import subprocess
    import sys

    code = f"from interp.store import Store, leases; leases.Leases(Store({store.address!r}).files, 'x').claim('a')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert store.files.names("x") == ["a"]
    assert not leases.alive(store.files, "x")
    assert Leases(store.files, "x").claim("a")
    other = json.loads(store.files.read("x/a")) | {"place": "another machine", "pid": 1, "token": "t"}
    store.files.write("x/a", json.dumps(other).encode())
    assert not Leases(store.files, "x").claim("a")


def test_a_tree_of_families(store):
    chunks = {"/a": {"layer": 3}, "/b": {"example": 4}}
    with store.begin(half.tree(), chunks=chunks) as writing:
        for unit in writing:
            writing.write(unit, half.part(unit))
        run = writing.finish(lambda family, attrs: {"family": family})
    found = run.load()
    assert isinstance(found, xr.DataTree)
    for family in ("a", "b"):
        assert np.array_equal(found[family]["value"].values, half.whole())
        assert found[family].attrs["family"] == f"/{family}"


def test_a_unit_of_nan_is_done_all_the_same(store):
    with store.begin(half.skeleton(), chunks=half.CHUNKS) as writing:
        for unit in writing:
            values = half.part(unit)["value"]
            writing.write(unit, {"value": values * np.nan if unit.number in (0, 8) else values})
        assert writing.progress == (COUNT, COUNT)
        found = writing.finish().load()["value"].values
    assert np.isnan(found[:, :2, :, :3]).all()
    assert np.isnan(found[:, 4:, :, 6:]).all()
    assert np.isnan(found).sum() == 2 * 3 * 3 + 3
    assert np.array_equal(found[~np.isnan(found)], half.whole()[~np.isnan(found)])


def test_numbers_that_are_there_already_are_refused(store):
    with pytest.raises(StoreError, match="'value' is filled by units, so it begins as NaN throughout; it has numbers already"):
        store.begin(half.skeleton().fillna(0.0), chunks=half.CHUNKS)


def test_a_run_that_is_whole_is_not_begun_again(store):
    half.write(store)
    with store.begin(half.skeleton(), chunks=half.CHUNKS) as writing:
        assert list(writing) == []
        assert writing.finish().status == "complete"
    assert "plan.json" not in store.files.names(store.run(next(iter(store)).id).id)


def test_values_that_do_not_fit_are_refused(store):
    with store.begin(half.skeleton(), chunks=half.CHUNKS) as writing:
        unit = next(iter(writing))
        with pytest.raises(
            StoreError, match=r"unit 000000 of 'value' is float32 of shape \(1, 2, 3, 3\).*got float32 of shape"
        ):
            writing.write(unit, {"value": np.zeros((1, 2, 3, 4), "float32")})
        with pytest.raises(StoreError, match="a unit fills value; got values"):
            writing.write(unit, {"values": np.zeros(3)})
        with pytest.raises(StoreError, match="unit 000000 is not done"):
            writing.finish()
    with store.begin(half.skeleton(), chunks=half.CHUNKS) as writing:
        units = iter(writing)
        next(units)
        with pytest.raises(StoreError, match="unit 000000 was taken but not written"):
            next(units)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"chunks": {"head": 2}}, "units fill floating-point variables with the axes head; 'value': float32"),
        ({"chunks": {"layer": 0}}, "a unit is at least 1 long along every axis, got {'layer': 0}"),
        ({"chunks": {"layer": 1}, "fills": ("by_rule",)}, "'by_rule': bool"),
        ({"chunks": {"/z": {"layer": 1}}}, "units are planned for the family '/z', but the result has /"),
    ],
)
def test_units_that_cannot_be_are_refused(store, words, message):
    with pytest.raises(StoreError, match=message.replace("(", r"\(").replace("{", r"\{")):
        store.begin(half.skeleton(), **words)
    assert store.runs().empty
