"""The commands that work on stores, called as from a shell: what they print, what they write, and their exit status."""

import io
import json
import sys
import zipfile

import half_runs
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from interp import bundle, effects
from interp.cli import main
from interp.commands import listing
from interp.store import Store


def sweep(spec, **attrs):
    at = np.indices((3, 2, 4))
    return effects.assemble(
        (at[0] * 10 + at[1]).astype(float)[None],
        np.full((1, 4), 20.0),
        np.zeros((1, 4)),
        axes={"layer": range(3), "head": range(2)},
        metrics=["logit_diff"],
        attrs={
            "patching": "denoising",
            "noise_floor": {"logit_diff": 0.0},
            "engine_semantics": 1,
            "spec": spec,
            "method": "patch",
        }
        | attrs,
    )


def begin(store, units=4):
    """Half a run."""
    with store.begin(half_runs.skeleton(), chunks=half_runs.CHUNKS, name="half") as writing:
        for unit in writing:
            writing.write(unit, half_runs.part(unit), {"unit": unit.number})
            if len(writing.left()) == 9 - units:
                break


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store in ``runs``, where commands look for one, in the folder in which they are called."""
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    made = {"method": "patch", "model": "gpt2", "task": "ioi", "site": "z", "made_at": "2026-02-01T10:00:00+00:00"}
    store.save(sweep("heads", **made), name="heads", tags=["paper", "first"])
    later = {"method": "patch", "model": "org/SmolLM2-135M", "site": "mlp_out", "made_at": "2026-03-01T10:00:00+00:00"}
    store.save(sweep("mlp", **later), name="mlp", tags=["paper"])
    store.save(xr.DataTree.from_dict({"a": sweep("a"), "b": sweep("b")}), name="both")
    lens = xr.Dataset({"prob": (("example", "layer"), np.ones((2, 3)))}, attrs={"spec": None, "engine_semantics": 1})
    store.save(lens, name="readout")
    begin(store)
    return store


@pytest.fixture
def interp(capsys):
    """Calls the command line; its exit status and what it printed."""

    def call(*arguments):
        status = main(list(arguments))
        return status, capsys.readouterr()

    return call


def damage(run):
    file = next(run.path.rglob("data.zarr.zip"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")


def test_ls_shows_every_run_and_how_far_half_a_run_is(store, interp):
    status, said = interp("ls")
    lines = said.out.splitlines()
    assert status == 0
    assert lines[0].split() == ["id", "name", "model", "task", "method", "site", "made", "at", "kB", "tags", "status"]
    assert len(lines) == 6
    (half,) = (line for line in lines if " half " in line)
    assert half.endswith("unfinished 4/9")
    assert (
        interp("ls", "--store", "runs")[1].out
        == interp("ls", "runs")[1].out
        == interp("ls", "--store", store.files.root.absolute().as_uri())[1].out
        == said.out
    )


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["--model", "*SmolLM2*"], ["mlp"]),
        (["--task", "ioi"], ["heads"]),
        (["--method", "patch", "--since", "2026-02-15", "--until", "2026-03-02"], ["mlp"]),
        (["--tag", "paper"], ["mlp", "heads"]),
        (["--tag", "paper", "--tag", "first"], ["heads"]),
        (["--site", "mlp*"], ["mlp"]),
        (["--status", "unfinished"], ["half"]),
        (["--name", "b*"], ["both"]),
    ],
)
def test_ls_filters(store, interp, asked, names):
    found = json.loads(interp("ls", *asked, "--json")[1].out)
    assert [row["name"] for row in found] == names
    status, said = interp("ls", "--status", "done")
    assert status == 2
    assert "unknown status 'done' of a run (known: complete, running, unfinished, damaged)" in said.err


def test_ls_as_json(store, interp):
    unread = store.run("readout").id
    (store.run("readout").path / "run.json").write_text("{")
    found = json.loads(interp("ls", "--json")[1].out)
    rows = {row["name"]: row for row in found}
    assert rows["heads"]["id"] == store.run("heads").id
    assert rows["heads"]["tags"] == ["paper", "first"]
    assert rows["heads"]["made_at"] == "2026-02-01T10:00:00+00:00"
    assert rows["heads"]["size"] == store.run("heads").size
    assert (rows["heads"]["status"], rows["heads"]["units"]) == ("complete", None)
    assert (rows["half"]["status"], rows["half"]["done"], rows["half"]["units"]) == ("unfinished", 4, 9)
    (lost,) = (row for row in found if row["id"] == unread)
    assert (lost["status"], lost["made_at"]) == ("damaged", None)


def test_ls_says_why_there_is_nothing(store, interp, tmp_path):
    said = interp("ls", "--task", "docstring", "--tag", "papre")[1].out
    assert said.startswith("none of the 5 runs of runs is such a one; their tasks are ")
    assert said.endswith("; their tags are first, paper\n")
    (tmp_path / "empty").mkdir()
    assert interp("ls", "--store", "empty")[1].out == "empty holds no runs\n"


def test_ls_checks_when_asked_to(store, interp):
    damage(store.run("mlp"))
    assert "damaged" not in interp("ls")[1].out, "sizes are as they were"
    said = interp("ls", "--check", "--status", "damaged")[1].out
    run = store.run("mlp").id
    assert said.splitlines()[1].startswith(run)
    assert f"{run} is damaged: run {run}: " in said
    assert "data.zarr.zip is damaged (its checksum does not hold)" in said
    assert len(said.splitlines()) == 3


def test_columns_are_cut_to_the_width_of_the_terminal(store, interp):
    rows = json.loads(interp("ls", "--json")[1].out)
    rows[0] |= {"model": "organisation/" + "m" * 100, "name": "n" * 60}
    whole = listing.shown(rows, None).splitlines()
    cut = listing.shown(rows, 100).splitlines()
    assert max(map(len, whole)) > 200
    assert max(map(len, cut)) <= 100
    assert all(row["id"] in line for row, line in zip(rows, cut[1:], strict=True))
    assert "organ" in cut[1]
    assert "…" in cut[1]
    assert len(listing.shown(rows, 20).splitlines()) == len(cut), "a terminal too narrow for any table still gets one"


def test_show_of_a_sweep(store, interp):
    status, said = interp("show", "heads", "--top", "2")
    assert status == 0
    assert said.out.startswith(f"{store.run('heads').id} heads (paper, first)\n")
    assert "  metric 1, layer 3, head 2, example 4\n" in said.out
    assert "  model                      gpt2\n" in said.out
    assert "the 2 strongest cells by logit_diff" in said.out
    assert [line.split()[0] for line in said.out.splitlines()[-2:]] == ["L2H1", "L2H0"]
    assert json.loads(interp("show", "heads", "--json")[1].out) == {"": store.load("heads").attrs}


def test_show_of_families_of_what_is_no_sweep_and_of_half_a_run(store, interp):
    both = interp("show", "both")[1].out
    assert "\na: value, clean, corrupt, by_rule\n" in both
    assert "\nb: value, clean, corrupt, by_rule\n" in both
    assert "\nholds: prob\n  example 2, layer 3\n" in interp("show", "readout")[1].out
    half = interp("show", "half")[1].out
    assert "unfinished: 4 of 9 work units are done\n" in half
    assert "strongest cells by m" in half


def test_rm_asks_first(store, interp, monkeypatch):
    ids = [store.run(name).id for name in ("heads", "mlp")]
    status, said = interp("rm", "heads", "mlp")
    assert status == 2
    assert said.err == "interp: nobody is here to be asked whether these runs are to be removed; say so with --yes\n"
    asked = []
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    status, said = interp("rm", "heads", "mlp")
    assert (status, asked) == (1, ["Remove these runs? [y/N] "])
    assert all(run in said.out for run in ids)
    assert all(run in store for run in ids)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert interp("rm", "heads")[0] == 0
    assert ids[0] not in store
    assert ids[1] in store


def test_rm_removes_all_or_nothing_of_what_is_named(store, interp):
    status, said = interp("rm", "heads", "nothing", "--yes")
    assert status == 2
    assert "no run 'nothing'" in said.err
    assert "heads" in store
    assert interp("rm", "heads", store.run("heads").id[:8], "half", "--yes")[1].out.endswith("removed 2 runs\n")
    assert set(store.runs()["name"]) == {"mlp", "both", "readout"}
    assert interp("rm", "--yes")[1].err.startswith("interp: rm needs at least one run")


def test_check_finds_a_flipped_byte(store, interp):
    status, said = interp("check")
    assert status == 0
    total, counted = said.out.splitlines()[-1].split(": ")
    assert (total, set(counted.split(", "))) == ("5 runs", {"4 complete", "1 unfinished"})
    assert f"{store.run('half').id} half is unfinished: 4 of 9 units are done" in said.out
    damage(store.run("mlp"))
    status, said = interp("check", "--store", "runs", "heads", "mlp")
    assert status == 1
    assert f"{store.run('mlp').id} mlp is damaged: " in said.out
    assert said.out.splitlines()[-1] == "2 runs: 1 complete, 1 damaged"
    assert interp("check", "heads")[0] == 0
    assert "no run 'runs' among the 5" in interp("check", "runs")[1].err


def test_tidy_removes_what_nothing_reads(store, interp):
    left = store.run("heads").path / "0badc0de"
    left.mkdir()
    assert interp("tidy")[1].out == f"removed {store.run('heads').id}/0badc0de\n"
    assert not left.exists()
    assert interp("tidy", "--store", "runs")[1].out == interp("tidy", "runs")[1].out == "nothing to remove\n"


def test_export(store, interp):
    assert interp("export", "heads", "heads.csv")[1].out == "wrote heads.csv\nwrote heads.csv.json\n"
    assert np.array_equal(pd.read_csv("heads.csv")["value"], store.load("heads")["value"].values.ravel())
    assert "is unfinished" in interp("export", "half", "half.nc")[1].err
    assert interp("export", "half", "half.nc", "--partial")[0] == 0
    assert xr.load_dataset("half.nc")["value"].notnull().any()
    status, said = interp("export", "heads")
    assert status == 2
    assert said.err == "interp: export needs a file to write: interp export heads heads.csv, heads.zip or --bundle\n"
    assert "unknown export ending '.pdf'" in interp("export", "heads", "heads.pdf")[1].err


def test_export_of_a_bundle(store, interp, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "missing_exporter", lambda: "no browser")
    id_ = store.run("heads").id
    for words, name in (
        ("heads --bundle", "heads.zip"),
        (f"{id_} --bundle", "heads.zip"),
        ("heads --bundle own.zip", "own.zip"),
        ("heads other.ZIP", "other.ZIP"),
    ):
        assert interp("export", *words.split())[1].out == f"wrote {name}\n"
        with zipfile.ZipFile(name) as packed:
            assert f"{name[:-4]}/README.txt" in packed.namelist()
        (tmp_path / name).unlink()
    several = interp("export", "heads", "heads.csv", "--bundle")[1].out
    assert several == "wrote heads.csv\nwrote heads.csv.json\nwrote heads.zip\n"
    store.label("heads", name="ö é")
    assert interp("export", id_, "--bundle")[1].out == "wrote ö-é.zip\n"


def test_report(store, interp, tmp_path):
    assert interp("report", "heads", "half", "--out", "both.html")[1].out == "wrote both.html\n"
    page = (tmp_path / "both.html").read_text()
    assert "<title>heads, half</title>" in page
    assert page.count("Plotly.newPlot(") == 4  # a map and a curve of each
    assert "Half a run: 4 of 9 work units are done." in page
    assert interp("report")[1].err.startswith("interp: report needs at least one run")
    assert "no folder, so 'r.html' cannot be written" in interp("report", "heads", "--out", "nowhere/r.html")[1].err


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["check"], ["tidy"], ["view"], ["show", "x"], ["rm", "x", "--yes"], ["report", "x"], ["rerun", "x"]],
)
def test_no_store_is_said_to_be_none_and_none_is_made(interp, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    for store in ("runs", "nowhere"):
        status, said = interp(*arguments, *(["--store", store] if store != "runs" else []))
        assert status == 2
        assert said.err.startswith(f"interp: there is no store at {tmp_path / store}: say with --store in which folder or at w")
    assert list(tmp_path.iterdir()) == []


def test_a_store_at_an_address(interp):
    place = "memory://commands"
    run = Store(place).save(sweep("far"), name="far")
    assert json.loads(interp("ls", "--store", place, "--json")[1].out)[0]["id"] == run.id
    assert interp("show", "far", "--store", place)[1].out.startswith(f"{run.id} far\n")
    assert interp("check", "--store", place)[0] == 0
    assert interp("rm", "far", "--store", place, "--yes")[0] == 0
    assert interp("ls", "--store", place)[1].out == f"{place} holds no runs\n"
