"""Every search for circuits on the same pairs: how long it takes, what it finds again, and what its circuits carry.

python experiments/circuits/compare.py compiled zoo                  # a few minutes of one core
python experiments/circuits/compare.py smollm2 --model FOLDER        # half an hour
python experiments/circuits/compare.py compiled zoo --quick --out somewhere

Each search gives a number an edge, by which edges are ranked: an estimate or an exact effect; of ACDC, at how many thresholds
an edge is kept; of learned masks, their mean logit. AUROC is that of the known circuit: of compiled programs their edge list,
of the trained model of the zoo what exact patching of the same pairs ranks first. CPR and CMD are of circuits of the strongest
edges on pairs that were held out; CPR of signed numbers where there are any, CMD of their sizes. What is asked for stands in
compare.json.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import qualitative

import interp
from interp import circuits, effects
from interp.circuits import Circuit, Graph

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "compare.json").read_text())
QUICK: dict[str, dict[str, Any]] = {
    "compiled": {"programs": ["reverse"], "thresholds": [1e-8, 1e-4, 1.0], "steps": 4, "epochs": 2},
    "zoo": {
        "tasks": ["ioi"],
        "pairs": 16,
        "sizes": [0.05, 0.2, 1.0],
        "random": 2,
        "thresholds": [0.01, 0.3],
        "steps": 4,
        "epochs": 2,
    },
    "smollm2": {"tasks": ["ioi"], "pairs": 8, "sizes": [0.05, 1.0], "sample": 4},
}
"""In place of the same of the config."""
KEEPS = {"l2": "raises", "kl": "raises", "logit_diff": "lowers", "prob_diff": "lowers"}
METRIC = {"ioi": "logit_diff", "greater_than": "prob_diff"}
Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ranked:
    """What a search says of every edge; the higher, the sooner it is kept."""

    seconds: float
    size: Numbers
    signed: Numbers | None = None


class Searches:
    """Searches on some pairs, each timed.

    Args:
        metric: of estimates and exact patching; masks and ACDC go by ``learned_by``.
    """

    def __init__(
        self, model: interp.Model, pairs: interp.Pairs, graph: Graph, metric: str, config: Mapping[str, Any], **how: Any
    ) -> None:
        self.model, self.pairs, self.graph, self.metric, self.config = model, pairs, graph, metric, config
        self.how = {"graph": graph, "progress": False, **how}
        self.learned_by = "l2" if metric == "l2" else "kl"
        self.found: dict[str, Ranked] = {}

    def exact(self) -> None:
        self._effects("exact", interp.patch_edges)

    def estimates(self, steps: int, activations: int) -> None:
        self._effects("EAP", interp.attribute_edges)
        paths = {"EAP-IG": ("embeddings", steps), "EAP-IG, activations": ("activations", activations)}
        for name, (along, many) in paths.items():
            self._effects(name, interp.attribute_edges, along=along, steps=many)
        self._effects("clean–corrupted", interp.attribute_edges, along="embeddings", quadrature="trapezoid", steps=1)
        with self._timed("information flow") as found:
            shares = interp.information_flow(self.model, self.pairs, graph=self.graph)
            found.append(shares["score"].mean("example").values)

    def searches(self) -> None:
        config, how = self.config, {"by": KEEPS[self.learned_by], **self.how}
        with self._timed("ACDC") as found:
            swept = interp.acdc(self.model, self.pairs, config["thresholds"], self.learned_by, **how)
            found.append(by_thresholds(swept))
        masks = {"seeds": 1, "batch": config["batch"], **how}
        with self._timed("edge pruning") as found:
            learned = interp.edge_pruning(
                self.model, self.pairs, config["sparsities"], self.learned_by, steps=config["steps"], **masks
            )
            found.append(learned["logit"].mean("cell").values)
        with self._timed("subnetwork probing") as found:
            learned = interp.subnetwork_probing(
                self.model, self.pairs, config["strengths"], self.learned_by, epochs=config["epochs"], **masks
            )
            found.append(learned["logit"].mean("cell").values)

    def _effects(self, name: str, search: Callable[..., xr.Dataset], **options: Any) -> None:
        with self._timed(name) as found:
            scores = search(self.model, self.pairs, self.metric, **options, **self.how)
            found += [circuits.ranking(scores, self.graph, by) for by in ("size", KEEPS[self.metric])]

    @contextmanager
    def _timed(self, name: str) -> Iterator[list[Numbers]]:
        began, numbers = time.perf_counter(), list[Numbers]()
        yield numbers
        self.found[name] = Ranked(time.perf_counter() - began, *numbers)


def by_thresholds(found: xr.Dataset) -> Numbers:
    """``[edge]``, at how many thresholds an edge is kept; of equal ones those first whose absence once changed more."""
    change = np.nan_to_num(np.abs(found["change"].values), nan=0.0).max(0)
    return found["in_circuit"].values.sum(0) + change / (1 + change.max())


def evaluated(
    model: interp.Model, pairs: interp.Pairs, graph: Graph, metric: str, found: Mapping[str, Ranked], config: Mapping[str, Any]
) -> xr.DataTree:
    """Circuits of all rankings, and random ones, on pairs that made none of them."""
    lines = {f"{name}, size": one.size for name, one in found.items()}
    lines |= {f"{name}, signed": one.signed for name, one in found.items() if one.signed is not None}
    how = {"sizes": config["sizes"], "by": "raises", "graph": graph, "random": config["random"], "progress": False}
    return interp.evaluate_circuits(model, pairs, lines, metric, **how)


def row(name: str, one: Ranked, areas: Mapping[str, Any], truth: Circuit | None) -> dict[str, Any]:
    """A row of the table; areas are by line."""
    found: dict[str, Any] = {"search": name, "seconds": round(one.seconds, 2)}
    if truth is not None:
        found["auroc"] = round(circuits.roc(one.size, truth, by="raises").auc, 4)
    if areas:
        signed = f"{name}, {'size' if one.signed is None else 'signed'}"
        for kind, line in (("cpr", signed), ("cmd", f"{name}, size")):
            found[kind] = [round(float(areas[line][key]), 3) for key in (kind, f"{kind}_low", f"{kind}_high")]
    return found


def table(
    searches: Searches, truth: Circuit | None, held_out: interp.Pairs | None, config: Mapping[str, Any]
) -> tuple[dict[str, Any], xr.DataTree | None]:
    """What is committed of a task, and the circuits as they were evaluated."""
    model, graph, metric = searches.model, searches.graph, searches.metric
    told: dict[str, Any] = {"edges": len(graph), "metric": metric, "discovery": len(searches.pairs)}
    areas: dict[str, Any] = {}
    tree = None
    if held_out is not None:
        shared = {str(pair.template) for pair in searches.pairs} & {str(pair.template) for pair in held_out}
        told |= {"held_out": len(held_out), "templates_in_both": len(shared)}
        tree = evaluated(model, held_out, graph, metric, searches.found, config)
        areas = {one["line"]: one for one in effects.circuit_areas(tree).to_dict("records")}
        first = next(iter(tree.children.values()))
        told |= {what: round(float(first[of].mean()), 3) for what, of in (("full", "clean"), ("empty", "corrupt"))}
        control = areas["random"]
        told["random"] = {
            kind: [round(float(control[key]), 3) for key in (kind, f"{kind}_low", f"{kind}_high")] for kind in ("cpr", "cmd")
        }
    if truth is not None:
        told["in_the_truth"] = len(truth)
    return told | {"searches": [row(name, one, areas, truth) for name, one in searches.found.items()]}, tree


class Part(NamedTuple):
    """Tables and figures by name."""

    told: dict[str, Any]
    figures: dict[str, go.Figure]


def compiled(config: Mapping[str, Any], steps: int) -> Part:
    """Programs whose edges are known, zero ablation, all inputs."""
    told, figures = {}, {}
    for name in config["programs"]:
        known = interp.models.zoo.KNOWN[name]()
        model = interp.load(known.net, tokenizer=known.tokenizer, name=name, progress=False)
        searches = Searches(model, known.pairs, known.truth.graph, "l2", config, source=interp.Constant(0.0))
        searches.exact()
        searches.estimates(steps, steps)
        searches.searches()
        told[name], _ = table(searches, known.truth, None, config)
        truth = xr.DataArray(known.truth.kept, dims="cell", coords=known.truth.graph.coords())
        scores = {
            key: xr.DataArray(one.size, dims="cell", coords=truth.coords, name="score") for key, one in searches.found.items()
        }
        figures[f"roc-{name}"] = interp.views.roc(scores, truth, absolute=False, title=f"{name}: its edges found again")
    return Part(told, figures)


def zoo(config: Mapping[str, Any], steps: int, seed: int) -> Part:
    """A trained model, small enough for every search."""
    told, figures = {}, {}
    model = interp.load(config["model"], progress=False)
    for name in config["tasks"]:
        pairs = getattr(interp.tasks, name)(config["pairs"], seed=seed, tokenizer=model.tokenizer)
        discovery, held_out = pairs.split()
        graph = interp.graph(model)
        searches = Searches(model, discovery, graph, METRIC[name], config)
        searches.exact()
        searches.estimates(steps, steps)
        searches.searches()
        truth = circuits.strongest(searches.found["exact"].size, graph, max(1, int(config["truth"] * len(graph))), by="raises")
        told[name], tree = table(searches, truth, held_out, config)
        figures[f"curves-zoo-{name}"] = _curves(tree, f"language-4l, {name}")
    return Part(told, figures | {"cost-zoo": drawn(told)})


def smollm2(config: Mapping[str, Any], steps: int, seed: int, folder: str) -> Part:
    """A model of 70,651 edges, for the searches that take no pass an edge; of the others, how long they would take."""
    told, figures = {}, {}
    model = interp.load(folder, name=Path(folder).name, progress=False)
    for name in config["tasks"]:
        discovery, held_out = (asked(model, name, config["pairs"], seed)).split()
        graph = interp.graph(model)
        searches = Searches(model, discovery, graph, METRIC[name], config)
        searches.estimates(steps, config["activations"])
        told[name], tree = table(searches, None, held_out, config)
        told[name]["not run"] = extrapolated(searches, config["sample"], seed)
        figures[f"curves-smollm2-{name}"] = _curves(tree, f"{model.name}, {name}")
    return Part(told, figures | {"cost-smollm2": drawn(told)})


def asked(model: interp.Model, name: str, count: int, seed: int) -> interp.Pairs:
    """Pairs of a task; greater-than by the tens alone where years are written digit by digit.

    The right digits are those above the first year's tens, the wrong ones those below; whether its own is right hangs on the
    digit behind it, so it is neither.
    """
    if name != "greater_than":
        return getattr(interp.tasks, name)(count, seed=seed, tokenizer=model.tokenizer)
    found = []
    for pair in interp.tasks.greater_than(4 * count, seed=seed):
        years = re.findall(r"\d+", str(pair.clean.text))
        tens = int(years[0][2])
        if 2 <= tens <= 7 and len(found) < count:
            digits = [str(digit) for digit in range(10)]
            found.append(replace(pair, answers=tuple(digits[tens + 1 :]), wrong=tuple(digits[:tens])))
    return interp.Pairs(tuple(found), "greater_than_tens")


def extrapolated(searches: Searches, sample: int, seed: int) -> dict[str, Any]:
    """How long exact patching of all edges would take, from some of them; ACDC asks about nearly as many at every threshold."""
    graph = searches.graph
    some = np.random.default_rng(seed).choice(len(graph), sample, replace=False)
    began = time.perf_counter()
    interp.patch_edges(searches.model, searches.pairs, searches.metric, edges=[graph.edges[i] for i in some], progress=False)
    hours = (time.perf_counter() - began) * len(graph) / sample / 3600
    return {"edges timed": sample, "hours for all edges by exact patching, at most": round(hours, 1)}


def _curves(tree: xr.DataTree | None, title: str) -> go.Figure:
    assert tree is not None
    shown = {name: one.to_dataset() for name, one in tree.children.items() if name.endswith(", size") or name == "random"}
    return interp.views.faithfulness(shown, log=True, title=title)


def drawn(told: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """CMD over seconds: a colour a search, a marker a task."""
    figure, markers = go.Figure(), dict(zip(told, ("circle", "diamond"), strict=False))
    names = dict.fromkeys(each["search"] for one in told.values() for each in one["searches"])
    for number, name in enumerate(names):
        found = [
            (task, each) for task, one in told.items() for each in one["searches"] if each["search"] == name and "cmd" in each
        ]
        cmd = np.array([each["cmd"] for _, each in found])
        figure.add_scatter(
            x=[each["seconds"] for _, each in found],
            y=cmd[:, 0],
            error_y={"array": cmd[:, 2] - cmd[:, 0], "arrayminus": cmd[:, 0] - cmd[:, 1], "thickness": 1, "width": 2},
            name=name,
            mode="markers",
            marker={"symbol": [markers[task] for task, _ in found], "size": 10, "color": qualitative.Safe[number]},
        )
    under = ", ".join(f"{marker}s: {task}" for task, marker in markers.items())
    figure.update_layout(template="plotly_white", width=720, height=420, title=f"How far circuits are from the model ({under})")
    figure.update_xaxes(type="log", dtick=1, title="seconds, on two shared cores")
    figure.update_yaxes(type="log", dtick=1, title="CMD (0: as the model at every size)")
    return figure


def written(told: Any) -> str:
    """As JSON, a line for each list and each row of a table."""
    rows = json.dumps(told, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^][{}]*\]", lambda inner: " ".join(inner[0].split()), rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=["compiled", "zoo", "smollm2"])
    parser.add_argument("--model", help="of smollm2: its folder")
    parser.add_argument("--quick", action="store_true", help="a few pairs, thresholds and steps")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    if "smollm2" in given.parts and given.model is None:
        parser.error("smollm2 needs --model FOLDER")
    given.out.mkdir(parents=True, exist_ok=True)
    steps, seed = CONFIG["integration_steps"], CONFIG["seed"]
    for part in given.parts:
        config = CONFIG[part] | (QUICK[part] if given.quick else {})
        if part == "compiled":
            made = compiled(config, steps)
        elif part == "zoo":
            made = zoo(config, steps, seed)
        else:
            made = smollm2(config, steps, seed, given.model)
        (given.out / f"table-{part}.json").write_text(written({"config": config, "tasks": made.told}), encoding="utf-8")
        for name, figure in made.figures.items():
            interp.views.save(figure, given.out / f"{name}.svg")
        for task, one in made.told.items():
            print(f"{part}, {task}: {one['edges']:,} edges")
            for each in one["searches"]:
                numbers = "  ".join(f"{key} {each[key]}" for key in ("auroc", "cpr", "cmd") if key in each)
                print(f"  {each['search']:22s} {each['seconds']:8.1f} s  {numbers}")


if __name__ == "__main__":
    main()
