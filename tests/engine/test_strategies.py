"""Every way of running a sweep gives the same numbers, and they are those of a reference that shares no code with the engine.

Tolerance: 1e-5 × (1 + max |logit|) in float32, 1e-10 × in float64, as everywhere in this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor

from interp import effects
from interp.engine import patch
from interp.errors import UserError
from interp.interventions import (
    Activation,
    Add,
    Apply,
    Change,
    Constant,
    Interpolate,
    Intervention,
    Noise,
    Replace,
    Scale,
    Subspace,
    mean,
    resample,
    zero,
)
from interp.models import Model
from interp.sites import Positions, Site, grid

STREAMS = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def peak(logits: Tensor) -> Tensor:
    return logits.abs().amax(-1)


def third(logits: Tensor) -> Tensor:
    return logits[..., 3]


METRICS = ["logit_diff", "kl", "prob_diff", third, peak]


def tolerance(ds: xr.Dataset) -> float:
    double = ds["value"].dtype == np.float64
    top = max(float(np.nanmax(ds[v].sel(metric="peak"))) for v in ("clean", "corrupt", "value"))
    return (1e-10 if double else 1e-5) * (1 + top)


def close(a: xr.Dataset, b: xr.Dataset) -> None:
    for name in ("value", "clean", "corrupt"):
        assert float(abs(a[name] - b[name]).max()) <= tolerance(a), name
    assert a["value"].dims == b["value"].dims
    assert a["value"].notnull().all()


# everything that can be drawn, as plain data; turned into interventions inside the test, because beartype draws random numbers


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "site": draw(st.integers(0, 10**6)),
        "index": draw(st.booleans()),
        "which": draw(st.integers(0, 10**6)),
        "positions": draw(st.sampled_from([..., -1, 0, [0, -1], [-2, -1], "subject", "subject[-1]", "end"])),
        "source": draw(
            st.sampled_from(
                [
                    *(
                        "source",
                        "source",
                        "source",
                        "base",
                        "clean",
                        "layer",
                        "site",
                        "at role",
                        "prompt",
                        "prompt at",
                        "other model",
                    ),
                    *("mean", "mean all", "mean by", "mean prompt", "resample", "zero", "number", "vector", "noise"),
                ]
            )
        ),
        "edit": draw(st.sampled_from(["replace", "replace", "replace", "add", "scale", "interpolate", "apply"])),
        "rank": draw(st.sampled_from([None, None, 1, 3, 1000])),
        "keep_error": draw(st.booleans()),
    }


def made(model: Model, drawn: dict[str, Any]) -> Change:
    """A change of this model from drawn data."""
    sites = [s for s in model.sites() if s.name != "logits"]
    site = sites[drawn["site"] % len(sites)]
    axis = next((a for a in ("head", "unit") if a in site.component.selectable), None)
    if axis and drawn["index"]:
        site = site.at(**{axis: drawn["which"] % model.anatomy.size(site, axis)})
    last = site.axes[-1]
    one = last in ("source_position", "position") or (last == "unit" and site.unit is not None)
    width = None if one else model.anatomy.size(site, last)
    layer = drawn["which"] % model.sizes["layer"]
    same = {s.name for s in model.sites() if s.name in STREAMS} if site.name in STREAMS else {site.name}
    if site.name in ("q", "z"):
        same = {"q", "z"}
    if site.name in ("k", "v"):
        same = {"k", "v"}
    other = sorted(same)[drawn["which"] % len(same)]
    vector = torch.randn(width or 1, generator=torch.Generator().manual_seed(drawn["which"]), dtype=torch.float64)
    source = {
        "source": Activation(),
        "base": Activation("base"),
        "clean": Activation("clean"),
        "layer": Activation(layer=layer) if site.component.per_layer else Activation("base"),
        "site": Activation(site=other if site.component.per_layer else "L0.resid_pre" if site.name in STREAMS else None),
        "at role": Activation(positions="end"),
        "prompt": Activation(tuple(range(5, 10))),
        "prompt at": Activation((7, 1, 4, 4), positions=-2),
        "other model": Activation(model=sweeps.model(model.name.split("-")[0], model.dtype, seed=1)),
        "mean": mean(),
        "mean all": mean(over=("example", "position")),
        "mean by": mean("base", by="template"),
        "mean prompt": Activation((7, 1, 4, 4, 2, 3, 9, 9), pool="mean"),
        "resample": resample(drawn["which"]),
        "zero": zero(),
        "number": Constant(1.5),
        "vector": Constant(vector),
        "noise": Noise(0.5, drawn["which"] % 3),
    }[drawn["source"]]
    edit = {
        "replace": Replace(),
        "add": Add(0.5),
        "scale": Scale(0.5),
        "interpolate": Interpolate(0.3),
        "apply": Apply(lambda h, s: h + (s - h).tanh()),
    }[drawn["edit"]]
    options: dict[str, Any] = {}
    if drawn["rank"] is not None and width is not None:
        square = torch.randn(width, width, generator=torch.Generator().manual_seed(drawn["which"]), dtype=torch.float64)
        options = {"featurizer": Subspace(torch.linalg.qr(square).Q[:, : drawn["rank"]]), "keep_error": drawn["keep_error"]}
    return Change(site, drawn["positions"], source, edit, **options)


def outcome(*args: Any, **kwargs: Any) -> xr.Dataset | type[Exception]:
    try:
        return patch(*args, **kwargs)
    except UserError as error:
        return type(error)


@settings(max_examples=80)
@given(
    kind=st.sampled_from(sorted(sweeps.MAKERS)),
    double=st.booleans(),
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(4, 7), min_size=1, max_size=4),
    equal=st.booleans(),
    unequal_sides=st.booleans(),
    patching=st.sampled_from(["denoising", "noising"]),
    drawn=st.lists(st.lists(changes(), min_size=1, max_size=3), min_size=1, max_size=4),
    ordered=st.booleans(),
    rows=st.sampled_from([None, 1, 2, 5]),
)
def test_every_strategy_gives_the_numbers_of_the_serial_one(
    kind: str,
    double: bool,
    seed: int,
    lengths: list[int],
    equal: bool,
    unequal_sides: bool,
    patching: Any,
    drawn: list[list[dict[str, Any]]],
    ordered: bool,
    rows: int | None,
) -> None:
    """Any list of interventions on any architecture; what is refused is refused alike."""
    double = double and kind in ("gpt2", "zoo")  # see test_a_model_that_is_not_a_number_itself
    model = sweeps.model(kind, torch.float64 if double else torch.float32)
    lengths = [lengths[0]] * len(lengths) if equal else lengths
    longer = [(seed >> i) % 3 - 1 for i in range(len(lengths))] if unequal_sides and not equal else None
    pairs = sweeps.random_pairs(seed, lengths, longer=longer)
    interventions = [Intervention(tuple(made(model, d) for d in group), ordered=ordered) for group in drawn]
    note(repr(interventions))
    serial = outcome(model, pairs, interventions, METRICS, patching=patching, strategy="serial")
    for strategy in ("batched", "wavefront"):
        found = outcome(model, pairs, interventions, METRICS, patching=patching, strategy=strategy, rows=rows)
        if isinstance(serial, type) or isinstance(found, type):
            assert serial == found
            continue
        assert found.attrs["strategy"] == strategy
        close(serial, found)
        assert bool((serial["by_rule"] == found["by_rule"]).all())


EVERY_SOURCE = [
    "source",
    "base",
    "clean",
    "layer",
    "site",
    "at role",
    "other model",
    "mean",
    "mean all",
    "mean by",
    "mean prompt",
]
EVERY_SOURCE += ["prompt at", "resample", "zero", "number", "vector", "noise"]


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_the_draw_above_is_not_all_refusals(kind: str, seed: int) -> None:
    """Every source runs at components of every kind, on prompts of one length, and moves something."""
    model = sweeps.model(kind)
    pairs = sweeps.random_pairs(seed, [6, 6, 6], early=True)
    sites = [s for s in model.sites() if s.name != "logits" and s.layer in (None, 1)]
    all_sites = [s for s in model.sites() if s.name != "logits"]
    for k, source in enumerate(EVERY_SOURCE):
        drawn = {"positions": "end", "source": source, "edit": "replace", "rank": None, "keep_error": True, "which": 1}
        interventions = [
            Intervention((made(model, drawn | {"site": all_sites.index(s), "index": i % 2 == 0}),))
            for i, s in enumerate(sites)
            if i % 3 == k % 3 and not (s.name in ("scores", "pattern") and source not in ("source", "base", "clean", "zero"))
        ]
        serial, wave = (patch(model, pairs, interventions, METRICS, strategy=s) for s in ("serial", "wavefront"))
        close(serial, wave)
        assert source == "base" or float(abs(effects.effect(wave)).max()) > 1e-2, source


# grids


GRIDS = [
    grid("resid_pre", layer=..., position=...),
    grid("resid_mid", layer=[2], position=...),
    grid("attn_out", layer=[0, 2], position=[-1, 0]),
    grid("z", layer=..., head=...),
    grid("z", layer=1, head=[0, 3], position=...),
    grid("result", layer=[0, 2], head=..., position=-1),
    grid("q", layer=1, head=...),
    grid("k", layer=[1], head=..., position=...),
    grid("v", layer=[0, 2], head=...),
    grid("pattern", layer=[0, 2], head=...),
    grid("scores", layer=1, head=[0, 3], position=...),
    grid("mlp_post", layer=[1], unit=[0, 55], position="subject"),
    grid("mlp_pre", layer=[2]),
    grid("mlp_out", layer=[0, 2], position=["subject", "subject[0]"]),
    grid("embed", position=...),
]


# transformers' RMSNorm of Llama computes in float32 whatever the weights are, so that float64 is not for it
@pytest.mark.parametrize(
    ("kind", "dtype", "part"),
    [
        ("gpt2", torch.float32, slice(None)),
        ("llama", torch.float32, slice(0, None, 2)),
        ("mistral", torch.float32, slice(1, None, 2)),
        ("zoo", torch.float32, slice(1, None, 2)),
        ("gpt2", torch.float64, slice(1, None, 2)),
        ("zoo", torch.float64, slice(0, None, 2)),
    ],
    ids=lambda v: str(v).removeprefix("torch.") if not isinstance(v, slice) else "",
)
def test_grids_in_every_way(kind: str, dtype: torch.dtype, part: slice, seed: int) -> None:
    """serial = batched (1, 2, 7 rows a pass, or all) = nothing by rule; the rule's cells are zero by brute force."""
    model = sweeps.model(kind, dtype)
    pairs = sweeps.random_pairs(seed, [5, 5])
    for i, where in enumerate(GRIDS[part]):
        if where.site.name in model.anatomy.absent:
            continue
        patching = ("denoising", "noising")[i % 2]
        options: dict[str, Any] = {"metric": METRICS, "patching": patching}
        reference = patch(model, pairs, where, strategy="serial", **options)
        assert reference["value"].dtype == np.dtype(str(dtype).removeprefix("torch."))
        rows = (1, 2, 7, 10**6)[i % 4]
        close(reference, patch(model, pairs, where, strategy="batched", rows=rows, **options))
        close(reference, patch(model, pairs, where, strategy="wavefront", rows=rows, **options))
        every = patch(model, pairs, where, skip_inert=False, **options)
        close(reference, every)
        assert not every["by_rule"].any()
        zero_by_force = abs(effects.effect(every)).max("metric")
        assert float(zero_by_force.where(reference["by_rule"]).max()) <= tolerance(every) or not reference["by_rule"].any()


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("gpt2", "serial"),
        ("mistral", "serial"),
        *((k, "batched") for k in ("gpt2", "llama", "mistral", "zoo")),
        *((k, "wavefront") for k in sweeps.MAKERS),
    ],
)
def test_prompts_of_different_lengths_give_what_each_gives_alone(kind: str, strategy: Any, seed: int) -> None:
    """Left padding does not show: a sweep over five lengths equals five sweeps of one pair."""
    model = sweeps.model(kind)
    pairs = sweeps.random_pairs(seed, [4, 9, 5, 7])
    grids = [
        grid("resid_post", layer=[0, 2], position=["subject", "end", 0, -2]),
        grid("z", layer=[1], head=...),
        grid("pattern", layer=1, head=..., position=-1),
        grid("k", layer=1, head=..., position="subject"),
    ]
    for where in grids:
        together = patch(model, pairs, where, METRICS, strategy=strategy)
        for i in range(len(pairs)):
            alone = patch(model, pairs[i : i + 1], where, METRICS, strategy=strategy)
            close(together.isel(example=[i]), alone)


# an independent reference


def by_hand(model: Model, pairs: Any, path: str, side: str, columns: slice, index: int, patching: str) -> np.ndarray[Any, Any]:
    """Answer and wrong logits' difference, one unpadded prompt at a time, through plain torch hooks on the raw module."""
    out = []
    for pair in pairs:
        base, source = (pair.corrupted, pair.clean) if patching == "denoising" else (pair.clean, pair.corrupted)
        value = sweeps.record(model.module, path, source.text, side)

        def change(h: Tensor, value: Tensor = value) -> Tensor:
            h = h.clone()
            h[:, index, columns] = value[:, index, columns]
            return h

        logits = sweeps.rerun(model.module, path, base.text, change, side)
        out.append(float(logits[list(pair.answers)].max() - logits[list(pair.wrong)].max()))
    return np.array(out)


W = tiny.WIDTH // tiny.HEADS
GPT2 = [
    ("L1.resid_pre", "transformer.h.1", "input", slice(None)),
    ("L1.resid_post", "transformer.h.1", "output", slice(None)),
    ("L1.attn_out", "transformer.h.1.attn", "output", slice(None)),
    ("L2.mlp_out", "transformer.h.2.mlp", "output", slice(None)),
    ("L1H2.z", "transformer.h.1.attn.c_proj", "input", slice(2 * W, 3 * W)),
    ("L0H3.q", "transformer.h.0.attn.c_attn", "output", slice(3 * W, 4 * W)),
    ("L1H1.k", "transformer.h.1.attn.c_attn", "output", slice(tiny.WIDTH + W, tiny.WIDTH + 2 * W)),
    ("L1H0.v", "transformer.h.1.attn.c_attn", "output", slice(2 * tiny.WIDTH, 2 * tiny.WIDTH + W)),
    ("L0.mlp_post[7]", "transformer.h.0.mlp.c_proj", "input", slice(7, 8)),
    ("L0.mlp_pre[9]", "transformer.h.0.mlp.c_fc", "output", slice(9, 10)),
    ("embed", "transformer.wte", "output", slice(None)),
]
LLAMA = [
    ("L1.resid_pre", "model.layers.1", "input", slice(None)),
    ("L2.resid_post", "model.layers.2", "output", slice(None)),
    ("L1.attn_out", "model.layers.1.self_attn", "output", slice(None)),
    ("L0.mlp_out", "model.layers.0.mlp", "output", slice(None)),
    ("L1H3.z", "model.layers.1.self_attn.o_proj", "input", slice(3 * W, 4 * W)),
    ("L1H2.q", "model.layers.1.self_attn.q_proj", "output", slice(2 * W, 3 * W)),
    ("L0H1.k", "model.layers.0.self_attn.k_proj", "output", slice(W, 2 * W)),
    ("L1H1.v", "model.layers.1.self_attn.v_proj", "output", slice(W, 2 * W)),
    ("L1.mlp_post[7]", "model.layers.1.mlp.down_proj", "input", slice(7, 8)),
    ("L1.mlp_pre[9]", "model.layers.1.mlp.gate_proj", "output", slice(9, 10)),
    ("L1.mlp_up[9]", "model.layers.1.mlp.up_proj", "output", slice(9, 10)),
]
CASES = [("gpt2", *c) for c in GPT2] + [(k, *c) for k in ("llama", "mistral") for c in LLAMA]


@pytest.mark.parametrize(("kind", "site", "path", "side", "columns"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_against_plain_torch_hooks(kind: str, site: str, path: str, side: str, columns: slice, seed: int) -> None:
    model = sweeps.model(kind)
    pairs = sweeps.random_pairs(seed, [5, 8, 6], early=True)
    for index, patching in ((-1, "denoising"), (-3, "noising"), (0, "denoising")):
        expected = by_hand(model, pairs, path, side, columns, index, patching)
        for strategy in ("serial", "batched", "wavefront"):
            ds = patch(model, pairs, grid(site, position=index), "logit_diff", patching=patching, strategy=strategy)
            np.testing.assert_allclose(ds["value"].values[0], expected, rtol=0, atol=2e-4)


def test_rows_do_not_depend_on_their_neighbours(seed: int) -> None:
    """A row's number is the same whether the batch holds other sites, other sources, or nothing else."""
    model = sweeps.model("llama")
    pairs = sweeps.random_pairs(seed, [6, 4, 6], early=True)
    parts: Sequence[Intervention] = [
        Intervention.of(Change("L1.resid_post", -1)),
        Intervention.of(Change("L1H2.z", "subject", zero())),
        Intervention.of(Change("L1.resid_post", "end", edit=Scale(0.5))),
        Intervention.of(Change("L0H1.v", source=Noise(1.0), edit=Add())),
        Intervention.of(Change("L1.resid_post", -1), Change("L2.mlp_out", -1, mean(over=("example", "position")))),
        Intervention.of(Change(Site("pattern", layer=2, head=0), Positions.parse(-1))),
    ]
    together = patch(model, pairs, parts, METRICS)
    for i, one in enumerate(parts):
        close(together.isel(cell=[i]), patch(model, pairs, one, METRICS, strategy="serial").assign_coords(cell=[i]))
