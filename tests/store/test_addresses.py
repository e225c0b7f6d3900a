"""Stores at an address that fsspec knows: memory stands for an object store."""

import threading
import time
import uuid

import fsspec
import half_runs as half
import numpy as np
import pytest

from interp.errors import StoreError
from interp.store import Store
from interp.store.files import Local, Remote


@pytest.fixture
def address():
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}/runs"
    fsspec.filesystem("memory").rm(name, recursive=True)


def whole(spec=1, **attrs):
    return half.skeleton(spec, **attrs).assign(value=(half.skeleton()["value"].dims, half.whole()))


def test_what_is_loaded_is_what_was_saved(address):
    store = Store(address)
    assert isinstance(store.files, Remote)
    assert store.runs().empty
    run = store.save(whole(), name="mine", tags=["a"], beside={"recipe.json": b"{}"})
    assert repr(store) == f"Store({address!r})"
    other = Store(address)
    assert other.load("mine").identical(whole(made_at=run.load().attrs["made_at"]))
    assert other.run("mine").beside() == {"recipe.json": b"{}"}
    assert other.runs()[["name", "status", "tags"]].values.tolist() == [["mine", "complete", ("a",)]]
    store.save(whole(2, made_at="2020-01-01"), name="older")
    assert other.runs()["name"].tolist() == ["mine", "older"]
    assert other.runs(until="2021-01-01")["name"].tolist() == ["older"]
    with pytest.raises(StoreError, match=f"the store {address} is no local folder, so run {run.id} has no path"):
        _ = run.path
    store.delete("mine")
    assert other.runs()["name"].tolist() == ["older"]
    with pytest.raises(StoreError, match="no run 'mine' among the 1"):
        other.load("mine")


def test_damage_is_found(address):
    store = Store(address)
    run = store.save(whole(), name="mine")
    path = f"{run.id}/{run.marker['data']}/data.zarr.zip"
    data = store.files.read(path)
    store.files.write(path, data[:-9] + b"x" + data[-8:])
    with pytest.raises(StoreError, match=f"run {run.id}: .*data.zarr.zip is damaged"):
        store.load("mine")
    store.files.write(path, data[:-1])
    assert store.runs()["status"].tolist() == ["damaged"]


def test_units_are_shared_and_resumed(address):
    def stop(unit):
        if unit.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half.write(Store(address), slow=stop, name="mine")
    run = Store(address).run("mine")
    assert (run.status, run.progress) == ("unfinished", (3, 9))
    assert np.isnan(run.load(partial=True)["value"]).any()
    found = []

    def write():
        found.append(half.write(Store(address), slow=lambda unit: time.sleep(0.02)))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for done, _ in found for number in done) == [3, 4, 5, 6, 7, 8]
    assert np.array_equal(Store(address).load("mine")["value"].values, half.whole())


def test_a_service_that_is_away_is_no_damage(address, monkeypatch):
    def stop(unit):
        if unit.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half.write(Store(address), slow=stop, name="mine")
    there = set(fsspec.filesystem("memory").find(Store(address).files.root))

    class AwayError(Exception):  # as of a service's own kind
        pass

    def read(self, path, *args, **kwargs):
        if ".units/000001" in path:
            raise AwayError("no route")
        return cat(self, path, *args, **kwargs)

    memory = type(fsspec.filesystem("memory"))
    cat = memory.cat_file
    with monkeypatch.context() as patched:
        patched.setattr(memory, "cat_file", read)
        with pytest.raises(StoreError, match=r"000001 in the store 'memory:.*' cannot be reached: AwayError: no route"):
            half.write(Store(address))
    assert set(fsspec.filesystem("memory").find(Store(address).files.root)) >= there  # what was done is not given up
    done, run = half.write(Store(address))
    assert done == []
    assert np.array_equal(run.load()["value"].values, half.whole())
    with monkeypatch.context() as patched:
        patched.setattr(memory, "find", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(StoreError, match=r"the store 'memory:.*' cannot be reached: ZeroDivisionError"):
            Store(address).runs()


def test_a_bucket_is_not_made(monkeypatch):
    """As in object stores: files need no folder there, and making one makes the bucket that it is in."""
    memory, buckets = fsspec.filesystem("memory"), {"mine"}
    real = memory.pipe_file

    def bucket(path):
        return path.strip("/").partition("/")[0]

    def pipe_file(path, *given, **words):
        if bucket(path) not in buckets:
            raise FileNotFoundError("The specified bucket does not exist")
        real(path, *given, **words)

    monkeypatch.setattr(type(memory), "protocol", ("memory", "s3"))
    monkeypatch.setattr(memory, "makedirs", lambda path, exist_ok=False: buckets.add(bucket(path)))
    monkeypatch.setattr(memory, "pipe_file", pipe_file)
    run = Store("memory://mine/runs").save(whole())
    assert Store("memory://mine/runs").load(run.id).identical(run.load())
    assert half.write(Store("memory://mine/other"))[1].status == "complete"
    why = "^the store 'memory://mien/runs' cannot be written: .*bucket does not exist; is there a bucket 'mien'. No store makes"
    with pytest.raises(StoreError, match=why):
        Store("memory://mien/runs").save(whole())
    with pytest.raises(StoreError, match=why):
        half.write(Store("memory://mien/runs"))
    assert buckets == {"mine"}
    memory.rm("/mine", recursive=True)


@pytest.mark.parametrize("address", ["memory://", "memory:///"])
def test_an_address_names_a_place(address):
    with pytest.raises(StoreError, match=rf"the address '{address}' names no place for a store; give a bucket and a folder"):
        Store(address)


def test_an_address_of_a_folder_is_that_folder(tmp_path):
    store = Store(f"file://{tmp_path}/runs")
    assert isinstance(store.files, Local)
    run = store.save(whole(), name="mine")
    assert run.path == tmp_path / "runs" / run.id
    assert Store(tmp_path / "runs").load("mine").identical(run.load())
