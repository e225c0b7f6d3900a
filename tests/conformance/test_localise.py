"""Every localisation method on every architecture: it runs, or it refuses with the reason, and which it is stands here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import anything
import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp import effects
from interp.doctor import architectures
from interp.errors import UserError
from interp.interventions import Add, Change, Noise
from interp.methods.localise.causal_paths import span_attention
from interp.models import Model
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Grid, Site, grid

NAMES = tuple(architectures.ARCHITECTURES)
DECODERS = NAMES[: NAMES.index("bert")]
ENCODERS = ("bert", "distilbert", "roberta", "modernbert")
TWO_TEXTS = ("t5", "bart")
READERS = (*DECODERS, *ENCODERS, *TWO_TEXTS)
"""Of texts, by token ids alone."""
CROSS = (*TWO_TEXTS, "whisper", "blip")
IMAGES = ("vit", "dinov2")
STACKED = (*READERS, "whisper", "blip", "llava", "qwen2-vl", *IMAGES)
"""Their main stream is a stack of blocks."""
OTHERS = tuple(name for name in NAMES if name not in STACKED)
MIXERS = ("mamba",)
HYBRIDS = ("jamba", "qwen3-next")
POST_NORMS = ("bert", "distilbert", "roberta")

SUMMED = ("self_repair", "knockout_readout", "token_lens")
"""They take the logits for a sum of what the parts of a model add."""

ROLES = {"subject": (1, 3), "cause": (1, 2), "delimiter": (2, 3), "effect": (3, 5)}
TOLERANCE = 2e-4
"""Times 1 + the largest number: random models say logits of up to 16, in float32."""


class Case(NamedTuple):
    """A model with prompts, and the parts of it that methods are asked about."""

    name: str
    model: Model
    pairs: Pairs
    texts: Callable[[int], Pairs]
    """As many pairs more."""

    @property
    def component(self) -> str:
        """Heads; mixers where there are none."""
        return "z" if self.model.has(Site("z")) or self.name not in MIXERS else "mixer_out"

    @property
    def parts(self) -> Grid:
        return self.at(position=[-1])

    @property
    def senders(self) -> Grid:
        """Heads of the first layer, the last that write before its MLP; its mixer, where it has none."""
        name = next((one for one in ("cross_z", "z", "mixer_out") if self.model.has(Site(one, layer=0))), "z")
        return grid(name, layer=[0], **({"head": ...} if name != "mixer_out" else {}))

    def at(self, **swept: Any) -> Grid:
        return grid(self.component, layer=..., **({"head": ...} if self.component == "z" else {}), **swept)


def texts(model: Model, examples: int, seed: int) -> Pairs:
    """Random prompts of 6 tokens that differ in their subjects; of encoder–decoders, in both texts, the second of 6 as well."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, 90, (n,), generator=generator).tolist())

    def pair(number: int) -> Pair:
        clean, said = draw(6), (0, *draw(5))
        prompts = []
        for other in (False, True):
            ids, target = (((*one[:1], *draw(2), *one[3:]) if other else one) for one in (clean, said))
            two = "decoder_input_ids" in model.example
            prompts.append(Prompt(ids, ROLES, Prompt(target, ROLES) if two else None))
        return Pair(*prompts, (number + 10,), (number + 30,))

    return Pairs(tuple(pair(number) for number in range(examples)))


def case(name: str, seed: int = 0) -> Case:
    model = anything.model(name) if name not in architectures.EXAMPLES else architectures.loaded(name)
    make = partial(texts, model, seed=seed) if name in READERS else partial(_anything, model, seed)
    return Case(name, model, make(2), make)


def _anything(model: Model, seed: int, examples: int) -> Pairs:
    """With the roles of texts where a main stream has places to name."""

    def marked(prompt: Prompt) -> Prompt:
        target = Prompt(prompt.target, ROLES) if isinstance(prompt.target, tuple) else None
        heard = not prompt.text and target is not None  # what its encoder reads is no text
        own = {f"encoder:{role}": span for role, span in ROLES.items()} if heard else ROLES
        return replace(prompt, target=target, roles=own)

    drawn = anything.pairs(model, seed, examples)
    return Pairs(tuple(replace(one, clean=marked(one.clean), corrupted=marked(one.corrupted)) for one in drawn))


def noised() -> Change:
    return Change("embed", "subject", Noise(0.5), Add())


def answered(of: Case) -> Pairs:
    """The clean prompts with what the model says."""
    said = interp.run(of.model, of.pairs, logits="last", patching="noising").logits[:, -1].argmax(-1).tolist()
    return Pairs(tuple(Pair(one.clean, one.clean, (a,), ((a + 1) % 90,)) for one, a in zip(of.pairs, said, strict=True)))


# what is asked, and what must be true of it


def patch_windows(of: Case) -> Any:
    found = interp.patch(of.model, of.pairs, grid("resid_pre", layer=..., position=..., window=2))
    assert dims(found) == ("metric", "layer", "position", "example")
    return found


def patch_corrupted(of: Case) -> Any:
    """Restored behind the last block where metrics read, a prompt says what it said."""
    found = interp.patch(of.model, of.pairs, grid("resid_post", layer=..., position=["subject", -1]), corruption=noised())
    if of.model.causal:
        close(found["value"].isel(layer=-1, position=-1), found["clean"])
    assert dims(found) == ("metric", "layer", "position", "example")
    return found


def trace(of: Case) -> Any:
    """Likewise; of encoder–decoders in both texts."""
    kinds = ("resid_post", "mixer_out") if of.name in MIXERS else ("resid_post", "mlp_out", "attn_out")
    found = interp.trace(of.model, of.pairs, metric=["prob", "logit_diff"], tokens="each", draws=2, window=2, kinds=kinds)
    states = found["resid_post"].to_dataset()
    if of.model.causal:
        close(states["value"].isel(layer=-1, position=-1), states["clean"])
    if of.name in TWO_TEXTS:
        heard = interp.trace(of.model, of.pairs, metric="logit_diff", tokens="each", draws=2, window=2, stream="encoder")
        assert unsaid(heard) == []
    assert set(found.children) == set(kinds)
    assert dims(states) == ("metric", "layer", "position", "example")
    return found


def mediate(of: Case) -> Any:
    """TE = NDE + rNIE; and the first of growing sets is the strongest alone."""
    found = interp.mediate(of.model, of.pairs, of.parts)
    shares = effects.mediation(found)
    size = 1 + max(float(abs(node["value"]).max()) for node in found.children.values())  # of the metric, whose rounding is left
    close((shares["total"] - shares["direct"] - shares["reverse_indirect"]).fillna(0) / size, 0)
    sets = interp.concentration(of.model, of.pairs, of.parts, 1)
    single = found["indirect"]["value"]
    assert float(abs(single - sets["value"].isel(cell=0)).max("example").min()) <= TOLERANCE * (1 + float(abs(single).max()))
    assert dims(sets) == ("metric", "cell", "example")
    return found


def attribute(of: Case) -> Any:
    found = interp.attribute(of.model, of.pairs, of.parts)
    assert dims(found) == ("metric", *swept(of), "position", "example")
    return found


def atp_star(of: Case) -> Any:
    """Without queries and keys among the cells, its signed estimates are those of attribution."""
    found = interp.atp_star(of.model, of.pairs, of.parts)
    close(found["value"].fillna(0), interp.attribute(of.model, of.pairs, of.parts)["value"].fillna(0))
    return found


def integrated_gradients(of: Case) -> Any:
    """Gradients along the way of one state sum to what patching it does: completeness, of the last stream."""
    found = interp.integrated_gradients(of.model, of.pairs, of.parts, steps=2)
    last = grid("resid_post", layer=[-1 % of.model.sizes["layer"]], position=[-1])
    summed = interp.integrated_gradients(of.model, of.pairs, last, along="activations", steps=24)
    exact = interp.patch(of.model, of.pairs, last)
    np.testing.assert_allclose(summed["value"], exact["value"], rtol=0, atol=5e-3 * (1 + float(abs(exact["value"]).max())))
    return found


def path_patch_stream(of: Case) -> Any:
    """All that a part of the first block does goes by way of what enters the second: paths there are node patching."""
    found = interp.path_patch(of.model, of.pairs, of.senders, "L1.resid_pre")
    close(found["value"], interp.patch(of.model, of.pairs, of.senders, patching="noising")["value"])
    return found


def path_patch_query(of: Case) -> Any:
    found = interp.path_patch(of.model, of.pairs, of.senders, "L1H0.q")
    assert dims(found)[-1] == "example"
    return found


def path_patch_logits(of: Case) -> Any:
    """MLPs between a sender and the logits are part of its paths, or not; behind the last there are none."""
    through, frozen = (interp.path_patch(of.model, of.pairs, of.at(), "logits", through_mlps=mlps) for mlps in (True, False))
    if of.name in MIXERS:
        close(through["value"], frozen["value"])
    assert dims(through) == ("metric", *swept(of), "example")
    return xr.DataTree.from_dict({"through": through, "frozen": frozen})


def self_repair(of: Case) -> Any:
    """Its terms sum to the compensation, and with the direct effect to the total one."""
    found = interp.self_repair(of.model, of.pairs, of.parts)
    close(
        (found["direct"] + found["heads"] + found["mlps"] + found["norm"] + found["rest"]).fillna(0), found["total"].fillna(0)
    )
    return found


def knockout(of: Case) -> Any:
    """Where nothing is attended to, behind a query, nothing is cut."""
    found = interp.knockout(of.model, of.pairs, -1, ["subject"], window=2)
    assert dims(found) == ("metric", "layer", "position", "source_position", "example")
    renormalised = interp.knockout(of.model, of.pairs, -1, ["subject"], renormalise=True)
    assert np.isfinite(renormalised["value"]).all()
    if of.model.causal:
        later = interp.knockout(of.model, of.pairs, {"third": 2}, {"fourth": 3})
        close(later["value"].squeeze(), effects.base(later).squeeze())
    return found


def knockout_cross(of: Case) -> Any:
    found = interp.knockout(of.model, of.pairs, -1, ["subject"], cross=True, layers=...)
    assert dims(found) == ("metric", "layer", "position", "source_position", "example")
    return found


def knockout_readout(of: Case) -> Any:
    found = interp.knockout_readout(of.model, of.pairs, -1, ["subject"])
    assert found["effect"].dims == ("example", "layer", "site", "position", "source_position", "token")
    return _there(found, "effect", "full")


def token_lens(of: Case) -> Any:
    """Groups of tokens and the bias are what attention adds, and everything together is the logits."""
    found = interp.token_lens(of.model, of.pairs, "subject")
    layers = found["by_group"].sum("group", skipna=False) + found["bias"]
    known = np.isfinite(layers)
    assert bool(known.any())
    close(layers.where(known, 0), found["logit"].sel(site="attn_out").where(known, 0))
    close(found["embed"] + found["constant"] + found["logit"].sum(["layer", "site"]), found["final"])
    return _there(found, "by_group", "bias", "logit")


def spans(of: Case) -> Any:
    """A head attends to some token: masses sum to 1, or to less beside a sink."""
    found = span_attention(of.model, of.pairs, ["subject", "effect"])
    total = found["mass"].sum("source_span")
    assert float(total.max()) <= 1 + 1e-5
    assert of.name == "gpt-oss" or float(total.min()) >= 1 - 1e-5
    return found.drop_vars("ratio")


def causal_paths(of: Case) -> Any:
    found = interp.causal_paths(of.model, of.pairs, of.pairs, flips=10)
    assert found["heads"]["score"].dims == ("kind", "layer", "head")
    return found["patching"].to_dataset()


def positional_patterns(of: Case) -> Any:
    """A score for what is seen, and none for what a causal mask hides."""
    found = interp.positional_patterns(of.model, [pair.clean for pair in of.pairs])
    score = found["score"].values
    assert score.shape[1] == score.shape[2] == len(found["position"])
    assert np.isfinite(np.diagonal(score, axis1=1, axis2=2)).all()
    assert not of.model.causal or np.isnan(score[:, *np.triu_indices(score.shape[1], 1)]).all()
    assert float(np.nanstd(score)) > 0
    return found[["slope", "norm", "noise"]]


def multiverse(of: Case) -> Any:
    corruptions, few = ["counterfactual", "zero"], {"deviations": 1.0, "patching": ["noising"]}  # of three blocks
    found = interp.multiverse(of.model, of.pairs, of.parts, corruptions, ["logprob"], **few)
    share = found["share"].values[np.isfinite(found["share"].values)]
    assert len(share)
    assert 0 <= share.min() <= share.max() <= 1
    return None


def verify(of: Case) -> Any:
    """All cells verified are a sweep."""
    found = interp.verify(of.model, of.pairs, of.parts, interp.attribute(of.model, of.pairs, of.parts), top="all")
    close(found.exact["value"].fillna(0), interp.patch(of.model, of.pairs, of.parts)["value"].fillna(0))
    bound = interp.subset_bound(of.model, of.pairs, of.parts, subsets=20, share=0.4)
    assert bound.theta >= 0
    return found.exact


def off_distribution(of: Case) -> Any:
    found = interp.off_distribution(of.model, of.texts(10), of.parts)
    assert ("scale_note" in found.attrs) == bool(np.isnan(found["scale_ratio"]).all())
    kept = np.isfinite(found["distance"])
    assert bool(kept.any())
    assert bool((found["norm_ratio"].values[kept.values] > 0).all())
    return None


def compare_choices(of: Case) -> Any:
    found = interp.compare_choices(of.model, of.pairs, of.at(), "logprob", patching="denoising", corruptions=("str", "noise"))
    return xr.DataTree.from_dict({str(number): one for number, one in enumerate(found.effects.values())})


def all_for_one(of: Case) -> Any:
    found = interp.all_for_one(of.model, answered(of), ["top1", "logprob"], waits=[0, 1], transfers=[1, 2])
    assert dims(found) == ("metric", "layer", "window", "example")
    return found


def interactions(of: Case) -> Any:
    found = interp.interactions(of.model, of.pairs, of.parts)
    assert found.attrs["method"] == "interactions"
    assert bool(np.isfinite(found["interaction"].isel(cell=slice(found.attrs["parts"], None))).all())
    return found.drop_vars("interaction")  # NaN where a part is alone


METHODS: Mapping[str, Callable[[Case], Any]] = {
    one.__name__: one
    for one in (
        *(patch_windows, patch_corrupted, trace, mediate, attribute, atp_star, integrated_gradients),
        *(path_patch_stream, path_patch_query, path_patch_logits, self_repair),
        *(knockout, knockout_cross, knockout_readout, token_lens, spans, causal_paths, positional_patterns),
        *(multiverse, verify, off_distribution, compare_choices, all_for_one, interactions),
    )
}


WITHOUT: Mapping[tuple[str, ...], Mapping[str, str]] = {
    tuple(name for name in STACKED if name not in CROSS): {"knockout_cross": "'cross_pattern': {name} does not have it"},
    MIXERS: {
        "path_patch_query": "'q': {name} does not have it",
        "token_lens": "cannot be divided by what it attends to",
        "positional_patterns": "'scores': {name} does not have it",
        "all_for_one": "3 of 3 blocks of {name} have no attention scores",
        **dict.fromkeys(("knockout", "knockout_readout", "spans", "causal_paths"), "'pattern': {name} does not have it"),
    },
    HYBRIDS: {"all_for_one": "2 of 3 blocks of {name} have no attention scores"},
    ("qwen3-next",): {
        "path_patch_query": "is it true that pattern × v = z",
        "token_lens": "what is known of it does not add up",
    },
    (*ENCODERS, *IMAGES): {
        **dict.fromkeys(("spans", "causal_paths"), "{name} attends to later positions"),
        "all_for_one": "{name} does not read from left to right",
    },
    POST_NORMS: dict.fromkeys(SUMMED, "{name} norms the stream itself after every sum"),
    ("modernbert",): dict.fromkeys(SUMMED, "its unembedding does not take what its last norm gives"),
    CROSS: {**dict.fromkeys(SUMMED, "its blocks attend to another stream"), "all_for_one": "{name} has cross-attention"},
    IMAGES: {**dict.fromkeys(SUMMED, "no token ids enter its blocks"), "positional_patterns": "these prompts are no token ids"},
}
"""What refuses which architectures, and a part of the reason; everything else runs."""


def dims(result: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in result["value"].dims)


def swept(of: Case) -> tuple[str, ...]:
    return ("layer", "head") if of.component == "z" else ("layer",)


def close(found: Any, expected: Any) -> None:
    found, expected = np.broadcast_arrays(np.asarray(found), np.asarray(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * (1 + float(np.abs(expected).max(initial=0))))


def _there(result: xr.Dataset, *names: str) -> xr.Dataset:
    """Without the layers that have no such part, which are NaN."""
    for name in names:
        own = np.isfinite(result[name])
        assert bool(own.any(["example", "token"]).equals(own.all(["example", "token"]))), f"{name} is NaN for some examples"
    return result.drop_vars(names)


def unsaid(result: Any) -> list[str]:
    """Variables that are not finite where a component is."""
    if isinstance(result, xr.DataTree):
        return [f"{node.path}/{name}" for node in result.subtree if node.has_data for name in unsaid(node.to_dataset())]
    if result is None:
        return []
    found = []
    for name, values in result.data_vars.items():
        if values.dtype.kind == "f":
            known = np.isfinite(values) | result.get("absent", False)
            found += [] if bool(known.all()) else [str(name)]
    return found


def asked(of: Case, method: str) -> str:
    """What it says: the reason of a refusal, or nothing; anything but a reason is an error of the method."""
    try:
        result = METHODS[method](of)
    except UserError as error:
        return str(error)
    assert unsaid(result) == [], f"{method} on {of.name}"
    return ""


ALONE = "ignore:in 100% of the prompts some token's mean is over that one prompt alone:RuntimeWarning"
"""Random prompts share no tokens."""


@pytest.mark.filterwarnings(ALONE)
@pytest.mark.parametrize("name", STACKED)
def test_every_method_runs_or_refuses_with_the_reason(name: str, seed: int) -> None:
    """One test an architecture, which several processes may share out. Outside the table nothing is refused."""
    of = case(name, seed)
    found = {method: asked(of, method) for method in METHODS}
    expected: dict[str, str] = {}
    for where, reasons in WITHOUT.items():
        expected |= reasons if name in where else {}
    refused = {method: reason for method, reason in found.items() if reason}
    assert set(refused) == set(expected), refused
    for method, reason in refused.items():
        assert expected[method].format(name=name) in reason


@pytest.mark.filterwarnings(ALONE)
@pytest.mark.parametrize("name", OTHERS)
def test_elsewhere_methods_run_or_say_why_not(name: str, seed: int) -> None:
    """What is no stack of blocks over tokens: nothing breaks inside, and what reads attention from left to right is refused."""
    if name not in architectures.available():
        pytest.skip(f"{name} needs {architectures.LIBRARIES[name]}")
    of = case(name, seed)
    found = {method: asked(of, method) for method in METHODS if (name, method) != ("unet", "path_patch_stream")}
    for method in ("trace", *SUMMED, "spans", "causal_paths", "positional_patterns", "all_for_one"):
        assert len(found[method]) > 20
