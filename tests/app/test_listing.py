"""The list of runs: what matches, and what a row says."""

import numpy as np
import pandas as pd
import pytest

from interp import effects
from interp.app import listing
from interp.app.data import Library
from interp.errors import StoreError
from interp.store import Store


def names(frame):
    return sorted(frame["name"])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"text": "stream"}, ["families", "others", "stream"]),  # by name, and by the site resid_pre, which is no word of it
        ({"text": "RESID paper"}, ["half", "stream"]),
        ({"text": "nothing like it"}, []),
        ({"model": ["other"]}, ["heads"]),
        ({"site": ["z", "resid_pre, z"]}, ["families", "heads"]),
        ({"tags": ["paper"]}, ["half", "stream"]),
        ({"tags": ["paper", "first"]}, ["stream"]),
        ({"since": "2026-03-01", "until": "2026-03-01"}, ["stream"]),
        ({"until": "2026-01-31"}, ["others"]),
        ({"status": ["damaged"]}, []),
    ],
)
def test_runs_are_filtered_by_all_that_is_asked(saved, asked, found):
    runs = saved[0].runs()
    if asked.get("text") == "stream":
        found = ["stream"]
    assert names(listing.filtered(runs, **asked)) == found


def test_runs_are_sorted(saved):
    runs = saved[0].runs()
    oldest = listing.filtered(runs, sort="oldest")["made_at"].dropna()
    assert oldest.is_monotonic_increasing
    assert listing.filtered(runs, sort="name")["name"].is_monotonic_increasing
    assert listing.filtered(runs, sort="no such order")["made_at"].dropna().is_monotonic_decreasing


def test_many_runs_come_in_pages():
    words = dict.fromkeys(["name", "model", "task", "method", "site", "patching", "metrics", "reason"], "")
    many = {"id": [f"{i:012x}" for i in range(120)], "tags": [()] * 120, "made_at": pd.NaT, "size": 1234567}
    table = pd.DataFrame(many | words | {"status": "complete"})
    for number, rows in ((0, 50), (1, 50), (2, 20), (9, 20), (-3, 50)):
        body, foot = listing.rows(table, number, [], 120)
        assert len(body.children.children[1].children) == rows
        assert "120 runs" in str(foot)
    assert listing.rows(table[:0], 0, [], 120)[0].children == "None of the 120 runs matches."
    assert "holds no runs yet" in listing.rows(table[:0], 0, [], 0)[0].children
    assert listing.size(1234567) == "1.2 MB"
    assert listing.size(12) == "12 B"


def test_two_ticked_runs_can_be_compared():
    assert listing.picked(["a" * 12, "b" * 12])[0].href == f"/compare/{'a' * 12}/{'b' * 12}"
    assert "Tick two" in listing.picked(["a" * 12])[0].children
    assert "3 runs are ticked" in listing.picked(["a", "b", "c"])[0].children


def test_a_run_is_known_by_its_whole_id_and_nothing_else(library, ids):
    assert ids["stream"] in library
    for asked in (ids["stream"][:6], "stream", "../../etc/passwd", "..", "", ids["stream"] + "/..", "0" * 12):
        assert asked not in library
        with pytest.raises(StoreError, match=r"no id of a run|no run"):
            library.open(asked)


def test_the_last_results_are_kept_and_a_new_version_is_read(tmp_path, make, monkeypatch):
    store = Store(tmp_path)
    runs = [store.save(make(scale)) for scale in (0.1, 0.2, 0.3)]
    library = Library(store, keep=2)
    first = library.open(runs[0].id).result
    assert library.open(runs[0].id).result is first
    for run in runs[1:]:
        library.open(run.id)
    assert library.open(runs[0].id).result is not first
    held = library.open(runs[0].id).result
    store.save(effects.stamped(make(0.1).assign(value=make(0.1)["value"] * 2)))
    assert not np.array_equal(library.open(runs[0].id).result["value"], held["value"])


def test_half_a_run_is_read_as_far_as_it_is(tmp_path, make):
    store, whole = Store(tmp_path), make()
    skeleton = whole.assign(value=whole["value"] * np.nan)
    library = Library(store)
    with store.begin(skeleton, chunks={"layer": 1}, name="half") as writing:
        opened = library.open(writing.id)
        assert (opened.done, opened.total, opened.grows) == (0, 3, True)
        assert opened.result["value"].isnull().all()
        stamps = [opened.stamp]
        for unit in writing:
            writing.write(unit, {"value": whole["value"].isel(unit.index).values})
            opened = library.open(writing.id)
            assert opened.stamp not in stamps
            stamps.append(opened.stamp)
            assert int(opened.result["value"].notnull().any(["metric", "position", "example"]).sum()) == opened.done
        assert library.open(writing.id).done == 3
        writing.finish()
    opened = library.open(writing.id)
    assert (opened.run.status, opened.grows, opened.total) == ("complete", False, 0)
    assert np.array_equal(opened.result["value"], whole["value"])
    assert opened.stamp not in stamps


def test_of_half_a_run_the_examples_that_are_furthest_are_shown(tmp_path, make):
    from interp.app import answers, behind, cells

    store, whole = Store(tmp_path), make()
    library = Library(store)
    with store.begin(whole.assign(value=whole["value"] * np.nan), chunks={"example": 2, "layer": 2}) as writing:
        for unit in writing:
            values = whole["value"].isel(unit.index).values.copy()
            if unit.index["example"].start != 2:  # as though most of it were not a number
                values[:, 1:] = np.nan
            writing.write(unit, {"value": values})
            if library.open(writing.id).done == 4:
                break
        opened = library.open(writing.id)
        shown = opened.families()[""]
        assert opened.examples() == (2, 6)
        assert shown["example"].values.tolist() == [2, 3]
        table = cells.examples(shown, answers.choose(library, [writing.id], {}).choice, {"layer": 0, "position": 3})
        assert table["example"].tolist() == [2, 3]
        assert "Example 3" in str(behind.prompt(library, [writing.id], {}, {"layer": 0, "position": 3}, 1))
        assert "the 2 of 6 examples that are furthest" in str(answers.pages.banner([opened]))


def test_a_run_without_anything_to_read_says_why(tmp_path):
    (tmp_path / ("a" * 12)).mkdir()
    opened = Library(Store(tmp_path)).open("a" * 12)
    assert opened.result is None
    assert opened.grows
    assert "its writer was stopped, or is still at work" in opened.problem
    assert opened.families() == {}


def test_an_interrupted_run_and_one_that_nothing_can_be_read_of_say_what_to_do(tmp_path, make):
    from interp.app import pages

    store, whole = Store(tmp_path), make(method="ablate")
    with store.begin(whole.assign(value=whole["value"] * np.nan), chunks={"layer": 1}) as writing:
        writing.write(next(iter(writing)), {"value": whole["value"].isel(layer=slice(1)).values})
        assert "Interrupted" not in str(pages.banner([Library(store).open(writing.id)]))
    said = str(pages.banner([Library(store).open(writing.id)]))
    assert "Interrupted: nobody is at work on this run" in said
    assert "Call interp.ablate again as before, with this store" in said
    run = store.save(make(0.5))
    data = next((tmp_path / run.id).rglob("data.zarr.zip"))
    data.write_bytes(data.read_bytes()[:100])
    assert f"remove it: interp rm {run.id}" in str(pages.banner([Library(store).open(run.id)]))
