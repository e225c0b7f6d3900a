"""A result on its way into a store: what its marker will say of it, and its bytes; all that can be wrong is said here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import xarray as xr

from interp.errors import StoreError
from interp.store import arrays, listing, marker
from interp.store.arrays import Result
from interp.store.files import Files
from interp.store.identity import canonical, check_name, check_tags, run_id
from interp.store.marker import DATA, HALF, WHOLE, DamagedError
from interp.store.run import inspect


def head(files: Files, result: Result, asked: tuple[Any, int], name: str | None, tags: Any, anonymous: str) -> dict[str, Any]:
    """A marker without its data: what a run is, and what it was called before.

    Args:
        asked: the spec that the result answers, and the engine's semantics.
        anonymous: the id of a result without a spec.
    """
    labels = check_tags(tags)
    if name is not None:
        check_name(name)
    spec, semantics = asked
    run = run_id(spec, semantics) if spec is not None else anonymous
    old = inspect(files, run).marker
    if old is not None:
        if canonical(old["spec"]) != canonical(spec):
            raise StoreError(f"run {run} exists with another spec: {canonical(old['spec'])[:200]}")
        name, labels = name or old["name"], list(dict.fromkeys((*old["tags"], *labels)))
    return {
        "id": run,
        "kind": "tree" if isinstance(result, xr.DataTree) else "dataset",
        "name": name,
        "tags": labels,
        "spec": spec,
        "engine_semantics": semantics,
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "variables": arrays.order(result),
        "summary": listing.summary(result),
    }


def require_readable(files: Files, run: str) -> None:
    """Raise unless what is there under an id, if anything, is this store's to replace: whole, half done or damaged.

    Raises:
        StoreError: a marker of another format, of a folder that was renamed, or one that cannot be reached.
    """
    for which in (WHOLE, HALF):
        with suppress(DamagedError):
            marker.read(files, run, which)


def packed(result: Result, chunks: arrays.Chunks | None = None) -> bytes:
    """A result as the bytes of its file."""
    try:
        return arrays.pack(arrays.encode(result, chunks))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise StoreError(f"the result cannot be written as zarr: {error}") from error


def checked(content: Mapping[str, Any]) -> Mapping[str, bytes]:
    """Files of a run by their names, which can be written."""
    for name, data in content.items():
        check_name(name, "file beside a run")
        if not isinstance(data, bytes):
            raise StoreError(f"beside[{name!r}] is {type(data).__name__}; expected bytes")
    return content


def require_result(result: Any) -> None:
    """Raise unless it is one."""
    if not isinstance(result, xr.Dataset | xr.DataTree | xr.DataArray):
        raise StoreError(f"a result is a Dataset, DataTree or DataArray of xarray; got {type(result).__name__}")


def files_of(beside: Any) -> Mapping[str, Any]:
    """What was given as files beside a run."""
    if beside is not None and not isinstance(beside, Mapping):
        raise StoreError(f"beside is of type {type(beside).__name__}; expected a mapping of file names to bytes")
    if DATA in (beside or {}):
        raise StoreError(f"beside[{DATA!r}] is the name of the data itself; choose another")
    return beside or {}


def spec_of(result: Result | xr.DataArray) -> tuple[Any, int]:
    """The spec and the engine's semantics of a result, and a check that its attrs survive JSON."""
    groups = {n.path: n.attrs for n in result.subtree} if isinstance(result, xr.DataTree) else {"/": result.attrs}
    for path, attrs in groups.items():
        try:
            same = json.loads(json.dumps(attrs, allow_nan=False)) == attrs
        except (TypeError, ValueError) as error:
            raise StoreError(f"attrs of {path} must be JSON: {error}") from error
        if not same:
            raise StoreError(f"attrs of {path} would change in JSON: use lists for tuples and text for keys")
    inner, spec = {"/": groups["/"]}, groups["/"].get("spec")
    if "spec" not in groups["/"] and len(groups) > 1:
        inner = {path: a for path, a in groups.items() if "spec" in a}
        specs = {path: a["spec"] for path, a in inner.items()}
        spec = None if None in specs.values() else {"families": specs}
    semantics: set[Any] = {a.get("engine_semantics") for a in inner.values()}
    if spec is None:
        return None, max((one for one in semantics if type(one) is int), default=0)
    if len(semantics) != 1 or not all(type(one) is int for one in semantics):
        raise StoreError(
            "a result with attrs['spec'] has one integer attrs['engine_semantics'], which says what the spec means; got "
            f"{', '.join(sorted(map(str, semantics)))}"
        )
    return spec, semantics.pop()
