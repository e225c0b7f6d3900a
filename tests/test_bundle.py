"""A bundle is read without interp and without torch, and with interp it is a store whose run is made again."""

import io
import json
import re
import subprocess
import sys
import zipfile

import half_runs
import pandas as pd
import pytest
import xarray as xr
from sweeps import unchecked

import interp
from interp import bundle, views
from interp.errors import PathError, StoreError
from interp.store import Store

NO_BROWSER = "no browser here"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a sweep, which has a recipe, and one of several families."""
    model, store = interp.load("zoo/language-4l"), Store(tmp_path_factory.mktemp("bundle") / "runs")
    pairs = interp.tasks.ioi(3, seed=0, templates=[0], order="ABBA", tokenizer=model.tokenizer)
    heads = interp.grid("z", layer=..., head=...)
    interp.patch(model, pairs, heads, store=store, name="heads", tags=["paper"])
    interp.patch(model, pairs, {"heads": heads, "stream": interp.grid("resid_pre", position=...)}, store=store, name="both")
    return store


@pytest.fixture
def unpacked(made, tmp_path, monkeypatch):
    """Unpacks the bundle of a run, which has no images."""
    monkeypatch.setattr(bundle, "missing_exporter", lambda: NO_BROWSER)

    def unpack(name, store=made):
        path = bundle.write(store.run(name), tmp_path / f"{name}.zip")
        with zipfile.ZipFile(path) as packed:
            assert {entry.partition("/")[0] for entry in packed.namelist()} == {name}, "it unpacks into one folder"
            packed.extractall(tmp_path / "unpacked")
        return tmp_path / "unpacked" / name

    return unpack


def run(code, cwd, blocked=()):
    """A Python process in which some modules cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({list(blocked)!r})); "
    command = [code] if code.endswith(".py") else ["-c", block + code]
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_it_is_read_with_xarray_and_pandas_alone(made, unpacked):
    folder, result = unpacked("heads"), made.load("heads")
    code = re.search(r"Without interp: (.*)", (folder / "README.txt").read_text())[1]
    script = (
        "import pandas, xarray, zarr, json\n"
        f"whole = {code}\n"
        "table, net = pandas.read_csv('data.csv'), xarray.open_dataset('data.nc')\n"
        "print(json.dumps([whole.value.values.ravel().tolist(), net.value.values.ravel().tolist(), table.value.tolist()]))"
    )
    read = run(script, cwd=folder, blocked=["torch", "interp", "transformers"])
    assert read.returncode == 0, read.stderr
    for values in json.loads(read.stdout):
        assert values == result["value"].values.astype(float).ravel().tolist()


def test_families_are_read_as_the_readme_says(made, unpacked):
    folder = unpacked("both")
    code = re.search(r"Without interp: (.*)", (folder / "README.txt").read_text())[1]
    read = run(f"import xarray, zarr; print(sorted({code}.children))", cwd=folder, blocked=["torch", "interp"])
    assert read.stdout.strip() == "['heads', 'stream']", read.stderr
    assert set(pd.read_csv(folder / "data.csv")["family"]) == {"heads", "stream"}
    assert len(json.loads((folder / "prompts.json").read_text())) == 3, "the same prompts are told once"


def test_it_holds_a_store_of_that_one_run(made, unpacked):
    store = Store(unpacked("heads") / "store")
    assert store.runs()["name"].tolist() == ["heads"]
    assert store.check("heads").status == "complete"
    assert store.run("heads").tags == ("paper",)
    assert store.load("heads").identical(made.load("heads"))
    assert store.run("heads").beside() == made.run("heads").beside()


def test_its_script_makes_the_run_again(unpacked):
    folder = unpacked("heads")
    again = run("rerun.py", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("the same within rounding: logit_diff")
    lacking = run("import runpy; runpy.run_path('rerun.py')", cwd=folder, blocked=["interp"])
    assert lacking.returncode == 1
    assert "this needs interp, pip install interp-workbench" in lacking.stderr


def test_prompts_provenance_and_report(made, unpacked):
    folder, result = unpacked("heads"), made.load("heads")
    prompts = json.loads((folder / "prompts.json").read_text())
    assert [one["clean_prompt"] for one in prompts] == result["clean_prompt"].values.tolist()
    text = (folder / "prompts.txt").read_text()
    assert all(json.dumps(prompt) in text for prompt in result["corrupted_prompt"].values.tolist())
    for name in ("answer", "wrong"):
        assert [one[name] for one in prompts] == result[name].values.tolist()
        assert all(f"  {name + ':':<11}{json.dumps(word)}" in text for word in result[name].values.tolist())
    assert json.loads((folder / "provenance.json").read_text()) == result.attrs
    page = (folder / "report.html").read_text()
    assert page.count("Plotly.newPlot(") == 2  # a map and a curve
    assert "zoo/language-4l" in page


def test_the_readme_names_every_file_and_what_is_missing(made, unpacked, tmp_path):
    folder = unpacked("heads")
    text = (folder / "README.txt").read_text()
    for entry in folder.iterdir():
        assert entry.name == "README.txt" or f"\n  {entry.name}" in text
    assert f"Figures are in report.html alone: {NO_BROWSER}." in text
    assert "cannot be made again" not in text
    store = Store(tmp_path / "other")
    store.save(made.load("heads"), name="saved")
    assert "It cannot be made again: it was kept without a recipe" in (unpacked("saved", store) / "README.txt").read_text()
    recipe = {**json.loads(made.run("heads").beside()["recipe.json"]), "unwritten": {"metric": "a function of your own"}}
    store.save(made.load("heads"), name="told", beside={"recipe.json": json.dumps(recipe).encode()})
    assert (
        "no file holds metric (a function of your own): put it into MORE"
        in (unpacked("told", store) / "README.txt").read_text()
    )


def test_figures_are_images_where_a_browser_draws_them(made):
    if not views.can_export():
        pytest.skip("no browser draws images here: apt-get install chromium")
    files = bundle.contents(made.run("heads"))
    assert files["figures/logit_diff-layer-by-head.png"].startswith(b"\x89PNG")
    assert b"<svg" in files["figures/logit_diff-layer-by-head.svg"][:200]
    assert b"figures/  " in files["README.txt"]


def test_an_array_alone(tmp_path):
    score = xr.DataArray([[0.5, 0.25]], {"layer": [3], "head": [0, 1]}, name="score", attrs={"model": "tiny"})
    files = bundle.contents(Store(tmp_path).save(score, name="scores"))
    assert files["data.csv"].decode().split() == ["layer,head,score", "3,0,0.5", "3,1,0.25"]
    assert json.loads(files["provenance.json"]) == {"model": "tiny"}
    assert xr.load_dataset(io.BytesIO(files["data.nc"]))["score"].values.tolist() == [[0.5, 0.25]]


def test_nothing_of_it_needs_torch(tmp_path):
    found = run("import sys, interp.bundle, interp.report; print('torch' in sys.modules)", cwd=tmp_path)
    assert found.stdout.strip() == "False", found.stderr


def test_mistakes_are_named(made, tmp_path):
    with pytest.raises(StoreError, match=r"a bundle is a zip, but 'heads\.tar' ends in '\.tar'; call it heads\.zip"):
        bundle.write(made.run("heads"), tmp_path / "heads.tar")
    with pytest.raises(PathError, match="nowhere' is no folder"):
        bundle.write(made.run("heads"), tmp_path / "nowhere" / "heads.zip")
    store = Store(tmp_path / "half")
    half = store.begin(half_runs.skeleton(), chunks=half_runs.CHUNKS)
    with pytest.raises(StoreError, match="is unfinished: 0 of 9 units are done; ask for it again to finish it"):
        bundle.write(store.run(half.id), tmp_path / "half.zip")
    with pytest.raises(StoreError, match=r"run is of type Dataset; expected a run of a store, such as interp.Store\('runs'\)"):
        unchecked(bundle.write)(made.load("heads"), tmp_path / "half.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_a_result_without_prompts_says_so():
    assert bundle._text(bundle._prompts({"": xr.Dataset({"norm": ("layer", [1.0])})})).startswith("The result does not say")
