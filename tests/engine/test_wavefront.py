"""The wave against whole passes, where rows meet what the other tests do not draw: given changes, memory, reads, failures.

Expected numbers are those of ``serial``, one intervention a forward pass, which runs nothing between blocks. Tolerance:
1e-5 × (1 + max |logit|) in float32, 1e-10 × in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from hypothesis import example, given, note, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.engine import patch, pieces
from interp.engine.wave import Pass
from interp.interventions import Activation, Add, Change, Constant, Interpolate, Intervention, Replace, Scale, mean, resample
from interp.metrics import FromLogits, Readout, Reads
from interp.models import Model, load
from interp.models.model import TorchHooks
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Positions, grid

RESIDUAL, HEADS = grid("resid_pre", layer=..., position=...), grid("z", layer=..., head=...)


def peak(logits: Tensor) -> Tensor:
    return logits.abs().amax(-1)


class Spread:
    """Largest less smallest answer logit, added up over several positions: reads more than the last token."""

    name = "spread"

    def __init__(self, columns: Any, positions: Positions) -> None:
        self.reads = Reads(columns=columns, positions=positions)

    def __call__(self, readout: Readout) -> Tensor:
        ids = readout.answers
        where = ids if readout.columns is None else torch.searchsorted(readout.columns, ids)
        picked = readout.logits.gather(-1, where.clamp(min=0)[None, :, None].expand(*readout.logits.shape[:3], -1))
        picked = picked.masked_fill((ids < 0)[None, :, None], 0.0)
        return (picked.amax(-1) - picked.amin(-1)).sum(-1)


def top(model: Model, pairs: Any) -> float:
    """The largest logit of the prompts, by the model's own forward."""
    encoded = model.encode(pairs)
    with torch.no_grad():
        return max(float(model.module(**model.inputs(side)).logits.abs().max()) for side in (encoded.clean, encoded.corrupted))


def close(found: xr.Dataset, expected: xr.Dataset, size: float) -> None:
    bound = (1e-10 if expected["value"].dtype == np.float64 else 1e-5) * (1 + max(size, float(abs(expected["value"]).max())))
    for name in ("value", "clean", "corrupt", *(["given"] if "given" in expected else [])):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=bound, err_msg=name)
    assert bool((found["by_rule"] == expected["by_rule"]).all())
    assert max(found.attrs["noise_floor"].values()) <= bound


# everything together, drawn as plain data


@st.composite
def changes(draw: st.DrawFn) -> tuple[int, int, Any, str, str]:
    places = st.sampled_from([..., -1, 0, [0, -1], [-2, -1], "subject", "subject[-1]", "end"])
    sources = st.sampled_from(["source", "source", "source", "base", "clean", "role", "mean", "resample", "number", "layer"])
    edits = st.sampled_from(["replace", "replace", "replace", "add", "scale", "interpolate"])
    return draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6)), draw(places), draw(sources), draw(edits)


def made(model: Model, drawn: tuple[int, int, Any, str, str]) -> Change:
    at, index, positions, source, edit = drawn
    sites = [site for site in model.sites() if site.name != "logits"]
    site = sites[at % len(sites)]
    axis = next((axis for axis in ("head", "unit") if axis in site.component.selectable), None)
    if axis is not None and index % 3:
        site = site.at(**{axis: index % model.anatomy.size(site, axis)})
    per_layer = site.component.per_layer and all(model.has(site.at(layer=layer)) for layer in range(model.sizes["layer"]))
    sources = {
        "source": Activation(),
        "base": Activation("base"),
        "clean": Activation("clean"),
        "role": Activation(positions="end"),
        "mean": mean() if site.name not in ("scores", "pattern") else Activation(),
        "resample": resample(index) if site.name not in ("scores", "pattern") else Activation("clean"),
        "number": Constant(0.8),
        "layer": Activation(layer=index % model.sizes["layer"]) if per_layer else Activation(),
    }
    if source == "role" and site.name in ("scores", "pattern"):
        source = "source"
    if source == "resample" and positions not in (-1, 0, "end", "subject[-1]"):
        source = "mean"  # another example's span may be of another width, which is refused
    edits = {"replace": Replace(), "add": Add(0.5), "scale": Scale(0.5), "interpolate": Interpolate(0.3)}
    return Change(site, positions, sources[source], edits[edit])


MANY = st.lists(st.lists(changes(), min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=30)
@example(  # what is given lets tokens attend to later ones, which a row changes
    kind="gemma2",
    double=False,
    seed=0,
    lengths=[4],
    patching="denoising",
    drawn=[[(0, 0, -1, "source", "replace")]],
    again=None,
    before=[(162, 0, ..., "number", "replace")],
    rows=None,
    room=1 << 30,
    piece=1,
    skip_inert=False,
)
@given(
    kind=st.sampled_from(sorted(sweeps.MAKERS)),
    double=st.booleans(),
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(4, 8), min_size=1, max_size=4),
    patching=st.sampled_from(["denoising", "noising"]),
    drawn=MANY,
    again=st.none() | changes(),
    before=st.lists(changes(), max_size=2),
    rows=st.sampled_from([None, 1, 2, 5]),
    room=st.sampled_from([1 << 30, 200_000, 20_000, 1]),
    piece=st.sampled_from([512, 512, 1, 2, 3]),
    skip_inert=st.booleans(),
)
def test_given_changes_small_memory_and_lines_of_rows(
    kind: str,
    double: bool,
    seed: int,
    lengths: list[int],
    patching: Any,
    drawn: list[Any],
    again: Any,
    before: list[Any],
    rows: int | None,
    room: int,
    piece: int,
    skip_inert: bool,
) -> None:
    """Sets of sites over layers, some of which begin alike, on a base that may be changed already, in shards or pieces."""
    double = double and kind in ("gpt2", "zoo")  # the others take their softmax or norms in float32
    model = sweeps.model(kind, torch.float64 if double else torch.float32)
    pairs = sweeps.random_pairs(seed, lengths, early=bool(seed % 2))
    asked = [Intervention(tuple(made(model, one) for one in group), ordered=True) for group in drawn]
    if again is not None:  # rows that leave the row of the first
        asked += [Intervention((*asked[0].changes, made(model, (again[0] + i, *again[1:]))), ordered=True) for i in range(2)]
    taken = Intervention(tuple(made(model, one) for one in before), ordered=True) if before else None
    options: dict[str, Any] = {"patching": patching, "given": taken, "skip_inert": skip_inert}
    note(f"{asked} given {taken}")
    metrics = ["logit_diff", "kl", "prob", peak]
    serial = patch(model, pairs, asked, metrics, strategy="serial", **options)
    size = float(max(serial[name].sel(metric="peak").max() for name in ("clean", "corrupt", "value")))
    with pytest.MonkeyPatch.context() as limited:
        limited.setenv("INTERP_MEMORY_BYTES", str(room))
        limited.setitem(pieces.SIZE, "cpu", piece)
        for strategy in ("batched", "wavefront"):
            found = patch(model, pairs, asked, metrics, strategy=strategy, rows=rows, **options)
            assert found.attrs["strategy"] == strategy
            close(found, serial, size)


# grids and families


@pytest.mark.parametrize("kind", sorted(sweeps.MAKERS))
def test_windows_of_layers(kind: str, seed: int) -> None:
    """A stream or a head restored in several consecutive layers at once, on padded prompts; no window is a row of another."""
    model = sweeps.model(kind)
    pairs = sweeps.random_pairs(seed, [8, 5, 7])
    asked = [
        Intervention(tuple(Change(f"L{layer}.{name}", position) for layer in range(first, stop)))
        for name in ("attn_out", "resid_post", "z")
        for position in (-1, "subject")
        for first in range(3)
        for stop in range(first + 1, 4)
    ]
    serial = patch(model, pairs, asked, ["logit_diff", "kl"], strategy="serial")
    close(patch(model, pairs, asked, ["logit_diff", "kl"], strategy="wavefront"), serial, top(model, pairs))


@pytest.mark.parametrize("options", [{}, {"given": Intervention.of("L1.z@-2", source=Constant(0.0))}], ids=["plain", "given"])
def test_families_together_are_the_families_apart(options: dict[str, Any], seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6, 6])
    families = {"stream": RESIDUAL, "heads": HEADS, "mlp": grid("mlp_out", layer=..., position=["subject", "end"])}
    together = patch(model, pairs, families, ["logit_diff", "kl"], **options)
    for name, where in families.items():
        apart, found = patch(model, pairs, where, ["logit_diff", "kl"], **options), together[name].to_dataset()
        close(found, apart, top(model, pairs))
        for said in ("site", "positions", "source", "rows", "rows_by_rule", "strategy", "fallback", "spec", "given"):
            assert found.attrs[said] == apart.attrs[said], said


# what is read


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "gemma2", "bloom"])
@pytest.mark.parametrize("columns", ["answers", "all"])
@pytest.mark.parametrize("read", [0, [-3, -1], ..., "subject[0]"], ids=str)
def test_metrics_that_read_elsewhere(kind: str, columns: Any, read: Any, seed: int) -> None:
    """Before, at and behind what is changed; a position before it is the base's."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [7, 7, 7] if read is ... else [7, 5, 6])
    metric = Spread(columns, Positions.parse(read))
    asked = [
        Intervention((Change(f"L{layer}.{name}", position, source=Constant(0.8)),))
        for layer in (0, 2)
        for name in ("resid_pre", "z", "q", "mlp_out", "resid_post")
        for position in (-2, 0)
    ]
    serial = patch(model, pairs, asked, metric, strategy="serial")
    found = patch(model, pairs, asked, metric, strategy="wavefront")
    close(found, serial, 4 * top(model, pairs))
    with pytest.MonkeyPatch.context() as short:
        short.setitem(pieces.SIZE, "cpu", 2)
        close(patch(model, pairs, asked, metric, strategy="wavefront"), serial, 4 * top(model, pairs))
    if read == 0:
        late = [i for i, one in enumerate(asked) if one.changes[0].positions == Positions.parse(-2)]
        np.testing.assert_allclose(found["value"][0, late], found["corrupt"].broadcast_like(found["value"])[0, late], atol=1e-4)


def test_prompts_of_one_token_and_of_nothing_but_equal_ones(seed: int) -> None:
    model = sweeps.model("llama")
    short = Pairs(tuple(Pair(Prompt((i,)), Prompt((i + 5,)), (3, 3), (4,)) for i in (1, 2)))
    equal = Pairs(tuple(Pair(Prompt((i, 8)), Prompt((i, 8)), (3,), (4, 4)) for i in (1, 2)))
    for pairs in (short, equal):
        for where in (RESIDUAL, HEADS, grid("pattern", layer=..., head=...)):
            serial = patch(model, pairs, where, ["logit_diff", "kl"], strategy="serial")
            close(patch(model, pairs, where, ["logit_diff", "kl"], strategy="wavefront"), serial, top(model, pairs))


# memory


@pytest.mark.parametrize("room", [1 << 30, 100_000])
def test_out_of_memory_in_any_pass_loses_nothing(room: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the passes fail, before or after their work; those of one row do not. Every number is there, once."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6] * 6)
    asked: list[Any] = [Intervention.of(f"L{layer}H{h}.z") for layer in range(3) for h in range(4)]
    asked += [asked[0] & one for one in asked[4:]]  # rows that leave another
    expected = patch(model, pairs, asked, ["logit_diff", "kl"], strategy="serial")
    monkeypatch.setenv("INTERP_MEMORY_BYTES", str(room))
    draw, run, failed = torch.Generator().manual_seed(seed), Pass.run, []

    def fails(self: Pass) -> Tensor:
        chance = float(torch.rand((), generator=draw))
        if len(self.examples) > 3 and chance < 0.4:
            failed.append(len(self.examples))
            if chance < 0.2:
                run(self)
            raise torch.OutOfMemoryError("injected")
        return run(self)

    monkeypatch.setattr(Pass, "run", fails)
    for rows in (None, 9):
        close(patch(model, pairs, asked, ["logit_diff", "kl"], rows=rows), expected, top(model, pairs))
    assert failed


# what is left behind


def traces(model: Model) -> Iterator[Any]:
    """All of a module that a sweep touches."""
    for module in model.module.modules():
        yield "forward" in module.__dict__, len(module._forward_hooks), len(module._forward_pre_hooks), module.training
    for parameter in model.module.parameters():
        yield parameter.requires_grad, parameter.grad, parameter._version
    yield model.module.config._attn_implementation, torch.get_float32_matmul_precision(), torch.is_grad_enabled()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_sweep_that_is_broken_off_leaves_the_model_as_it_was(
    error: type[BaseException], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the base run, between blocks, where attention stands still, in the readout: wherever a module is called."""
    module = tiny.gpt2(seed).train()
    model, pairs, calls = load(module), sweeps.random_pairs(seed, [6, 6]), [0]
    before, own = list(traces(model)), torch.nn.functional.layer_norm

    def counting(stop: int) -> Any:
        def norm(*args: Any, **kwargs: Any) -> Tensor:
            calls[0] += 1
            if calls[0] == stop:
                raise error("broken off")
            return own(*args, **kwargs)

        return norm

    def sweep() -> None:
        calls[0] = 0
        asked = [
            Intervention.of("L0.z@-1"),
            Intervention.of("L1.mlp_post@-1"),
            Intervention.of("embed"),
            Intervention.of("L2.q"),
        ]
        patch(model, pairs, asked, given=Intervention.of("L1.pattern@-1"), rows=3)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", counting(0))
    sweep()
    total = calls[0]
    assert list(traces(model)) == before
    for stop in range(1, total + 1, 7):
        monkeypatch.setattr(torch.nn.functional, "layer_norm", counting(stop))
        with pytest.raises(error, match="broken off"):
            sweep()
        assert list(traces(model)) == before, stop


def test_prompts_run_whole_only_for_the_two_sides(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wave of any number of rows: clean and corrupted once each, and one more run for a base that is changed."""
    model, pairs, ran, run = sweeps.model("qwen3"), sweeps.random_pairs(seed, [6, 6]), [0], TorchHooks.run

    def spy(*args: Any, **kwargs: Any) -> Any:
        ran[0] += 1
        return run(*args, **kwargs)

    monkeypatch.setattr(TorchHooks, "run", spy)
    for where in (RESIDUAL, HEADS):
        for given_change, runs in ((None, 2), (Intervention.of("L0.z@-1", source=Constant(0.0)), 3)):
            ran[0] = 0
            patch(model, pairs, where, ["logit_diff", "kl"], given=given_change)
            assert ran[0] == runs


def test_a_function_of_logits_is_read_from_all_of_them(seed: int) -> None:
    """A metric that declares nothing sees every column at the last position, in the wave as in whole passes."""
    model, pairs, seen = sweeps.model("gemma2"), sweeps.random_pairs(seed, [6, 4]), set()

    def entropy(logits: Tensor) -> Tensor:
        seen.add(logits.shape[-1])
        return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)

    ways = [patch(model, pairs, HEADS, FromLogits(entropy, "entropy"), strategy=s) for s in ("serial", "wavefront")]
    close(ways[1], ways[0], top(model, pairs))
    assert seen == {tiny.VOCAB}
