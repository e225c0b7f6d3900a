"""The circuit of zoo/induction-2l, found and verified exactly: what it needs, what it lacks, and that nothing smaller does it.

python experiments/verified_circuit/run.py                         # all that the table holds: a quarter of an hour of one core
python experiments/verified_circuit/run.py --quick --out somewhere      # fewer pairs, and sets of up to 3 edges: a minute
python experiments/verified_circuit/run.py --ship                  # write the circuit into the package too

Prompts are lists of different words … A B … C D … A, answered by B; the other prompt is another such list, with other words
and A B elsewhere. Circuits are found on half of the words and tested on the other half. f is (m(C) − m(∅)) / (m(full) − m(∅))
of means, of the divergence from the whole model (``kl``) and of the logit difference of B and D. What is asked for stands in
config.json.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import interp
from interp.circuits import Circuit, Graph, circuits_of, overlap
from interp.effects import curves
from interp.interventions import Activation, Source
from interp.models.zoo import path
from interp.models.zoo.verified import CIRCUIT, PAIRS
from interp.tasks import lexicon

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
QUICK = {"discovery": 16, "held_out": 32, "reference": 32, "seeds": 3, "enumerated_on": 8, "enumerated_up_to": 3, "random": 50}
"""In place of the same of the config."""
NAME = "induction-2l"
SHIPPED = 64
"""Held-out pairs that the package has."""
SHOWN = 0.01
"""Edges weaker than this are not drawn."""
AT_ONCE = 4000
"""Circuits of one sweep."""
REFERENCE = 1000
"""The seed of the lists that means are taken over."""
MEANS = {"positional mean": ("example",), "mean": ("example", "position")}
SCORES: dict[str, dict[str, Any]] = {"EAP": {}, "EAP-IG": {"along": "embeddings"}}
Edges: TypeAlias = tuple[int, ...]
Floats: TypeAlias = NDArray[np.float64]


class Bench:
    """A model, its pairs, and what is seen in the place of an edge that is left out."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.model, self.single = (
            interp.load(config["model"], dtype=dtype, progress=False) for dtype in ("float64", "float32")
        )
        self.graph = interp.graph(self.model)
        self.discovery, self.held_out = (self.pairs(side, config[name]) for side, name in enumerate(("discovery", "held_out")))
        self.some = self.held_out[: config["enumerated_on"]]

    def pairs(self, side: int, count: int, seed: int | None = None, length: int | None = None) -> interp.Pairs:
        """Lists of words of one half, each with another list of that half."""
        single = [word for word in lexicon.WORDS if lexicon.is_single(word, self.model.tokenizer)]
        found = interp.tasks.induction(
            2 * count,
            seed=self.config["seed"] if seed is None else seed,
            words=lexicon.split(single, (0.5, 0.5), seed=self.config["seed"])[side],
            tokenizer=self.model.tokenizer,
            length=length or self.config["length"],
        )
        both = zip(found[:count], found[count:], strict=True)
        return replace(found, items=tuple(replace(one, corrupted=other.clean) for one, other in both))

    def source(self, ablation: str, length: int | None = None) -> Source | None:
        """The other prompt's run, or the mean over lists of the words that circuits are found on."""
        if ablation == "other prompt":
            return None
        reference = tuple(pair.clean for pair in self.pairs(0, self.config["reference"], REFERENCE, length))
        return Activation(reference, pool="mean", over=MEANS[ablation])

    def f(self, circuits: Sequence[Circuit], ablation: str, *, fast: bool = False) -> Floats:
        """Faithfulness of circuits by every metric, ``[metric, circuit]``; fast in float32 and of fewer pairs."""
        model, pairs, source = self.single if fast else self.model, self.some if fast else self.held_out, self.source(ablation)
        both, values = [Circuit.whole(self.graph), Circuit.empty(self.graph)], []
        for start in range(0, len(circuits), AT_ONCE):
            asked = [*both, *circuits[start : start + AT_ONCE]]
            found = interp.patch_circuits(model, pairs, asked, self.config["metrics"], source=source, progress=False)
            means = found["value"].values.astype(float).mean(-1)
            full, empty, rest = means[:, :1], means[:, 1:2], means[:, 2:]
            values.append((rest - empty) / (full - empty))
        return np.concatenate(values, 1)

    def search(self, pairs: interp.Pairs, ablation: str, thresholds: Sequence[float]) -> list[Circuit]:
        """What ACDC leaves of the graph, without what is on no path."""
        found = interp.acdc(self.model, pairs, thresholds, "kl", source=self.source(ablation), progress=False)
        return [one.pruned() for one in circuits_of(found, self.graph)]


def leading(graph: Graph, count: int) -> Iterator[Edges]:
    """Every set of so many edges each of which leads to the logits, through edges of the set.

    An edge that does not is read by nobody: with it or without, the numbers are the same.
    """
    into = np.split(np.arange(len(graph)), np.cumsum(graph.before)[:-1])

    def further(reader: int, heard: frozenset[int], chosen: Edges) -> Iterator[Edges]:
        if len(chosen) == count:
            yield chosen
            return
        if reader < 0:
            return
        useful = reader >= len(into) - graph.ends or any(graph.served[reader, sender] for sender in heard)
        for many in range(min(count - len(chosen), len(into[reader])) + 1 if useful else 1):
            for some in combinations(into[reader].tolist(), many):
                yield from further(reader - 1, heard | {int(graph.sender[edge]) for edge in some}, chosen + some)

    yield from further(len(into) - 1, frozenset(), ())


def different(bench: Bench, ablation: str, size: int) -> list[Circuit]:
    """Circuits of a size, at least one of all that give the same numbers.

    Of a run's values, what reads nothing of this prompt says what it said of the other: edges out of it count for nothing too.
    """
    found = [Circuit(bench.graph, np.isin(np.arange(len(bench.graph)), one)) for one in leading(bench.graph, size)]
    return [one for one in found if ablation != "other prompt" or one.pruned() == one]


def measured(bench: Bench, circuit: Circuit, ablation: str) -> dict[str, Any]:
    """All that is verified of a circuit under one ablation."""
    graph, metrics, numbers = bench.graph, bench.config["metrics"], np.arange(len(bench.graph))
    single = [Circuit.of(graph, [edge]) for edge in (~circuit).edges]
    own = [Circuit.of(graph, [edge]) for edge in circuit.edges]
    two = [first | second for first, second in combinations(single, 2)]
    gone = [Circuit(graph, np.isin(numbers, some)) for some in subsets(np.flatnonzero(circuit.kept).tolist())]
    with_all, without_one = drawn_circuits(bench, circuit)
    least = {fast: bench.f([circuit], ablation, fast=fast) for fast in (False, True)}
    lost = least[False] - bench.f([circuit - one for one in own], ablation)
    needed = bench.f([~one for one in own], ablation)
    gain = bench.f([circuit | one for one in single], ablation) - least[False]
    gain_of_two = bench.f([circuit | one for one in two], ablation, fast=True) - least[True]
    gap = bench.f([circuit - one for one in gone], ablation) - bench.f([~one for one in gone], ablation)
    supersets, others = bench.f(with_all, ablation, fast=True), bench.f(without_one, ablation, fast=True)
    heads, sizes = (
        of_heads(bench, ablation),
        [of_size(bench, ablation, n) for n in range(1, bench.config["enumerated_up_to"] + 1)],
    )
    told = {}
    for at, metric in enumerate(metrics):
        told[metric] = {
            "without_one_edge_f_falls_by": by_edge(circuit, lost[at]),
            "the_whole_model_without_it": by_edge(circuit, needed[at]),
            "one_more_edge": most(single, gain[at]),
            "two_more_edges": most(two, gain_of_two[at]),
            "knocked_out_of_both": most(gone, gap[at]),
            "drawn_with_all_its_edges": spread(supersets[at], bench.config["criterion"]),
            "drawn_without_one_of_them": spread(others[at], bench.config["criterion"]),
            "sets_of_heads": heads[at],
            "sets_of_edges": [one[at] for one in sizes],
        }
    return told


def drawn_circuits(bench: Bench, circuit: Circuit) -> tuple[list[Circuit], list[Circuit]]:
    """Circuits of any size that have all its edges, and such that lack one at least."""
    draw, total = np.random.default_rng(bench.config["seed"]), len(bench.graph)
    with_all, without_one = [], []
    for _ in range(bench.config["random"]):
        with_all.append(Circuit(bench.graph, (draw.random(total) < draw.random()) | circuit.kept))
        kept = draw.random(total) < draw.random()
        kept[draw.choice(np.flatnonzero(circuit.kept))] = False
        without_one.append(Circuit(bench.graph, kept))
    return with_all, without_one


def subsets(items: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Every set of some items, the empty one first."""
    return [some for many in range(len(items) + 1) for some in combinations(items, many)]


def by_edge(circuit: Circuit, values: Floats) -> dict[str, float]:
    return {repr(edge): rounded(one) for edge, one in zip(circuit.edges, values, strict=True)}


def most(circuits: Sequence[Circuit], change: Floats) -> dict[str, Any]:
    """The largest change of f, either way."""
    at = int(abs(change).argmax())
    edges = [repr(edge) for edge in circuits[at].edges]
    return {"of": len(circuits), "f_changes_by_at_most": rounded(abs(change[at])), "with": edges}


def spread(f: Floats, bar: float) -> dict[str, Any]:
    return {"of": len(f), "lowest": rounded(f.min()), "highest": rounded(f.max()), "reach": int((f >= bar).sum())}


def of_heads(bench: Bench, ablation: str) -> list[dict[str, Any]]:
    """Every set of heads, with all edges among them, embedding and logits; by metric."""
    every = [f"L{layer}H{head}" for layer, block in enumerate(bench.graph.blocks) for head in range(block.heads)]
    sets, bar, told = subsets(every), bench.config["criterion"], []
    for f in bench.f([Circuit.among(bench.graph, some) for some in sets], ablation):
        reach = [some for some, one in zip(sets, f, strict=True) if one >= bar]
        least = min(map(len, reach), default=-1)
        needed = set(every).intersection(*reach) if reach else set()
        others = [one for some, one in zip(sets, f, strict=True) if not needed <= set(some)]
        told.append(
            {
                "sets": len(sets),
                "reach": len(reach),
                "smallest": [[*some, rounded(f[sets.index(some)])] for some in reach if len(some) == least],
                "in_all_that_reach": sorted(needed),
                "sets_with_those": len(sets) - len(others),
                "best_without": rounded(max(others, default=float("nan"))),
            }
        )
    return told


def of_size(bench: Bench, ablation: str, size: int) -> list[dict[str, Any]]:
    """Every set of so many edges; by metric."""
    circuits, told = different(bench, ablation, size), []
    for f in bench.f(circuits, ablation, fast=True):
        first, second, *_ = [*np.argsort(-f), None]
        told.append(
            {
                "edges": size,
                "sets": comb(len(bench.graph), size),
                "different": len(circuits),
                "reach": int((f >= bench.config["criterion"]).sum()),
                "best": rounded(f[first]),
                "second": None if second is None else rounded(f[second]),
                "of": [repr(edge) for edge in circuits[first].edges],
            }
        )
    print(ablation, size, [one["best"] for one in told], flush=True)
    return told


def faithful(bench: Bench, circuit: Circuit, ablation: str) -> dict[str, Any]:
    """Faithfulness on held-out pairs with its interval, of lists of several lengths."""
    found, metrics = {}, [*bench.config["metrics"], "same_top1"]
    for length in (bench.config["length"], *bench.config["other_lengths"]):
        pairs, source = bench.pairs(1, bench.config["held_out"], length=length), bench.source(ablation, length)
        tree = interp.evaluate_circuits(
            bench.model, pairs, circuit, metrics, random=0, prune=False, source=source, progress=False
        )
        rows = {metric: interp.effects.faithfulness(tree, metric).iloc[0] for metric in metrics}
        columns = ("f", "low", "high", "value", "full", "empty")
        found[f"{length} words"] = {
            "in_sample": tree["circuits"].attrs["in_sample"],
            **{metric: {name: rounded(row[name]) for name in columns} for metric, row in rows.items()},
        }
    return found


def searched(bench: Bench, circuit: Circuit, ablation: str) -> dict[str, Any]:
    """What the search finds at other thresholds and of other pairs, and where scores of edges put the circuit."""
    thresholds, source = bench.config["thresholds"], bench.source(ablation)
    swept = bench.search(bench.discovery, ablation, thresholds)
    again = [
        bench.search(bench.pairs(0, bench.config["discovery"], seed), ablation, [bench.config["threshold"]])[0]
        for seed in range(1, bench.config["seeds"] + 1)
    ]
    alike = [overlap(*both).jaccard for both in combinations([circuit, *again], 2)]
    how: dict[str, Any] = {"source": source, "progress": False}
    metrics = bench.config["metrics"]
    scores = {f"exact, {one}": interp.patch_edges(bench.model, bench.discovery, one, **how) for one in metrics}
    for name, more in SCORES.items():
        scores[f"{name}, logit_diff"] = interp.attribute_edges(bench.model, bench.discovery, "logit_diff", **more, **how)
    sizes = {name: interp.circuits.ranking(one, bench.graph) for name, one in scores.items()}
    return {
        "edges_by_threshold": {f"{tau:g}": len(one) for tau, one in zip(thresholds, swept, strict=True)},
        "the_same_circuit_at": [tau for tau, one in zip(thresholds, swept, strict=True) if one == circuit],
        "other_seeds": {"of": len(again), "the_same_circuit": sum(one == circuit for one in again)},
        "jaccard": {"mean": rounded(np.mean(alike)), "lowest": rounded(min(alike))},
        "scores": {
            name: {
                "auroc": rounded(curves.roc(size, circuit.kept).auc),
                "weakest_inside": rounded(size[circuit.kept].min()),
                "strongest_outside": rounded(size[~circuit.kept].max()),
            }
            for name, size in sizes.items()
        },
    }


def last_word(bench: Bench) -> dict[str, Any]:
    """The circuit of the task's own pairs, whose prompts differ in the last word alone."""
    own = interp.tasks.induction(bench.config["discovery"], seed=bench.config["seed"], tokenizer=bench.model.tokenizer)
    found = bench.search(own, "other prompt", [bench.config["threshold"]])[0]
    return {"edges": [repr(edge) for edge in found.edges]}


def rounded(value: Any) -> float:
    return round(float(value), 4) + 0.0  # no −0


def written(told: dict[str, Any]) -> str:
    """As JSON, a line for each innermost object or list."""
    text = json.dumps(told, indent=1, ensure_ascii=False)
    return re.sub(r"[\[{][^][{}]*[\]}]", lambda found: " ".join(found[0].split()), text) + "\n"


def found(bench: Bench) -> Circuit:
    """The circuit: what the search leaves at the threshold of the config, of the first ablation."""
    ablation, tau = bench.config["ablations"][0], bench.config["threshold"]
    return replace(bench.search(bench.discovery, ablation, [tau])[0], name=NAME)


def drawn(bench: Bench, where: Path) -> None:
    """Effects of all edges on held-out pairs: what each alone takes of the logit difference, of 1."""
    exact = interp.patch_edges(bench.model, bench.held_out, "logit_diff", progress=False)
    title = f"{bench.config['model']}: what goes without each edge alone"
    interp.views.save(interp.views.circuit(exact, threshold=SHOWN, title=title), where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pairs, and sets of up to 3 edges")
    parser.add_argument("--ship", action="store_true", help="write circuit and pairs into the package, and do nothing else")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    config = CONFIG | (QUICK if given.quick else {})
    bench = Bench(config)
    circuit = found(bench)
    print(circuit, *map(repr, circuit.edges), sep="\n  ")
    if given.ship:
        circuit.save(path(NAME) / CIRCUIT)
        records = ",\n".join(json.dumps(one, ensure_ascii=False) for one in bench.held_out[:SHIPPED].records())
        (path(NAME) / PAIRS).write_text(f"[\n{records}\n]\n", encoding="utf-8")
        return
    given.out.mkdir(parents=True, exist_ok=True)
    drawn(bench, given.out / "circuit.svg")
    told: dict[str, Any] = {
        "model": bench.model.name,
        "config": config,
        "graph": len(bench.graph),
        "circuit": [repr(edge) for edge in circuit.edges],
        "pairs": {"discovery": bench.discovery.digest, "held_out": bench.held_out.digest},
        "where_only_the_last_word_differs": last_word(bench),
        "ablations": {
            one: {
                "search": searched(bench, circuit, one),
                "faithful": faithful(bench, circuit, one),
                **measured(bench, circuit, one),
            }
            for one in config["ablations"]
        },
    }
    (given.out / "table.json").write_text(written(told), encoding="utf-8")


if __name__ == "__main__":
    main()
