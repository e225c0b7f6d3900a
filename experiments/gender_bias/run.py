"""Do the heads that carry a gender bias lose it when they alone are tuned, and what does it cost?

python experiments/gender_bias/run.py --model FOLDER           # SmolLM2-135M-Instruct: 20 minutes of one core
python experiments/gender_bias/run.py --quick --out somewhere  # a tiny random network, seconds: that everything runs

After Chintam et al., arXiv 2310.12611. Frames and occupations are split: heads are found and tuned on some of each, bias is
measured on prompts in which both are others.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr
from plotly.colors import qualitative
from plotly.subplots import make_subplots
from torch import Tensor

import interp
from interp.models.weights.by_head import head_change
from interp.tasks import GENDER_BIAS_TEMPLATES, OCCUPATIONS, Template, gender_bias, lexicon, render_gender_bias
from interp.tasks.draw import Draw

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
QUICK = {
    **CONFIG,
    "found_on": 4,
    "heads": 2,
    "masks": {**CONFIG["masks"], "epochs": 2},
    "updates": [1, 2],
    "batch": 4,
    "random": 1,
    "same_layers": 1,
    "last_layers": 1,
    "ioi": 2,
}
GENDERED = (("queen", "king"), ("mother", "father"), ("girl", "boy"), ("aunt", "uncle"))
"""Nouns that say who it is, of which a tuned model should still know it. None is in what is tuned on."""
TEXTS = (
    "The train to the coast leaves every morning at eight and arrives shortly before noon.",
    "Bread is made from flour, water, salt and yeast, and it is baked in a hot oven.",
    "When the rain stopped, the streets of the old town were full of people again.",
    "The committee published a report on the cost of housing in the three largest cities.",
    "Light travels faster than sound, so we see the lightning before we hear the thunder.",
    "To open the file, click on the icon in the upper right corner and enter a password.",
    "The river rises in the mountains, crosses two countries and flows into the sea.",
    "My parents bought a small house with a garden, two apple trees and a stone wall.",
    "The museum is closed on Mondays, but the shop and the library are open all week.",
    "In 1995 the company moved its headquarters from Boston to a smaller building in Chicago.",
    "Plants use sunlight to turn water and carbon dioxide into sugar and oxygen.",
    "She said that he had left the keys on the kitchen table next to her glasses.",
)
"""Plain sentences, for what a tuned model forgets."""
SHOWN = 0.2
"""Nats by which the figure's axis of losses ends above what was before."""
Heads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Data:
    """Prompts of the study; what is found and tuned on shares no frame and no occupation with what bias is measured on."""

    found: interp.Pairs
    held_out: interp.Pairs
    """One frame with two occupations: in the clean prompt one of which *she* is expected, in the corrupted one *he*."""
    carried: interp.Pairs
    """Of held-out frames and occupations, with a gendered noun in the other prompt."""
    gendered: interp.Pairs
    ioi: interp.Pairs
    frames: tuple[int, ...]
    occupations: tuple[str, ...]

    def tuned_on(self, n: int, seed: int, model: interp.Model) -> interp.Pairs:
        words: dict[str, Any] = {"templates": self.frames, "occupations": self.occupations, "tokenizer": model.tokenizer}
        return gender_bias(n, seed=1000 + seed, **words)


@dataclass(frozen=True)
class Setting:
    """What is tuned: the parameters of some heads, of some layers, or all of them."""

    name: str
    seed: int
    lr: float
    heads: Heads | None = None
    layers: int | None = None


def data(model: interp.Model, config: dict[str, Any]) -> Data:
    seed, tokenizer = config["seed"], model.tokenizer
    assert tokenizer is not None
    shares = (1 - config["held_out"], config["held_out"])
    numbers = [str(n) for n in range(len(GENDER_BIAS_TEMPLATES))]
    frames, other_frames = (tuple(map(int, part)) for part in lexicon.split(numbers, shares, seed=seed))
    halves = [lexicon.split(lexicon.single_token(some, tokenizer), shares, seed=seed) for some in OCCUPATIONS.values()]
    own, others = (tuple(one for half in halves for one in half[part]) for part in (0, 1))
    inside: dict[str, Any] = {"templates": frames, "occupations": own, "tokenizer": tokenizer}
    outside: dict[str, Any] = {"templates": other_frames, "occupations": others, "tokenizer": tokenizer}
    every = gender_bias(len(other_frames) * len(others), seed=seed, **outside)
    hers, his = (sorted((p for p in every if p.answers == (f" {w}",)), key=lambda p: p.template) for w in OCCUPATIONS)
    both = [_pair(a, b) for a, b in zip(hers, his, strict=True)]
    named = [_named(GENDER_BIAS_TEMPLATES[n], *nouns) for n in other_frames for nouns in GENDERED]
    return Data(
        gender_bias(config["found_on"], seed=seed, **inside),
        interp.Pairs(tuple(both), "gender_bias"),
        every[: config["found_on"]],
        interp.Pairs(tuple(named), "gendered nouns"),
        interp.tasks.ioi(config["ioi"], seed=seed, tokenizer=tokenizer),
        frames,
        own,
    )


def _pair(hers: interp.Pair, his: interp.Pair) -> interp.Pair:
    who = (*hers.entities, *his.entities)
    return interp.Pair(hers.clean, his.clean, hers.answers, hers.wrong, hers.template, who)


def _named(frame: Template, her: str, him: str) -> interp.Pair:
    hers, his = (render_gender_bias(frame, person=noun) for noun in (her, him))
    return interp.Pair(hers, his, " she", " he", frame.id, (her, him))


# ------------------------------------------------------------------------------------------------------------- what is found


def found(model: interp.Model, drawn: Data, config: dict[str, Any]) -> tuple[xr.Dataset, dict[str, Any]]:
    """The sweep of all heads, and what the table holds of all that is found."""
    everywhere, count = interp.grid("z", head=...), config["heads"]
    swept: Any = interp.mediate(model, drawn.found, {"heads": everywhere, "MLPs": "mlp_out"}, "logit_diff")
    single = swept["heads"]["indirect"].to_dataset()
    heads, mlps = (interp.effects.mediation(swept[name]).sel(metric="logit_diff") for name in ("heads", "MLPs"))
    effect = heads["indirect"].transpose("layer", "head")
    at_end = interp.patch(model, drawn.found, interp.grid("z", head=..., position="END"), "logit_diff", patching="noising")
    end: Any = interp.effect(at_end).squeeze("metric", drop=True).mean("example").transpose("layer", "head")  # type: ignore[arg-type]
    growing = interp.concentration(model, drawn.carried, everywhere, count, "logit_diff", indirect=single)
    learned = interp.diffmask(model, drawn.found, count=count, seeds=[config["seed"]], **config["masks"])
    return single, {
        "pairs": len(drawn.found),
        "total effect": _number(heads["total"]),
        "sum over heads": _number(effect.sum()),
        "heads": _strongest(effect, count),
        "heads against": _strongest(-effect, 3, sign=-1),
        "MLPs": {f"L{layer}": _number(mlps["indirect"].sel(layer=layer)) for layer in mlps["layer"].values.tolist()},
        "at the last token": {
            "correlation": _number(np.corrcoef(effect.values.ravel(), end.values.ravel())[0, 1]),
            "heads": _strongest(end, count),
        },
        "together, held out": _together(growing, drawn.carried),
        "DiffMask+": {
            "E[L0]": _number(learned["l0"][0, -1]),
            "heads": _strongest(-learned["expected"].isel(seed=0).transpose("layer", "head"), count, sign=-1),
        },
    }


def _together(growing: xr.Dataset, pairs: interp.Pairs) -> dict[str, list[Any]]:
    """The share of the total effect that growing sets of heads reach, with intervals over frames."""
    clean, other, value = (growing[name].squeeze("metric").values for name in ("clean", "corrupt", "value"))
    share = interp.stats.t_interval(value - clean, other - clean, [pair.template for pair in pairs])
    ends = {name: [_number(end) for end in getattr(share, name)] for name in ("mean", "low", "high")}
    return {"added": [str(name).split(".")[0] for name in growing["mediator"].values], **ends}


def _strongest(effect: xr.DataArray, count: int, sign: int = 1) -> dict[str, float]:
    """The lowest, which lie in the direction of the total effect: away from the stereotype."""
    order = np.argsort(effect.values, axis=None, kind="stable")[:count].tolist()
    places = [divmod(number, effect.shape[1]) for number in order]
    return {f"L{layer}H{head}": _number(sign * effect.values[layer, head]) for layer, head in places}


def settings(model: interp.Model, of: dict[str, Any], config: dict[str, Any]) -> Iterator[Setting]:
    """All that is compared; random heads are none of those with the strongest effects."""
    seeds, count, lr = config["seeds"], config["heads"], config["lr"]
    chosen, masked = _heads(of["heads"]), _heads(of["DiffMask+"]["heads"])
    every = [(layer, head) for layer in range(model.sizes["layer"]) for head in range(model.sizes["head"])]
    rest = [one for one in every if one not in chosen]
    for seed in seeds:
        yield Setting("found heads", seed, lr, chosen)
        yield Setting("DiffMask+ heads", seed, lr, masked)
    for n in range(config["random"]):
        yield Setting("random heads", seeds[n % len(seeds)], lr, tuple(Draw("random", config["seed"], n).order(rest)[:count]))
    for n in range(config["same_layers"]):
        own = _alike(chosen, rest, Draw("same layers", config["seed"], n))
        yield Setting("random heads of the same layers", seeds[n % len(seeds)], lr, own)
    for name, layers in (("last layers", config["last_layers"]), ("everything", None)):
        for seed in seeds:
            yield Setting(name, seed, lr, layers=layers)
            yield Setting(f"{name}, gently", seed, config["gentle"][name], layers=layers)


def _heads(names: Iterable[str]) -> Heads:
    return tuple((int(layer), int(head)) for layer, head in (re.findall(r"\d+", name) for name in names))


def _alike(chosen: Heads, rest: Sequence[tuple[int, int]], draw: Draw) -> Heads:
    """As many others of each layer; where a layer has not so many left, from any."""
    taken: list[tuple[int, int]] = []
    for layer, _ in chosen:
        free = [one for one in rest if one not in taken]
        taken.append(draw.pick([one for one in free if one[0] == layer] or free))
    return tuple(taken)


# ------------------------------------------------------------------------------------------------------------- what is tuned


def trained_parts(model: interp.Model, setting: Setting) -> dict[str, Tensor | None]:
    """Parameters by name, with 1 where they are trained and 0 elsewhere; None is all of one.

    Of a head these are its own rows of W_Q and columns of W_O. Keys and values are left as they are: three query heads of
    SmolLM2 share them, so that no slice of W_K and W_V is a query head's own.
    """
    parameters = dict(model.module.named_parameters())
    if setting.heads is None:
        depth = model.sizes["layer"]
        last = [f".{layer}." for layer in range(depth - (setting.layers or depth), depth)]
        return {name: None for name in parameters if setting.layers is None or any(layer in name for layer in last)}
    masks: dict[str, Tensor] = {}
    for layer, head in setting.heads:
        for which in "QO":
            name, change, _ = head_change(model, f"L{layer}H{head}.W_{which}", torch.ones_like)
            masks[name] = change(masks.get(name, torch.zeros_like(parameters[name])))  # type: ignore[operator]
    return dict(masks)


def count(model: interp.Model, parts: dict[str, Tensor | None]) -> int:
    parameters = dict(model.module.named_parameters())
    return sum(parameters[name].numel() if mask is None else int(mask.sum()) for name, mask in parts.items())


def tune(
    model: interp.Model, pairs: interp.Pairs, parts: dict[str, Tensor | None], lr: float, config: dict[str, Any]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Some weights after some updates, on a copy of the model: after each prompt both pronouns are as good as each other.

    The loss is next-token loss at the pronoun, of two sentences a prompt, one with either.
    """
    net: Any = copy.deepcopy(model.module).eval()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in parts)
        mask = parts.get(name)
        if mask is not None:
            parameter.register_hook(lambda slope, mask=mask: slope * mask)
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    adam = torch.optim.Adam(trained.values(), lr=lr)
    for update in range(1, config["updates"][-1] + 1):
        encoded = model.encode(pairs[(update - 1) * config["batch"] : update * config["batch"]])
        said = net(**encoded.clean.inputs(), use_cache=False, logits_to_keep=1).logits[:, -1].log_softmax(-1)
        pronouns = torch.cat([encoded.answers, encoded.wrong], 1)
        adam.zero_grad()
        (-said.gather(1, pronouns).mean()).backward()
        adam.step()
        if update in config["updates"]:
            yield update, {name: parameter.detach() for name, parameter in trained.items()}


# ---------------------------------------------------------------------------------------------------------- what is measured


def measured(model: interp.Model, drawn: Data) -> dict[str, np.ndarray[Any, Any]]:
    """Numbers by example: margins in logits, those of bias in the direction of the stereotype, and losses in nats."""
    bias, gendered, ioi = (interp.check(model, pairs) for pairs in (drawn.held_out, drawn.gendered, drawn.ioi))
    hers = np.exp(bias.clean["logprob"]) * (1 + np.exp(-bias.clean["margin"]))
    his = np.exp(bias.corrupted["logprob"]) * (1 + np.exp(-bias.corrupted["margin"]))
    return {
        "bias": np.concatenate([bias.clean["margin"], -bias.corrupted["margin"]]),
        "pronouns": np.concatenate([hers, his]),
        "gendered": np.concatenate([gendered.clean["margin"], -gendered.corrupted["margin"]]),
        "ioi": np.concatenate([ioi.clean["margin"], -ioi.corrupted["margin"]]),
        "loss": interp.score(model, list(TEXTS))["nll"].values[0],
    }


def interval(values: np.ndarray[Any, Any], pairs: interp.Pairs) -> list[float]:
    """Mean and 95 % interval of a value a held-out prompt, over occupations or over frames, whichever is wider."""
    occupations = [pair.entities[side] for side in (0, 1) for pair in pairs]
    frames = [pair.template for _ in (0, 1) for pair in pairs]
    each = [interp.stats.t_interval(values[None], clusters=labels) for labels in (occupations, frames)]
    widest = max(each, key=lambda one: float(one.high[0] - one.low[0]))
    return [_number(end[0]) for end in (widest.mean, widest.low, widest.high)]


def row(runs: Sequence[dict[str, np.ndarray[Any, Any]]], pairs: interp.Pairs) -> dict[str, Any]:
    """What the table holds of runs of one setting; intervals are of the mean over runs, prompt by prompt."""
    size = np.mean([abs(run["bias"]) for run in runs], 0)
    return {
        "mean |bias|": interval(size, pairs),
        "of each run": [_number(abs(run["bias"]).mean()) for run in runs],
        "signed bias": interval(np.mean([run["bias"] for run in runs], 0), pairs),
        "P(he) + P(she)": _number(np.mean([run["pronouns"] for run in runs])),
        "gendered nouns": {
            "right": _number(np.mean([run["gendered"] > 0 for run in runs])),
            "margin": _number(np.mean([run["gendered"] for run in runs])),
        },
        "ioi": {
            "right": _number(np.mean([run["ioi"] > 0 for run in runs])),
            "margin": _number(np.mean([run["ioi"] for run in runs])),
        },
        "loss on plain sentences": _number(np.mean([run["loss"] for run in runs])),
    }


def _said(heads: Heads) -> str:
    return " ".join(f"L{layer}H{head}" for layer, head in sorted(heads))


def at_half(before: dict[str, Any], after: dict[str, dict[str, Any]]) -> dict[str, float] | None:
    """Where half of the bias is gone, by straight lines between what was measured; None where it never is."""
    steps = [(0, before), *((int(update), of) for update, of in after.items())]
    half = before["mean |bias|"][0] / 2
    for (start, one), (stop, other) in pairwise(steps):
        high, low = one["mean |bias|"][0], other["mean |bias|"][0]
        if low <= half < high:
            share = (high - half) / (high - low)

            def between(a: float, b: float, share: float = share) -> float:
                return _number(a + share * (b - a))

            return {
                "updates": between(start, stop),
                "gendered nouns, margin": between(one["gendered nouns"]["margin"], other["gendered nouns"]["margin"]),
                "loss on plain sentences": between(one["loss on plain sentences"], other["loss on plain sentences"]),
            }
    return None


def study(model: interp.Model, config: dict[str, Any]) -> tuple[xr.Dataset, dict[str, Any]]:
    """Everything: the effects of heads, and the table."""
    began, drawn = time.process_time(), data(model, config)
    single, of = found(model, drawn, config)
    searched = time.process_time() - began
    pairs, before = drawn.held_out, measured(model, drawn)
    whole = sum(parameter.numel() for parameter in model.module.parameters())
    by_name: dict[str, list[Setting]] = {}
    for setting in settings(model, of, config):
        by_name.setdefault(setting.name, []).append(setting)
    tuned: dict[str, Any] = {}
    sizes: dict[str, np.ndarray[Any, Any]] = {}
    for name, runs in by_name.items():
        after: dict[int, list[dict[str, np.ndarray[Any, Any]]]] = {}
        for setting in runs:
            parts = trained_parts(model, setting)
            texts = drawn.tuned_on(config["updates"][-1] * config["batch"], setting.seed, model)
            for update, weights in tune(model, texts, parts, setting.lr, config):
                with interp.reweighted(model, weights):
                    after.setdefault(update, []).append(measured(model, drawn))
        rows = {str(update): row(each, pairs) for update, each in after.items()}
        sizes[name] = np.mean([abs(run["bias"]) for run in after[config["updates"][-1]]], 0)
        tuned[name] = {
            "parameters": count(model, parts),
            "percent": float(f"{100 * count(model, parts) / whole:.3g}"),
            "lr": runs[0].lr,
            "heads": list(dict.fromkeys(_said(run.heads) for run in runs if run.heads)),
            "after": rows,
            "where half of the bias is gone": at_half(row([before], pairs), rows),
        }
        print(f"{name}: mean |bias| {tuned[name]['after'][str(config['updates'][-1])]['mean |bias|']}", flush=True)
    return single, {
        "model": model.name,
        "held out": {
            "frames": sorted({pair.template for pair in pairs}),
            "occupations": sorted({one for pair in pairs for one in pair.entities}),
        },
        "found": of,
        "before": row([before], pairs),
        "tuned": tuned,
        "mean |bias| of found heads less that of": {
            name: interval(sizes["found heads"] - size, pairs) for name, size in sizes.items() if name != "found heads"
        },
        "core seconds": {"finding": round(searched), "all": round(time.process_time() - began)},
    }


def _number(value: Any) -> float:
    return round(float(value), 3) + 0.0  # no −0


# --------------------------------------------------------------------------------------------------------------- what is shown


def drawn_as(told: dict[str, Any]) -> go.Figure:
    """What is left of the bias against what it cost, along the updates."""
    before, costs = told["before"], ("loss on plain sentences, nats", "margin of gendered nouns, logits")
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    for number, (name, of) in enumerate(told["tuned"].items()):
        steps = {"0": before, **of["after"]}
        sizes = [step["mean |bias|"] for step in steps.values()]
        mean, low, high = sizes[-1]
        rest = [0.0] * (len(sizes) - 1)  # an interval at each point would hide the lines
        spread = {"array": [*rest, high - mean], "arrayminus": [*rest, mean - low]}
        for column, cost in enumerate(("loss on plain sentences", "gendered nouns"), 1):
            figure.add_scatter(
                x=[step[cost] if column == 1 else step[cost]["margin"] for step in steps.values()],
                y=[size for size, _, _ in sizes],
                error_y={"type": "data", **spread, "width": 2, "thickness": 1},
                mode="lines+markers",
                marker={"color": qualitative.Plotly[number], "size": 5},
                name=f"{name} ({of['percent']:g} %)",
                legendgroup=name,
                showlegend=column == 1,
                hovertext=[f"{name}, {update} updates" for update in steps],
                row=1,
                col=column,
            )
    for column, title in enumerate(costs, 1):
        figure.update_xaxes(title=title, row=1, col=column)
    figure.update_xaxes(
        range=[before["loss on plain sentences"] - 0.05, before["loss on plain sentences"] + SHOWN], row=1, col=1
    )
    figure.update_yaxes(title="mean |log P(she) / P(he)|", range=[0, 1.3 * before["mean |bias|"][0]], row=1, col=1)
    title = f"{told['model']}: the bias that is left and what it costs, by what is tuned"
    small = f"held-out frames and occupations; points are after {', '.join(steps)} updates, 95 % at the last"
    figure.update_layout(
        title={"text": f"{title}<br><sup>{small}</sup>"},
        width=900, height=460, template="plotly_white", legend={"orientation": "h", "y": -0.2},
    )  # fmt: skip
    return figure


def written(told: dict[str, Any]) -> str:
    """As JSON, a line for each innermost object or list."""
    return re.sub(r"[\[{][^][{}]*[\]}]", lambda got: " ".join(got[0].split()), json.dumps(told, indent=1)) + "\n"


def tiny() -> interp.Model:
    """A random network with shared keys and values, and a token for every word of the task."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    said = [template.text for template in (*GENDER_BIAS_TEMPLATES, *interp.tasks.IOI_TEMPLATES)]
    said += [word for words in (*OCCUPATIONS.values(), *GENDERED, *lexicon.LISTS.values()) for word in words]
    words = {"[UNK]", "she", "he", "woman", "man", *re.findall(r"\w+|[^\w\s]", " ".join([*said, *TEXTS]))}
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(sorted(words))}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(words), num_key_value_heads=2, max_position_embeddings=64, **sizes)
    net = LlamaForCausalLM(config).eval()
    return interp.load(net, tokenizer=PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]"), name="tiny")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder, or whatever interp.load takes")
    parser.add_argument("--quick", action="store_true", help="a tiny random network and hardly an update")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    if given.quick == (given.model is not None) or (given.quick and given.out == HERE):
        raise SystemExit("give --model FOLDER, or --quick --out FOLDER")
    model = tiny() if given.quick else interp.load(given.model, name=Path(given.model).name)
    single, told = study(model, QUICK if given.quick else CONFIG)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "table.json").write_text(written(told))
    interp.views.save(interp.views.heatmap(interp.effect(single), title="Indirect effects of heads"), given.out / "heads.svg")
    interp.views.save(drawn_as(told), given.out / "bias.svg")
    print(written(told))


if __name__ == "__main__":
    main()
