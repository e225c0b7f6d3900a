"""Issue 5, daily use: what its "Done when" lines say, measured on SmolLM2-135M-Instruct and on nets whose answers are known."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites import ROOT, require
from torch import Tensor

import interp
from interp import Change, Intervention, Pair, Prompt, Site, grid
from interp.interventions import Scale
from interp.models import Model
from interp.models.zoo import BACKUP, PRIMARY, backup_construction, backup_prompts

TEXT = "When Mary and John went to the store, John gave a drink to Mary. Then Mary said to"  # 20 tokens
LOOK = (
    "Each look call is ≤ 2 lines and < 1 s warm on SmolLM2 at 20 tokens on this machine; DLA terms sum to the logit difference "
    "(1e-5 relative); lens at the last layer equals the logits; caching ten sites keeps ten sites' memory."
)
EDIT = (
    "A free-function edit equals a raw torch hook to rounding; a wrong shape names the site and both shapes; an edit that "
    "never fired raises."
)
ASK = (
    'Unequal pair ("Paris" / "New York City") traces by span on SmolLM2; a two-token answer task and a chat task run end to '
    "end, and `interp doctor` reports the loss with and without BOS."
)
HELD = (
    "`given` on the hand-built backup-head net gives its exact values; with everything held, effects add up to 1e-6 and equal "
    "DLA."
)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Model:
    return interp.load(smollm2, name="SmolLM2-135M-Instruct")


def fastest(call: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of the fastest of some warm calls."""
    call()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return round(min(taken), 3)


@pytest.mark.done_when(5, LOOK)
def test_look_calls_are_quick(model: Model, figures: dict[str, Any]) -> None:
    """Each is one line for the numbers and one for the figure; both are timed together."""
    tokens = model.encode(TEXT)
    figures["tokens"] = int(tokens.lengths[0])
    assert 20 <= figures["tokens"] <= 22
    calls: dict[str, Callable[[], Any]] = {
        "cache": lambda: interp.cache(model, TEXT, ["resid_post", "z"]),
        "lens": lambda: interp.views.lens(interp.lens(model, TEXT)),
        "dla": lambda: interp.views.dla(interp.dla(model, TEXT, " Mary", " John")),
        "attention": lambda: interp.views.attention(interp.attention(model, TEXT)),
        "run": lambda: model.run(TEXT, Change("L20.mlp_out", edit=lambda h, ctx: 0 * h), capture="L29.resid_post"),
    }
    figures |= {f"{name}, seconds": fastest(call) for name, call in calls.items()}
    assert max(figures[f"{name}, seconds"] for name in calls) < 1


@pytest.mark.done_when(5, LOOK)
def test_attribution_sums_to_the_logit_difference(model: Model, figures: dict[str, Any]) -> None:
    pairs = interp.tasks.ioi(16, seed=3, tokenizer=model.tokenizer)
    for by in ("layer", "component", "head"):
        found = interp.dla(model, pairs, by=by)
        gap = abs(found.contribution.sum("term") - found.logit_diff) / abs(found.logit_diff)
        figures[f"{by}, terms"], figures[f"{by}, worst relative gap"] = found.sizes["term"], float(gap.max())
        assert figures[f"{by}, worst relative gap"] <= 1e-5


@pytest.mark.done_when(5, LOOK)
def test_the_lens_ends_in_the_logits(model: Model, figures: dict[str, Any]) -> None:
    found = interp.lens(model, TEXT, top=10)
    with torch.no_grad():
        logits = model.module(model.encode(TEXT).ids).logits[0]
    best = logits.topk(10)
    last = found.isel(example=0, layer=-1)
    figures["worst deviation"] = float(np.abs(last.logit.values - best.values.numpy()).max())
    figures["scale"] = float(logits.abs().max())
    assert figures["worst deviation"] <= 1e-4 * (1 + figures["scale"])
    assert (last.token_id.values == best.indices.numpy()).mean() > 0.98  # ties within rounding may trade places


@pytest.mark.done_when(5, LOOK)
def test_caching_ten_sites_keeps_ten_sites(model: Model, figures: dict[str, Any]) -> None:
    """Expected: the bytes of ten residual streams, and no tensor left behind."""
    asked = [f"L{layer}.resid_post" for layer in range(10, 20)]
    interp.cache(model, TEXT, asked)
    gc.collect()
    before = _tensor_bytes()
    found = interp.cache(model, TEXT, asked)
    gc.collect()
    figures["tokens"] = found.sizes["position"]
    figures["bytes kept"] = int(sum(variable.nbytes for variable in found.data_vars.values()))
    figures["bytes of ten sites"] = 10 * found.sizes["position"] * model.sizes["d_model"] * 4
    figures["bytes of tensors left behind"] = _tensor_bytes() - before
    assert figures["bytes kept"] == figures["bytes of ten sites"]
    assert figures["bytes of tensors left behind"] <= figures["bytes of ten sites"]  # the arrays may be tensors' own memory


def _tensor_bytes() -> int:
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and thing.device.type == "cpu":  # asking some objects for their class warns
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.done_when(5, EDIT)
def test_a_free_function_is_a_torch_hook(model: Model, figures: dict[str, Any]) -> None:
    worst = 0.0
    for layer in (0, 7, 15, 29):

        def edit(h: Tensor) -> Tensor:
            return h.flip(1).tanh() * 2 + h

        ran = model.run(TEXT, Change(f"L{layer}.mlp_out", edit=lambda h, ctx: edit(h)))
        module = model.module.get_submodule(model.taps(Site("mlp_out", layer=layer)).path)
        handle = module.register_forward_hook(lambda module, args, output: edit(output))
        with torch.no_grad():
            expected = model.module(model.encode(TEXT).ids).logits
        handle.remove()
        assert ran.logits is not None
        worst = max(worst, float((ran.logits - expected).abs().max() / (1 + expected.abs().max())))
    figures["worst deviation / (1 + max|logit|)"] = worst
    assert worst <= 1e-4


@pytest.mark.done_when(5, EDIT)
def test_a_wrong_shape_names_the_site_and_both_shapes(model: Model, figures: dict[str, Any]) -> None:
    with pytest.raises(interp.errors.ShapeMismatchError) as raised:
        model.run(TEXT, Change("L3.z", -1, edit=lambda h, ctx: h[..., :32]))
    figures["said"] = str(raised.value)
    assert all(word in figures["said"] for word in ("L3.z", "(1, 1, 9, 32)", "(1, 1, 9, 64)"))


@pytest.mark.done_when(5, EDIT)
def test_an_edit_that_never_fired_raises(model: Model, figures: dict[str, Any]) -> None:
    ids = model.encode("Hello there").ids
    change = Change("L3.z", 40, edit=Scale(0.0))
    with pytest.raises(interp.errors.SiteNotFiredError) as raised, model.edited(change), torch.no_grad():
        model.module(ids)
    figures["said"] = str(raised.value)
    assert "L3.z@40" in figures["said"]


@pytest.mark.done_when(5, ASK)
def test_paris_and_new_york_city(model: Model, figures: dict[str, Any]) -> None:
    """Denoising by span: early layers of the city's span bring France back, late layers of the end do."""
    text = "The city of {} is in the country of"

    def prompt(city: str) -> Prompt:
        whole = text.format(city)
        return Prompt(whole, {"city": city, "END": (len(whole) - 3, len(whole))})

    pair = Pair(prompt("Paris"), prompt("New York City"), " France", " America")
    found = interp.patch(model, [pair], grid("resid_pre", layer=..., position=["city", "END"]))
    recovery = interp.recovery(found)[0]
    figures["tokens"] = [int(model.encode([p]).lengths[0]) for p in (pair.clean, pair.corrupted)]
    figures["recovery, city, layers 0, 10, 29"] = [round(float(recovery.sel(position="city", layer=n)), 3) for n in (0, 10, 29)]
    figures["recovery, END, layers 0, 10, 29"] = [round(float(recovery.sel(position="END", layer=n)), 3) for n in (0, 10, 29)]
    figures["rule"] = found.attrs["unequal"]
    assert figures["tokens"][0] != figures["tokens"][1]
    assert figures["recovery, city, layers 0, 10, 29"][0] > figures["recovery, city, layers 0, 10, 29"][2] + 0.3
    assert figures["recovery, END, layers 0, 10, 29"][2] > 0.8  # one block is still to come


@pytest.mark.done_when(5, ASK)
def test_answers_of_two_tokens(model: Model, figures: dict[str, Any]) -> None:
    """Expected: log-probability by a hand loop over the raw module; a sweep in which END's last layer brings all of it back."""
    capitals = {"Mongolia": " Ulaanbaatar", "Kenya": " Nairobi", "Estonia": " Tallinn", "Peru": " Lima"}
    text, items = "The capital city of {} is", list(capitals.items())
    pairs = interp.pairs(
        [Prompt(text.format(country), {"country": country}) for country, _ in items],
        [Prompt(text.format(country), {"country": country}) for country, _ in items[1:] + items[:1]],
        [answer for _, answer in items],
        [answer for _, answer in items[1:] + items[:1]],
    )
    found = interp.patch(
        model, pairs, grid("resid_pre", layer=[0, 15, 29], position=["country", -1]), ["logprob", "logit_diff"]
    )
    tokenizer: Any = model.tokenizer
    figures["tokens of the answers"] = [len(tokenizer.encode(answer, add_special_tokens=False)) for answer in capitals.values()]
    assert max(figures["tokens of the answers"]) >= 2
    gaps = []
    for i, (country, answer) in enumerate(items):
        prompt, whole = (
            tokenizer(t, return_tensors="pt").input_ids for t in (text.format(country), text.format(country) + answer)
        )
        with torch.no_grad():
            logprobs = model.module(whole).logits[0].log_softmax(-1)
        steps = range(prompt.shape[1], whole.shape[1])
        expected = sum(float(logprobs[step - 1, whole[0, step]]) for step in steps)
        gaps.append(abs(expected - float(found["clean"].sel(metric="logprob")[i])))
    figures["worst deviation of the log-probability"] = max(gaps)
    figures["log-probability, clean"] = found["clean"].sel(metric="logprob").values.round(3).tolist()
    figures["recovery of the last token, layer 29"] = float(
        interp.recovery(found).sel(metric="logit_diff", layer=29, position="-1")
    )
    assert max(gaps) <= 1e-3


@pytest.mark.done_when(5, ASK)
def test_a_chat_task(model: Model, figures: dict[str, Any]) -> None:
    """Spans inside a message, found after templating; generation from the same messages."""
    asked = "Name the language that people speak in {}. Answer with one word."

    def chat(country: str) -> Prompt:
        return Prompt([{"role": "user", "content": asked.format(country)}], {"country": country})

    pairs = interp.pairs([chat("France")], [chat("Spain")], ["French"], ["Spanish"])
    found = interp.patch(model, pairs, grid("resid_pre", layer=[0, 15, 29], position=["country", -1]))
    figures["recovery, country, layer 0"] = float(interp.recovery(found).sel(layer=0, position="country")[0])
    figures["recovery, last, layer 29"] = float(interp.recovery(found).sel(layer=29, position="-1")[0])
    made = interp.generate(model, [pair.clean for pair in pairs], max_new_tokens=8)
    figures["written"] = made.texts[0][0]
    figures["check"] = repr(pairs.check(model)).split("\n")[0]
    assert figures["recovery, country, layer 0"] == pytest.approx(1, abs=0.05)


@pytest.mark.done_when(5, ASK)
def test_doctor_reports_the_loss_with_and_without_bos(smollm2: Path, figures: dict[str, Any]) -> None:
    command = [sys.executable, "-P", "-m", "interp.cli", "doctor", str(smollm2), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)[0]
    figures |= {"loss": report["loss"], "failed laws": report["failed"]}
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"with BOS", "without BOS"} <= {*report["loss"]} or {"with_bos", "without_bos"} <= {*report["loss"]}


@pytest.mark.done_when(5, HELD)
def test_given_on_the_backup_head(figures: dict[str, Any]) -> None:
    net = backup_construction(strength=0.75).double()
    prompts, model = backup_prompts(net).tolist(), interp.load(net, name="backup")
    pairs = [Pair(one, other, one[1], other[1]) for one, other in zip(prompts, prompts[1:] + prompts[:1], strict=True)]
    first, second = (Change(f"L{layer}H{head}.z", edit=Scale(0.0)) for layer, head in (PRIMARY, BACKUP))

    def effect(change: Any, **options: Any) -> float:
        return float(interp.effect(interp.patch(model, pairs, change, patching="noising", **options)).mean())

    table = {
        "primary": (effect(first), -0.25),
        "backup": (effect(second), 0.0),
        "both": (effect(Intervention((first, second))), -1.0),
        "backup, given primary": (effect(second, given=first), -0.75),
        "primary, patterns held": (effect(first, hold="pattern"), -1.0),
    }
    figures |= {name: {"found": found, "expected": expected} for name, (found, expected) in table.items()}
    assert all(abs(found - expected) < 1e-9 for found, expected in table.values())


@pytest.mark.done_when(5, HELD)
@pytest.mark.parametrize("name", ["zoo/language-4l", "SmolLM2-135M-Instruct"])
def test_with_everything_held_effects_add_up_and_equal_attribution(name: str, smollm2: Path, figures: dict[str, Any]) -> None:
    """Each component alone with all others and all norms held: what it adds in the source less what it adds in the base.

    In float64, since float32 rounds every logit by more than is allowed.
    """
    model = interp.load(name, dtype="float64") if name.startswith("zoo/") else _wholly_in_float64(smollm2)
    pairs = interp.tasks.ioi(4, seed=5, tokenizer=model.tokenizer)
    single = [Change(Site(n, layer=layer), -1) for layer in range(model.sizes["layer"]) for n in ("attn_out", "mlp_out")]
    every, hold = Intervention(tuple(single)), ("attn_out", "mlp_out", "ln_scale")
    found = interp.effect(interp.patch(model, pairs, [*single, every], patching="noising", hold=hold))[0]
    clean, corrupted = interp.dla(model, pairs, by="component"), interp.dla(model, pairs.swap(), by="component")
    # what the corrupted run adds to the clean one's answers, under the clean run's scale
    expected = -corrupted.contribution * corrupted.scale / clean.scale - clean.contribution
    names = [f"{change.site.name[0]}{change.site.layer}" for change in single]
    gaps = [abs(found[cell].values - expected.sel(term=term).values).max() for cell, term in enumerate(names)]
    figures["components"], figures["largest effect"] = len(single), float(abs(found).max())
    figures["sum of effects less effect of all"] = float(abs(found[:-1].sum("cell") - found[-1]).max())
    figures["worst difference from attribution"] = float(max(gaps))
    assert figures["sum of effects less effect of all"] <= 1e-6
    assert figures["worst difference from attribution"] <= 1e-6


def _wholly_in_float64(folder: Path) -> Model:
    """SmolLM2 with torch's norms: those of transformers compute in float32 whatever the model's dtype, 2e-5 of this sum."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    for path, norm in [(path, part) for path, part in module.named_modules() if type(part).__name__ == "LlamaRMSNorm"]:
        exact = torch.nn.RMSNorm(len(norm.weight), eps=norm.variance_epsilon, dtype=torch.float64)
        exact.weight = norm.weight
        parent, _, own = path.rpartition(".")
        setattr(module.get_submodule(parent), own, exact)
    return interp.load(module, tokenizer=AutoTokenizer.from_pretrained(folder), name="SmolLM2-135M-Instruct")


@pytest.mark.done_when(5, "notebooks and the page for those who come from elsewhere run")
def test_notebooks(figures: dict[str, Any]) -> None:
    require(figures, "tests/test_notebooks.py")
