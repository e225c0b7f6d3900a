"""Sweeps into a store: the same numbers, nothing computed twice, a killed sweep resumed."""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp import effects as fx
from interp.engine import measure, stored
from interp.engine.estimates import estimated
from interp.engine.graph import rows as edge_rows
from interp.errors import StoreError
from interp.metrics import FromLogits, Reads
from interp.store import Store, writing

READS = Reads()


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def model():
    return interp.load("zoo/induction-2l")


@pytest.fixture(scope="module")
def pairs(model):
    return interp.tasks.induction(8, seed=0)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(stored, "UNIT_SECONDS", 1e-4)  # as many units as there can be


def heads(**words):
    return interp.grid("z", layer=..., head=..., **words)


def counting(monkeypatch, most=None):
    """Counts rows that are measured; stops behind ``most`` units."""
    found, real = [], measure.Measuring.run

    def run(self, rows, progress):
        if most is not None and len(found) > most:
            raise KilledError
        found.append(len(rows))
        return real(self, rows, progress)

    monkeypatch.setattr(measure.Measuring, "run", run)
    return found


@contextmanager
def killed(monkeypatch, most):
    """What runs inside is stopped behind so many units."""
    with monkeypatch.context() as patched:
        counting(patched, most)
        with pytest.raises(KilledError):
            yield


def alike(a, b):
    """Equal in everything that is not about how it was run."""
    how = ("wall_seconds", "made_at", "work_units", "out_of_memory", "noise_floor", "peak_memory", "numbers_digest")
    for name in a.variables:
        if name == "value":
            scale = float(np.nanmax(np.abs(a[name])))
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-5 * (1 + scale))  # other batches
        else:
            assert a[name].identical(b[name]), name
    assert {k: v for k, v in a.attrs.items() if k not in how} == {k: v for k, v in b.attrs.items() if k not in how}
    return True


@pytest.mark.parametrize(
    "words",
    [
        {"where": heads()},
        {"where": interp.grid("resid_pre", layer=..., position=["END"]), "patching": "noising", "metric": ["logit_diff", "kl"]},
        {"where": ["L0H1.z", "L1H2.z@END", "L1.resid_pre"], "strategy": "batched"},
        {"where": heads(), "given": [interp.Intervention.of("L0H0.z", source=interp.Constant(0.0))], "hold": ("pattern",)},
        {"where": "mlp_out", "rows": 3},
    ],
    ids=["heads", "positions", "list", "given", "mlps"],
)
def test_the_numbers_are_the_same(model, pairs, tmp_path, words):
    if words["where"] == "mlp_out":
        model = interp.load("zoo/language-4l")
        pairs = interp.tasks.ioi(6, seed=0, tokenizer=model.tokenizer)
    plain = interp.patch(model, pairs, **words)
    kept = interp.patch(model, pairs, **words, store=tmp_path, name="mine", tags="a")
    assert alike(plain, kept)
    assert kept.attrs["work_units"] > 1
    run = Store(tmp_path).run("mine")
    assert (run.status, run.tags, run.marker["summary"]["method"]) == ("complete", ("a",), "patch")
    assert run.load().identical(kept)


def test_a_run_that_is_there_is_loaded(model, pairs, tmp_path, monkeypatch):
    first = interp.patch(model, pairs, heads(), store=tmp_path)
    counted = counting(monkeypatch)
    again = interp.patch(model, pairs, heads(), store=Store(tmp_path), name="now", tags=["b"])
    assert counted == []
    assert again.identical(first)
    assert Store(tmp_path).run("now").tags == ("b",)
    interp.patch(model, pairs, heads(), "kl", store=tmp_path)
    assert sum(counted) > 0
    assert len(Store(tmp_path).runs()) == 2


def test_a_run_that_another_finishes_meanwhile_takes_what_both_call_it(model, pairs, tmp_path, monkeypatch):
    real, other = writing.Writing.finish, []

    def finish(self, *given):
        if not other:
            other.append(True)
            interp.patch(model, pairs, heads(), store=tmp_path, name="theirs", tags="b")
        return real(self, *given)

    monkeypatch.setattr(writing.Writing, "finish", finish)
    interp.patch(model, pairs, heads(), store=tmp_path, name="mine", tags="a")
    run = Store(tmp_path).run("mine")
    assert set(run.tags) == {"a", "b"}
    assert len(Store(tmp_path).runs()) == 1


def test_a_store_that_may_only_be_read_gives_what_it_has(model, pairs, tmp_path, monkeypatch):
    kept = interp.patch(model, pairs, heads(), store=tmp_path, name="mine", tags=["a"])

    def refuse(*given):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("builtins.open", refuse)  # with which files are written, not read
    assert interp.patch(model, pairs, heads(), store=tmp_path, name="mine", tags="a").identical(kept)


@pytest.mark.parametrize("file", ["run.json", "data.zarr.zip"])
def test_a_damaged_run_that_is_asked_for_is_made_anew(model, pairs, tmp_path, monkeypatch, file):
    first = interp.patch(model, pairs, heads(), store=tmp_path, name="mine")
    path = next(Store(tmp_path).run("mine").path.rglob(file))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    counted = counting(monkeypatch)
    with pytest.warns(UserWarning, match=rf"{file} is damaged .*; it is made anew. What was there is kept in .*run.json"):
        again = interp.patch(model, pairs, heads(), store=tmp_path, name="again")
    assert sum(counted) > 0
    assert alike(again, first)
    assert Store(tmp_path).load("again").identical(again)


def test_what_was_derived_from_a_run_is_not_given_for_it(model, pairs, tmp_path):
    store, plain = Store(tmp_path), interp.patch(model, pairs, heads())
    store.save(interp.effect(plain), name="effect")
    store.save(plain.sel(layer=[0]), name="a layer")
    kept = interp.patch(model, pairs, heads(), store=store, name="all")
    assert alike(plain, kept)
    for one in (2 * kept, interp.summary(kept)):
        store.save(one)
        assert interp.patch(model, pairs, heads(), store=store).identical(kept)
    again = store.save(kept)
    assert (again.name, sorted(again.beside())) == ("all", ["recipe.json"])


@pytest.mark.parametrize(
    "ask", [partial(interp.patch, where=heads()), interp.patch_edges, partial(interp.attribute, where=heads())]
)
def test_a_result_that_is_kept_later_is_found(model, pairs, tmp_path, ask):
    result = ask(model, pairs)
    run = Store(tmp_path).save(result)
    assert Store(tmp_path).like(result) == run


def test_one_cell_without_any_axis(model, pairs, tmp_path):
    plain = interp.patch(model, pairs, "L0H1.z")
    kept = interp.patch(model, pairs, "L0H1.z", store=tmp_path)
    assert kept["value"].dims == ("metric", "example")
    assert kept["value"].equals(plain["value"])
    assert kept.attrs["work_units"] > 1
    assert interp.patch(model, pairs, "L0H1.z", store=tmp_path).identical(kept)


@pytest.mark.parametrize("several", [False, True])
def test_estimates_are_made_once(model, pairs, tmp_path, monkeypatch, several):
    made, real = [], estimated.passes
    monkeypatch.setattr(estimated, "passes", lambda *given: made.append(1) or real(*given))
    where = {"heads": heads(), "stream": interp.grid("resid_pre", layer=..., position=...)} if several else heads()
    plain = interp.attribute(model, pairs, where)
    first = interp.attribute(model, pairs, where, store=tmp_path, name="mine", tags=["a"])
    assert len(made) == 2
    again = interp.attribute(model, pairs, where, store=tmp_path, tags=["b"])
    assert len(made) == 2, "the second was loaded"
    assert again.identical(first)
    families = [list(fx.families(one).values()) for one in (plain, first)]
    assert all(one["value"].identical(other["value"]) for one, other in zip(*families, strict=True))
    (run,) = Store(tmp_path)
    assert (run.name, sorted(run.tags)) == ("mine", ["a", "b"])
    assert interp.rerun(run).worst.largest == 0
    interp.patch(model, pairs, where, store=tmp_path)
    interp.attribute(model, pairs, where, "prob", store=tmp_path)
    assert len(list(Store(tmp_path))) == 3, "neither a sweep nor another metric is the same run"
    with pytest.warns(UserWarning, match="no written form"):
        interp.attribute(model, pairs, where, FromLogits(lambda logits: logits[..., 0], "first"), store=tmp_path)


def test_a_stopped_sweep_goes_on_where_it_was(model, pairs, tmp_path, monkeypatch):
    whole = interp.patch(model, pairs, heads(), store=tmp_path / "whole")
    with killed(monkeypatch, 3):
        interp.patch(model, pairs, heads(), store=tmp_path / "half", name="mine")
    run = Store(tmp_path / "half").run("mine")
    done, every = run.progress
    assert run.status == "unfinished"
    assert (done, every) == (3, whole.attrs["work_units"])
    part = run.load(partial=True)
    known = part["value"].notnull()
    assert 0 < int(known.sum()) < known.size
    assert part["value"].where(known, 0).equals(whole["value"].where(known, 0))
    assert part["clean"].equals(whole["clean"])
    counted = counting(monkeypatch)
    found = interp.patch(model, pairs, heads(), store=tmp_path / "half")
    assert len(counted) == every - done + 1  # and the noise floor
    assert found["value"].equals(whole["value"])
    assert found.attrs["noise_floor"] == whole.attrs["noise_floor"]


def test_a_run_that_was_saved_later_gets_its_recipe_once_it_is_asked_for(model, pairs, tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.save(interp.patch(model, pairs, heads()), name="later", tags=["a"], beside={"notes.txt": b"mine"})
    counted = counting(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "keep_beside", lambda *given: (_ for _ in ()).throw(StoreError("it may only be read")))
        interp.patch(model, pairs, heads(), store=store)
    assert sorted(store.run("later").beside()) == ["notes.txt"]
    kept = interp.patch(model, pairs, heads(), store=store)
    assert counted == []
    run = store.check("later")
    assert (run.status, run.tags, sorted(run.beside())) == ("complete", ("a",), ["notes.txt", "recipe.json"])
    assert run.load().identical(kept)
    assert len([one for one in run.path.iterdir() if one.is_dir()]) == 1
    assert interp.rerun(run).within


def test_a_run_is_made_again_from_its_recipe(model, pairs, tmp_path):
    vector = torch.randn(model.sizes["d_head"], generator=torch.Generator().manual_seed(0))
    calls = {
        "steered": partial(
            interp.patch, where=heads(), source=interp.Constant(vector), edit=interp.Add(2.0), metric=["logit_diff", "kl"]
        ),
        "edges": partial(interp.patch_edges, edges=interp.engine.edges(model)[:7]),
        "lost": partial(interp.ablate, where=heads(), kind="mean"),
        "least": partial(interp.ablate, where=heads(), kind="optimal", steps=2),
    }
    store = Store(tmp_path)
    for name, call in calls.items():
        call(model, pairs, store=store, name=name)
        again = interp.rerun(store.run(name), progress=False)
        assert again.within, (name, again)
        assert again.result["value"].sizes == store.load(name)["value"].sizes
    constants = interp.interventions.from_safetensors(store.run("least").beside()["constants.safetensors"])
    assert len(constants) == store.load("least")["value"].isel(metric=0, example=0).size


def test_families(model, pairs, tmp_path, monkeypatch):
    where = {"heads": heads(), "stream": interp.grid("resid_pre", layer=...)}
    plain = interp.patch(model, pairs, where)
    with killed(monkeypatch, 4):
        interp.patch(model, pairs, where, store=tmp_path)
    found = interp.patch(model, pairs, where, store=tmp_path)
    assert isinstance(found, xr.DataTree)
    for name in where:
        assert alike(plain[name].to_dataset(), found[name].to_dataset())
    assert interp.patch(model, pairs, where, store=tmp_path).identical(found)


@pytest.mark.parametrize("kind", ["zero", "mean", "optimal"])
def test_ablation(model, pairs, tmp_path, monkeypatch, kind):
    words = {"steps": 3} if kind == "optimal" else {}
    plain = interp.ablate(model, pairs, heads(), kind, **words)
    found = interp.ablate(model, pairs, heads(), kind, **words, store=tmp_path, name="mine")
    assert alike(plain, found)
    assert Store(tmp_path).runs()["method"].tolist() == ["ablate"]
    counted = counting(monkeypatch)
    assert interp.ablate(model, pairs, heads(), kind, **words, store=tmp_path).identical(found)
    assert counted == []


def test_edges(model, pairs, tmp_path, monkeypatch):
    plain = interp.patch_edges(model, pairs)
    real, counted = edge_rows.EdgeRows.values, []

    def values(self, cells, examples, progress):
        if len(counted) == 4:
            raise KilledError
        counted.append(len(cells) * len(examples))
        return real(self, cells, examples, progress)

    with monkeypatch.context() as patched:
        patched.setattr(edge_rows.EdgeRows, "values", values)
        with pytest.raises(KilledError):
            interp.patch_edges(model, pairs, store=tmp_path, name="mine")
    assert Store(tmp_path).run("mine").progress[0] == 3
    found = interp.patch_edges(model, pairs, store=tmp_path)
    assert alike(plain, found)
    assert Store(tmp_path).runs()["method"].tolist() == ["patch_edges"]


def test_units_are_as_long_as_they_should_be():
    sizes = {"example": 64, "layer": 12}
    assert stored.cut(sizes, "layer", 0.0) == {"example": 64, "layer": 12}
    assert stored.cut(sizes, "layer", 4 * stored.UNIT_SECONDS) == {"example": 16, "layer": 12}
    assert stored.cut(sizes, "layer", 64 * stored.UNIT_SECONDS) == {"example": 4, "layer": 3}
    assert stored.cut({"example": 2, "cell": 10**6}, "cell", 1e9) == {"example": 2, "cell": 500}


def test_a_function_of_ones_own_makes_a_run_anonymous(model, pairs, tmp_path):
    with pytest.warns(
        UserWarning, match=r"function or a class of your own \(a metric, an edit, a hook or a forward on the model\), which has"
    ):
        interp.patch(model, pairs, heads(), edit=lambda h, ctx: 0 * h, store=tmp_path)
    assert Store(tmp_path).runs()["status"].tolist() == ["complete"]


def classes(factor):
    """Of the same names in every call, as of a cell of a notebook that was edited and run again."""

    @dataclass(frozen=True)
    class Mine:
        name: str = "mine"
        reads: Reads = READS

        def __call__(self, readout):
            return factor * readout.final[..., 0]

    @dataclass(frozen=True)
    class Half:
        kind = "half"
        commutes = False
        reads_source = False

        def __call__(self, h, s):
            return factor * h

        def spec(self):
            return {"kind": "half"}

    return {"metric": Mine()}, {"edit": Half()}


@pytest.mark.parametrize("which", [0, 1], ids=["metric", "edit"])
def test_a_class_that_was_edited_asks_for_another_run(model, pairs, tmp_path, which):
    ask = partial(interp.patch, model, pairs, heads(), store=tmp_path)
    first, again, other = (ask(**classes(factor)[which]) for factor in (0.5, 0.5, 0.25))
    assert again.identical(first)
    assert len(Store(tmp_path).runs()) == 2
    assert alike(interp.patch(model, pairs, heads(), **classes(0.25)[which]), other)
    assert float(abs(first["value"] - other["value"]).max()) > 1e-3


class Times:
    """A featurizer whose spec says less than it should."""

    def __init__(self, factor):
        self.factor = factor

    def encode(self, h):
        return self.factor * h

    def decode(self, f):
        return f

    def spec(self):
        return {"kind": "times"}


def coded(factor):
    """One whose code differs."""

    class Coded:
        def encode(self, h):
            return factor * h

        def decode(self, f):
            return f

        def spec(self):
            return {"kind": "coded"}

    return Coded()


class Clamp(torch.nn.Module):
    """An edit whose spec says less than it should."""

    kind = "clamp"
    commutes = False
    reads_source = False

    def __init__(self, most):
        super().__init__()
        self.most = torch.nn.Parameter(torch.tensor(most))

    def forward(self, h, s):
        return h.minimum(self.most)

    def spec(self):
        return {"kind": "clamp"}


@pytest.mark.parametrize(
    "made",
    [
        lambda number: {"featurizer": Times(number)},
        lambda number: {"edit": Clamp(number)},
        lambda number: {"featurizer": interp.interventions.Joint("(b t) d -> b (t d)", tokens=2, inner=Times(number))},
        lambda number: {"featurizer": interp.interventions.Joint("(b t) d -> b (t d)", tokens=2, inner=coded(number))},
    ],
    ids=["featurizer", "edit", "joint", "code in joint"],
)
def test_what_parts_of_ones_own_hold_is_part_of_what_is_asked(model, pairs, tmp_path, made):
    def ask(number):
        change = interp.Change("L0.resid_post", (-2, -1), **made(number))
        return interp.patch(model, pairs, [change], store=tmp_path)

    first, again, other = ask(0.5), ask(0.5), ask(0.01)
    assert again.identical(first)
    assert float(abs(first["value"] - other["value"]).max()) > 1e-4
    assert len(Store(tmp_path).runs()) == 2


@dataclass(frozen=True)
class Along:
    """With fields whose text leaves most of them out."""

    direction: torch.Tensor
    then: object = abs
    name: str = "along"
    reads: Reads = READS

    def __call__(self, readout):
        return self.then(readout.final @ self.direction)


def test_what_a_metric_holds_is_part_of_what_is_asked(model, pairs, tmp_path):
    ask = partial(interp.patch, model, pairs, heads(), store=tmp_path)
    one = torch.zeros(model.module.config.vocab_size)
    other = one.clone()
    one[len(one) // 2], other[len(one) // 2 + 1] = 1.0, 1.0
    assert float(abs(ask(Along(one))["value"] - ask(Along(other))["value"]).max()) > 1e-3
    assert ask(Along(one.clone())).identical(ask(Along(one)))
    assert ask(Along(one, lambda x: 2 * x)).attrs["spec"] != ask(Along(one, lambda x: 3 * x)).attrs["spec"]
    assert len(Store(tmp_path).runs()) == 4


def test_a_class_that_names_what_may_change_makes_a_run_anonymous(model, pairs, tmp_path):
    with pytest.warns(UserWarning, match="a function or a class of your own"):
        interp.patch(model, pairs, heads(), **classes(torch.tensor(0.5))[1], store=tmp_path)


def test_a_hook_of_ones_own_makes_a_run_anonymous(pairs, tmp_path):
    model, store = interp.load("zoo/induction-2l"), Store(tmp_path)
    plain = interp.patch(model, pairs, heads(), store=store)
    with model.module.get_submodule("model.layers.1.self_attn").register_forward_hook(
        lambda module, given, found: (0 * found[0], *found[1:])
    ):
        with pytest.warns(UserWarning, match="a hook or a forward on the model"):
            hooked = interp.patch(model, pairs, heads(), store=store, name="hooked")
        assert float(abs(hooked["value"] - plain["value"]).max()) > 1e-3
        assert hooked.attrs["spec"] is None
        assert interp.rerun(store.run("hooked"), model=model).within
    with pytest.raises(
        StoreError, match=r"is not loaded again by itself: there is a hook of yours on model.layers.1.self_attn; load it"
    ):
        interp.rerun(store.run("hooked"))
    assert interp.patch(model, pairs, heads(), store=store).identical(plain)
    assert len(store.runs()) == 2


def test_a_hook_on_the_model_of_a_source_makes_a_run_anonymous(model, pairs, tmp_path):
    other, store = interp.load("zoo/induction-2l", name="other"), Store(tmp_path)
    ask = partial(interp.patch, model, pairs, ["L1.z"], source=interp.Activation(model=other), store=store)
    plain = ask()
    part = other.module.model.layers[0]
    part.forward = lambda *given, **words: 2 * type(part).forward(part, *given, **words)
    with pytest.warns(UserWarning, match="a hook or a forward on the model"):
        changed = ask()
    assert float(abs(changed["value"] - plain["value"]).max()) > 1e-3
    del part.forward
    assert ask().identical(plain)
    assert len(store.runs()) == 2


def test_weights_that_are_written_in_place_ask_for_another_run(pairs, tmp_path):
    """By ``.data``, which leaves no trace in a tensor's version."""
    model = interp.load("zoo/induction-2l")
    plain = interp.patch(model, pairs, heads(), store=tmp_path)
    weight = model.module.model.layers[1].self_attn.o_proj.weight
    weight.data[:, 1::2] *= -1
    other = interp.patch(model, pairs, heads(), store=tmp_path)
    assert float(abs(other["value"] - plain["value"]).max()) > 1e-3
    weight.data[:, 1::2] *= -1
    assert interp.patch(model, pairs, heads(), store=tmp_path).identical(plain)
    assert len(Store(tmp_path).runs()) == 2


def test_hooks_of_torch_are_part_of_the_model(pairs, tmp_path):
    plain = interp.load("zoo/induction-2l")
    torch.nn.utils.spectral_norm(plain.module.model.layers[0].self_attn.o_proj)
    model = interp.load(plain.module, tokenizer=plain.tokenizer)
    interp.patch(model, pairs, heads(), store=tmp_path)
    assert len(Store(tmp_path).runs()) == 1
    assert Store(tmp_path).like(interp.patch(model, pairs, heads())) is not None


def test_what_is_in_force_on_a_model_is_written_down(model, pairs, tmp_path):
    with model.edited(interp.Intervention.of("L0H0.z", source=interp.Constant(0.0))):
        kept = interp.patch(model, pairs, heads(), store=tmp_path)
    assert kept.attrs["spec"]["given"]


def test_other_numbers_under_the_same_name_are_refused(model, pairs, tmp_path, monkeypatch):
    with killed(monkeypatch, 2):
        interp.patch(model, pairs, heads(), store=tmp_path)
    real = measure.Measuring.__init__

    def other(self, *words):
        real(self, *words)
        object.__setattr__(self, "clean", self.clean + 1)

    monkeypatch.setattr(measure.Measuring, "__init__", other)
    with pytest.raises(StoreError, match=r"was begun with other numbers: 'clean' differs by up to 1 now"):
        interp.patch(model, pairs, heads(), store=tmp_path)


def test_a_name_without_a_store_is_refused(model, pairs):
    for words in ({"name": "mine"}, {"tags": ["a"]}):
        with pytest.raises(StoreError, match="name and tags are for a run in a store; give store= as well"):
            interp.patch(model, pairs, heads(), **words)
