"""A run as one file to hand on: its data, figures, prompts and a script that makes it again, readable without torch.

    >>> bundle.write(store.run("ioi-heads"), "ioi-heads.zip")                               # doctest: +SKIP

What is in it, its README.txt says.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xarray as xr

from interp import effects as fx
from interp import report, views
from interp.errors import StoreError, UserError
from interp.outputs import file_to_write, put
from interp.store import Run, export
from interp.store.run import require_run
from interp.views.export import missing_exporter

RECIPE = "recipe.json"
_IMAGES = (".png", ".svg")
_ALONE = ("clean_prompt", "corrupted_prompt", "prompt")
"""Coordinates that are a prompt."""
_TOKENS = ("clean_token", "corrupted_token", "input_token", "token")
"""Coordinates that are its tokens."""
_ANSWERS = ("answer", "wrong")
"""Coordinates that are what it is answered with."""


def write(run: Run, path: str | os.PathLike[str]) -> Path:
    """Pack a complete run into a zip.

    Args:
        run: of a store.
        path: of the file, which ends in .zip; its folder must exist.

    Returns:
        The path written.

    Raises:
        StoreError: the run is not complete or damaged, or is none; another ending.
        PathError: no such folder, or nothing can be written there.
    """
    require_run(run)
    path = file_to_write(path)
    if path.suffix.lower() != ".zip":
        raise StoreError(f"a bundle is a zip, but {path.name!r} ends in {path.suffix!r}; call it {path.stem}.zip")
    files = contents(run)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(f"{path.stem}/{name}", data)
    return put(path, whole.getvalue())


def named(run: Run) -> str:
    """What a bundle of a run is called where nobody says: ``ioi-heads.zip``."""
    return f"{_slug(run.name or '') or run.id}.zip"


def contents(run: Run) -> dict[str, bytes]:
    """The files of a bundle by their paths in it."""
    kept = {f"store/{name}": data for name, data in run.content().items()}
    result = run.load()
    families = fx.families(result)
    prompts = _prompts(families)
    files = {
        "report.html": _report(run),
        "data.csv": export.content(result, export.CSV),
        **_netcdf(result),
        **_figures(families),
        "prompts.json": _json(prompts),
        "prompts.txt": _text(prompts).encode(),
        "provenance.json": export.provenance(result),
        "rerun.py": _SCRIPT.format(run=run.id).encode(),
        **kept,
    }
    return {"README.txt": _readme(run, files).encode(), **files}


def _report(run: Run) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        title = run.name or f"Run {run.id}"
        return report.write(Path(folder) / "report.html", title, report.of_run(run)).read_bytes()


def _netcdf(result: xr.Dataset | xr.DataTree | xr.DataArray) -> dict[str, bytes]:
    """The data as netCDF, where it can be written here: the CSV holds it in any case."""
    try:
        return {"data.nc": export.content(result, export.NETCDF)}
    except StoreError:
        return {}


def _figures(families: Mapping[str, xr.Dataset]) -> dict[str, bytes]:
    """Images of the figures, where a browser draws them."""
    if missing_exporter():
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        each = [(family, views.fitting(ds)) for family, ds in families.items()]
        for family, drawn in [*each, ("", views.fitting(families))]:
            for shows, draw in drawn.items():
                with suppress(UserError):  # the report says why it is not drawn
                    figure = draw()
                    for ending in _IMAGES:
                        image = views.save(figure, Path(folder) / f"figure{ending}")
                        found[f"figures/{_slug(f'{family} {shows}')}{ending}"] = image.read_bytes()
    return found


def _prompts(families: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """What the result says of every example; once where all families have the same prompts."""
    each = {family: _examples(ds) for family, ds in families.items()}
    texts = [[{key: told for key, told in one.items() if key in _ALONE} for one in examples] for examples in each.values()]
    if all(some == texts[0] for some in texts):
        return max(each.values(), key=lambda examples: len(examples[0]) if examples else 0)  # that which has tokens too
    return [{"family": family, **example} for family, examples in each.items() for example in examples]


def _examples(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Texts along the examples, and tokens by position."""
    told = {str(name): array for name, array in ds.coords.items() if array.dtype.kind in "OUT" and _of_examples(array)}
    if not set(told) & {*_ALONE, *_TOKENS}:
        return []
    each = ({name: array.isel(example=i, missing_dims="ignore") for name, array in told.items()} for i in _numbers(ds))
    return [{"example": i, **{name: one.values.tolist() for name, one in of.items()}} for i, of in enumerate(each)]


def _of_examples(array: xr.DataArray) -> bool:
    return array.dims in (("example",), ()) or set(array.dims) == {"position", "example"}


def _numbers(ds: xr.Dataset) -> range:
    return range(ds.sizes.get("example", 1))


def _text(prompts: list[dict[str, Any]]) -> str:
    """Prompts to be read: one example after the other, every prompt on a line of its own."""
    if not prompts:
        return "The result does not say what its prompts were.\n"
    return "\n".join(line for example in prompts for line in _lines(example)) + "\n"


def _lines(example: Mapping[str, Any]) -> list[str]:
    head = " ".join(str(example[key]) for key in ("family", "example", "template") if key in example)
    called = {name: name.removesuffix("_prompt") for name in _ALONE if name in example}
    texts = [(short, json.dumps(example[name], ensure_ascii=False)) for name, short in called.items()]
    tokens = [(name, " ".join(map(repr, example[name]))) for name in _TOKENS if name in example]
    answers = [(name, json.dumps(example[name], ensure_ascii=False)) for name in _ANSWERS if name in example]
    return [head, *(f"  {name + ':':<11}{text}" for name, text in [*(texts or tokens), *answers])]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() or c in "._" else " " for c in text).split())


def _missing(files: Mapping[str, bytes]) -> str:
    """What lacks for making the run again; "" where nothing does."""
    recipe = next((data for name, data in files.items() if name.rpartition("/")[2] == RECIPE), None)
    if recipe is None:
        return "It cannot be made again: it was kept without a recipe, which sweeps that are called with store=… have."
    try:
        found = json.loads(recipe)
        unwritten, live = dict(found["unwritten"]), found["model"]["why_not"]
    except (ValueError, KeyError, TypeError):
        return f"It cannot be made again: the {RECIPE} beside it is no recipe."
    unwritten |= {"model": live} if live else {}
    if not unwritten:
        return ""
    named = "; ".join(f"{name} ({why})" for name, why in unwritten.items())
    return f"Of what it was made of no file holds {named}: put it into MORE at the head of rerun.py."


def _readme(run: Run, files: Mapping[str, bytes]) -> str:
    called = f"{run.name!r}, run {run.id}" if run.name else f"run {run.id}"
    images = "figures/" if any(name.startswith("figures/") for name in files) else ""
    why = "" if images else f"\nFigures are in report.html alone: {missing_exporter() or 'there is none to draw'}.\n"
    netcdf = "data.nc" in files
    data = next(name for name in files if name.endswith("data.zarr.zip"))
    zarr = f"xarray.open_{{}}(zarr.storage.ZipStore('{data}', mode='r'), engine='zarr', consolidated=False)"
    entries = {
        "report.html": "figures, strongest cells and provenance; opens in any browser, without a network",
        images: "the same figures as images",
        "data.csv": "all numbers as a long table: a row for every value, coordinates as columns; pandas.read_csv('data.csv')",
        "data.nc" if netcdf else "": "the same as netCDF; xarray.open_dataset('data.nc'). Attributes that are no text or "
        "number are JSON",
        "prompts.json": "the prompts, by example",
        "prompts.txt": "the same to be read",
        "provenance.json": "what was run: model, task, site, source, versions, …",
        "rerun.py": "makes the run again and compares: python rerun.py (needs interp, and with it torch)",
        "store/": "a store of interp that holds this run: interp.Store('store'); checksums of all files are in run.json. "
        f"Without interp: {zarr.format('datatree' if 'tree' in str((run.marker or {}).get('kind')) else 'dataset')}",
    }
    listed = "\n".join(f"  {name:<16} {what}" for name, what in entries.items() if name)
    lacking = _missing(files)
    return f"{called}, packed by interp\n\n{listed}\n{why}{f'{chr(10)}{lacking}{chr(10)}' if lacking else ''}"


_SCRIPT = '''"""Makes run {run} again from what is kept beside it, and compares: python rerun.py"""

import sys
from pathlib import Path

# Arguments that no file holds: {{"metric": my_metric}} for a function of your own, {{"model": model}} for a live model.
MORE = {{}}

try:
    import interp
    from interp.errors import UserError
except ImportError as error:
    sys.exit(f"{{error}}: this needs interp, pip install interp-workbench")

try:
    run = interp.Store(Path(__file__).resolve().parent / "store").run("{run}")
    found = interp.rerun(run, **MORE)
except UserError as error:
    sys.exit(f"rerun.py: {{error}}")
print(found)
sys.exit(0 if found.within else 1)
'''
