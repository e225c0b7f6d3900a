"""Path patching: the effect of a sender on the output through chosen receivers only.

    >>> heads = interp.grid("z", layer=..., head=..., position="END")                                     # doctest: +SKIP
    >>> direct = interp.path_patch(model, pairs, heads, "logits")                                         # doctest: +SKIP
    >>> into = interp.path_patch(model, pairs, heads, ["L9H9.q@END", "L9H6.q@END", "L10H0.q@END"])       # doctest: +SKIP
    >>> interp.views.heatmap(into)                                              # layer × head of senders  # doctest: +SKIP

Wang et al., "Interpretability in the Wild" (arXiv 2211.00593); Goldowsky-Dill et al., "Localizing Model Behavior with Path
Patching" (arXiv 2304.05969).

1. Run both prompts of a pair.
2. Run the base with the sender's value from the source and all attention heads frozen at the base's values; MLPs are computed
   anew (``through_mlps``) or frozen too. What each receiver is made of there is what reaches it by such paths.
3. Run the base with the receivers at these values, and everything after them free.

With intermediate stops (``through``) step 2 is repeated: what the first of them are made of goes into a run in which heads are
frozen again, and so on. A receiver is any site: ``q``, ``k``, ``v`` of a head, or all three by its ``z``; ``mlp_out`` for what
an MLP reads; a residual stream; ``"logits"`` alone for the direct effect. All receivers of one list are replaced in one run, so
one that lies behind another does not see that it changed, as in the paper. With MLPs frozen and one receiver this is exact edge
patching, which :func:`interp.patch_edges` does for all edges at less cost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import xarray as xr

from interp.engine.asked import asked_pairs, one_or_more, together
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.families import Family, Where, asked, check_words, named, sourced
from interp.engine.measure import sources
from interp.engine.precision import Precision
from interp.engine.prepared import Options, Patching
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike
from interp.engine.swept import swept
from interp.errors import InputError, UnknownSiteError
from interp.interventions import Activation, Arranged, Change, Intervention, Source
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model
from interp.sites import MAIN, Site

METHOD = Method(
    id="path_patching",
    name="path patching",
    paper="Wang et al. 2022, Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 Small, "
    "arXiv 2211.00593; Goldowsky-Dill et al. 2023, Localizing Model Behavior with Path Patching, arXiv 2304.05969",
    mediator="paths from heads, MLPs and streams through chosen receivers",
    search="exhaustive",
    cost="two forward passes, and for every sender what of one lies between it and the receivers, and what comes after these",
    function="interp.path_patch",
)
Receivers = str | Site | Change | Sequence[str | Site | Change]
LOGITS = Site("logits")
_BASE = Activation("base")
_ASIS: dict[str, Any] = {"source": None, "edit": None, "featurizer": None, "keep_error": True}


def path_patch(
    model: Model,
    pairs: Any,
    senders: Where,
    receivers: Receivers | Mapping[str, Receivers] = "logits",
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    through: Receivers | Sequence[Receivers] = (),
    through_mlps: bool = True,
    patching: Patching = "noising",
    source: Source | None = None,
    corruption: Given = None,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset | xr.DataTree:
    """The effect of every sender by way of some receivers.

    Args:
        model, pairs, metric, source, corruption, given, rows, precision, progress, store, name, tags: as for
            :func:`interp.patch`.
        senders: a grid, a site, several, or interventions that say their own source: every cell is a sender.
        receivers: sites with positions, ``"L9H6.q@END"``, one or several that receive together, without positions all tokens;
            or a mapping of names to such, each of which is a family of the result. ``"logits"`` alone is what reaches the
            logits directly.
        through: receivers on the way, the first stop first; paths lead through all of them in this order. Those that receive
            together are a list within the list.
        through_mlps: whether MLPs between sender and receiver are part of the paths (the paper's way), or frozen.
        hold: as for :func:`interp.patch`, in the runs of step 2 too: with ``"ln_scale"`` norms divide by what they divided by
            in the base, and paths without MLPs are linear.
        patching: ``"noising"``, as in the paper, runs on the clean prompt with the sender from the corrupted one.

    Returns:
        Effects with the axes of the senders, or a ``DataTree`` of such by the names of the receivers. A sender that is not
        before any receiver has no path to it and the base's value by rule.

    Raises:
        UnknownSiteError: a receiver that the model does not have, or ``"logits"`` among others.
        InputError: no receivers. And what :func:`interp.patch` raises.
    """
    said = others(locals())
    check_words(patching, precision=precision)
    into = Into.of(store, name, tags)
    still = held(model, hold)
    options = Options(
        patching,
        "auto",
        given_changes(model, given),
        still,
        rows,
        True,
        progress,
        precision,
        together(corruption, "corruption"),
    )
    encoded, _ = asked_pairs(model, pairs)
    by_name: Mapping[str, Receivers] = receivers if isinstance(receivers, Mapping) else {"": receivers}
    ends = {key: _received(model, one) for key, one in by_name.items()}
    if not ends:
        raise InputError("receivers are an empty mapping; name at least one family, as in {'direct': 'logits'}")
    stops = [_received(model, one) for one in one_or_more(through)]
    if any(change.site == LOGITS for stop in stops for change in stop):
        raise UnknownSiteError("stop", "logits", [], why="nothing lies behind the logits")
    sent = named(model, encoded, senders, _ASIS | {"source": sourced(source, "last")})
    if isinstance(receivers, Mapping) and len(sent) > 1:
        raise InputError("senders and receivers are both mappings of names; give one of the two by name")
    frozen = list(dict.fromkeys([*_frozen(model, through_mlps), *(still.sites if still is not None else ())]))
    laid = {
        key or other: _Paths([*stops, end], frozen).laid(family) for key, end in ends.items() for other, family in sent.items()
    }
    tree = isinstance(receivers, Mapping) or isinstance(senders, Mapping)
    where: Any = laid if tree else laid[""]
    prepared, families = asked(model, pairs, where, metric, dict(_ASIS), options)
    senders_source = sources([one for family in sent.values() for one in family.interventions], patching)
    attrs = {"method": "path_patch", "through_mlps": through_mlps, "source": senders_source}
    recipe = partial(recorded, "path_patch", model, prepared.encoded, **said)
    return swept(prepared, families, attrs, tree=tree, into=into, beside=recipe)


def _received(model: Model, receivers: Any) -> list[Change]:
    """Receivers as changes whose sites and positions count."""
    found: list[Change] = []
    for one in one_or_more(receivers):
        if not isinstance(one, str | Site | Change):
            raise InputError(
                f"receivers hold {one!r} of type {type(one).__name__}; expected sites with positions, such as 'L9H6.q@END', or "
                "'logits', one or a list of them, or a mapping of names to such"
            )
        change = one if isinstance(one, Change) else Intervention.of(one).changes[0]
        found += [Change(site, change.positions) for site in model.each(model.site(change.site))]
    if not found:
        raise InputError("receivers are an empty list; name at least one site, such as 'L9H6.q@END', or 'logits'")
    if len(found) > 1 and any(change.site == LOGITS for change in found):
        raise UnknownSiteError("receiver", "logits", [], why="the logits receive alone: they lie behind every other receiver")
    return found


@dataclass(frozen=True)
class _Paths:
    """Paths through some stops to receivers.

    Args:
        frozen: everything that is frozen where it lies on the way.
    """

    stops: Sequence[Sequence[Change]]
    frozen: Sequence[Site]

    def laid(self, senders: Family) -> Arranged:
        """The cells of the senders, with paths in place of their own changes."""
        made = iter(senders.interventions)
        cells = [self.path(next(made)) if there else None for there in senders.exists.ravel().tolist()]
        way = " → ".join(", ".join(dict.fromkeys(repr(change.site) for change in stop)) for stop in self.stops)
        kept = {key: values for key, values in senders.coords.items() if key == "window_layers"}
        return Arranged(cells, senders.axes, site=f"{senders.attrs['site']} → {way}", coords=kept)

    def path(self, sent: Intervention) -> Intervention:
        """One sender's effect."""
        for stop in self.stops:
            if stop[0].site == LOGITS:
                return self._alone(sent, None)
            sent = Intervention(self._received(sent, stop))
        return sent

    def _received(self, sent: Intervention, stop: Sequence[Change]) -> tuple[Change, ...]:
        """Receivers with what they are made of while the senders are changed and heads are frozen.

        Receivers that are nothing frozen themselves share one run: what is frozen behind one of them does not reach it.
        """
        first = min(_written(change.site) for change in sent.changes)
        reached = [receiver.site for receiver in stop if first < _read(receiver.site)]
        shared = max((site for site in reached if _written(site) == _read(site)), key=_read, default=None)
        runs: dict[Site, Activation] = {}
        found = []
        for receiver in stop:
            until = receiver.site if shared is None or _written(receiver.site) > _read(receiver.site) else shared
            if receiver.site in reached and until not in runs:
                runs[until] = Activation("base", given=self._alone(sent, until))
            source = runs[until] if receiver.site in reached else _BASE
            found.append(Change(receiver.site, receiver.positions, source))
        return tuple(found)

    def _alone(self, sent: Intervention, receiver: Site | None) -> Intervention:
        """Senders changed, and what is frozen between them and a receiver, or the logits."""
        first = min(_read(change.site) for change in sent.changes)
        own = {_module(change.site) for change in sent.changes if change.site.name in _INSIDE}
        on_the_way = [
            site
            for site in self.frozen
            if _written(site) > first and (receiver is None or _written(site) < _read(receiver)) and _module(site) not in own
        ]
        return Intervention((*(Change(site, source=_BASE) for site in on_the_way), *sent.changes), ordered=True)


def _frozen(model: Model, mlps: bool) -> list[Site]:
    """Whatever moves information between tokens, of every layer and stream; and MLPs, where they are no part of the paths."""
    every = dict.fromkeys(site for site in model.sites() if site.name in (*_MOVERS, "mlp_out"))
    return [site for site in every if (not mlps if site.name == "mlp_out" else not _finer(site, every))]


def _finer(site: Site, every: Collection[Site]) -> bool:
    """Whether the heads of what a block's attention gives are known."""
    finer = _MOVERS[site.name]
    return bool(finer) and replace(site, name=finer) in every


_MOVERS = {"z": "", "attn_out": "z", "cross_z": "", "cross_out": "cross_z", "mixer_out": ""}
"""What moves information between tokens, each with what is frozen in its place where that is known."""
_ORDER = {
    **dict.fromkeys(("embed", "pos_embed", "resid_pre"), (0, 0)),
    "ln1_scale": (1, 1),
    **dict.fromkeys(("q", "k", "v", "latent", "k_rotary", "scores", "pattern"), (2, 2)),
    **dict.fromkeys(("z", "result", "ln1_post_scale", "attn_out", "mixer_post", "mixer_out"), (2, 3)),
    "resid_cross": (4, 4),
    **dict.fromkeys(("cross_q", "cross_k", "cross_v", "cross_scores", "cross_pattern"), (5, 5)),
    **dict.fromkeys(("cross_z", "cross_result", "cross_out"), (5, 6)),
    "resid_mid": (7, 7),
    "ln2_scale": (8, 8),
    **dict.fromkeys(("mlp_pre", "mlp_up", "mlp_post", "routing", "expert_out"), (9, 9)),
    **dict.fromkeys(("ln2_post_scale", "mlp_out"), (9, 10)),
    "resid_post": (11, 11),
    "ln_final_scale": (12, 12),
}
"""Where in its block a site reads the stream, and where it has written to it."""
_BEHIND = 1 << 20
"""Behind every layer."""
_INSIDE = {name for name, (reads, writes) in _ORDER.items() if reads == writes and reads in (2, 5, 9)}
"""Sites whose change the module around them passes on."""


def _read(site: Site) -> tuple[bool, int, int]:
    return _at(site, 0)


def _written(site: Site) -> tuple[bool, int, int]:
    return _at(site, 1)


def _at(site: Site, which: int) -> tuple[bool, int, int]:
    """Where a site is in the order of the network; other streams come before the main one."""
    if site.name not in _ORDER:
        why = "where it lies between heads is not known; name it by its role"
        raise UnknownSiteError("end of a path", site, [], why=why)
    layer = _BEHIND if site.name == "ln_final_scale" else -1 if site.layer is None else site.layer
    return site.stream == MAIN, layer, _ORDER[site.name][which]


def _module(site: Site) -> tuple[str, int | None, int]:
    return site.stream, site.layer, _ORDER[site.name][0]
