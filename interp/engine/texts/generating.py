"""Text generated under interventions: several of them, on several prompts, as rows of one batch.

    >>> steer = interp.Change("L15.resid_post", source=torch.randn(576), edit=interp.Add())
    >>> doses = interp.doses(steer, [0, 2, 4, 8])
    >>> interp.generate(model, ["I think that", "My day was"], doses, scope="new", compare=True).table()   # doctest: +SKIP

Positions are absolute: ``@25`` of a prompt of 20 tokens is the sixth new token, at the forward pass that is fed it. Negative
indices and roles are the prompt's. The last new token is never fed to the model, so nothing can be changed at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch

from interp.engine import gauge, provenance
from interp.engine.asked import BASE, Asked, asked_prompts, several
from interp.engine.background import Given, given_changes
from interp.engine.batches import in_batches
from interp.engine.budget import check_rows
from interp.engine.cells import Cell
from interp.engine.edits import Edits, Rows
from interp.engine.families import check_words
from interp.engine.precision import float32
from interp.engine.prepared import Patching
from interp.engine.spans import recorded
from interp.engine.texts.ahead import Ahead, resolved
from interp.engine.texts.generated import Generated, together, unreached
from interp.errors import GenerationError, PositionError, UnknownNameError
from interp.models import Model
from interp.models.generation import Continued, configured, continued, refused
from interp.models.places import Scope
from interp.models.stepping import Window
from interp.models.taps import Write
from interp.sites import Site

_SAID_ELSEWHERE = ("max_new_tokens", "num_return_sequences", "use_cache", "disable_compile", "_from_model_config")


def generate(
    model: Model,
    prompts: Any,
    interventions: Asked = None,
    *,
    given: Given = None,
    compare: bool = False,
    scope: Scope = "all",
    max_new_tokens: int = 20,
    num_return_sequences: int = 1,
    seed: int = 0,
    capture: Sequence[str | Site] = (),
    patching: Patching = "denoising",
    use_cache: bool = True,
    rows: int | None = None,
    **options: Any,
) -> Generated:
    """Continue every prompt under every intervention.

    Args:
        model: a model with the ``generate`` of transformers, run by torch hooks.
        prompts: a text, token ids, a chat (a list of messages), a :class:`interp.Prompt`, a list of such, or what a tokenizer
            returns; or pairs, of which the base is continued, by default the corrupted prompts, so that ``Activation()`` means
            the other prompt's.
        interventions: one or several; None, alone or among them, is the model as it is. :func:`interp.interventions.doses`
            makes several strengths of one.
        given: in force in every row, before its own changes; all positions are all of them there, whatever the scope. Then
            None is the model with what is given.
        compare: beside every changed row run the model as it is – with what is given – on the text that the row writes: how
            probable it finds each token, and how far apart the two distributions are. That takes as many rows again.
        scope: where an edit of all positions acts: ``"prompt"``, ``"new"`` – from the prompt's end on – or ``"all"``.
        max_new_tokens: at most so many.
        num_return_sequences: how many texts to draw for each prompt, where tokens are drawn.
        seed: of the draws. A row's luck depends on this, on its prompt's number and on which of the prompt's texts it is, and
            not on the intervention: doses differ by what they do alone.
        capture: sites whose activations are returned, after the edits.
        patching: of pairs, whether the corrupted prompt is the base (``"denoising"``) or the clean one (``"noising"``).
        use_cache: keep keys and values; without, every pass carries the whole text, which gives the same numbers slowly.
        rows: most texts in one batch, not counting what they are compared with; by default what a memory budget allows.
        options: of transformers' generation config, such as ``do_sample=True``, ``temperature=0.7``, ``eos_token_id=…``; what
            is left out is the model's own.

    Raises:
        GenerationError: a model or a way of generating that interventions cannot follow.
        PositionError: a position that can never be reached, naming the prompt's length and the maximum.
        UnknownSiteError, HeadOutOfRangeError, OrderError, ShapeMismatchError, UnequalLengthsError: what does not fit.

    Warns:
        RuntimeWarning: an edit of a new token was not reached in some rows, because they had ended.
    """
    if why := refused(model):
        raise GenerationError(why)
    _check_arguments(scope, patching, max_new_tokens, num_return_sequences, rows)
    config = configured(model, max_new_tokens=max_new_tokens, use_cache=use_cache, **options)
    if num_return_sequences > 1 and not config.do_sample:
        raise GenerationError(f"num_return_sequences={num_return_sequences} texts would be the same; pass do_sample=True")
    sites = [model.site(site).tensor for site in capture]
    asked, force = several(interventions), given_changes(model, given)
    encoded, paired = asked_prompts(model, prompts)
    runs = Ahead(model, encoded, BASE[patching], max_new_tokens - 1, scope, rows)
    runs.refuse_padding_behind()
    runs.refuse_too_long(f"prompt of {{}} tokens with max_new_tokens={max_new_tokens}")
    with float32(), torch.no_grad():
        *cells, unedited = resolved(asked, runs, paired, chunked=config.prefill_chunk_size is not None, given=force)
        examples = torch.arange(len(encoded)).repeat_interleave(num_return_sequences)
        every = torch.stack([torch.arange(len(cells)).repeat_interleave(len(examples)), examples.repeat(len(cells))], dim=-1)
        numbers = torch.arange(num_return_sequences).repeat(len(encoded) * len(cells))
        seeds = [
            ((seed * 1_000_003 + e) * 1_000_003 + n) % (1 << 63)
            for e, n in zip(every[:, 1].tolist(), numbers.tolist(), strict=True)
        ]

        def run(part: slice) -> Continued:
            beside = unedited if compare else None
            return _batch(runs, cells, beside, every[part].to(model.device), config, sites, seeds[part])

        most = max(1, runs.rows // 2) if compare and rows is None else runs.rows
        parts = in_batches(len(every), most, run)
    attrs = provenance.identity(model, encoded) | {
        "scope": scope,
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_return_sequences,
        "seed": seed if config.do_sample else None,
        "use_cache": use_cache,
        "patching": patching if paired else None,
        "side": BASE[patching] if paired else None,
        "given": None if force is None else repr(force),
        "options": {name: value for name, value in config.to_diff_dict().items() if name not in _SAID_ELSEWHERE},
        "versions": provenance.versions(),
    }
    attrs |= gauge.attribute(model, [one for one in (*asked, force) if one is not None]) | recorded(cells)
    made = together(runs, asked, parts, examples, sites, attrs)
    unreached(cells, runs, made, examples)
    return made


def _check_arguments(scope: Any, patching: Any, new: Any, sequences: Any, rows: int | None) -> None:
    check_words(patching)
    check_rows(rows)
    if scope not in get_args(Scope):
        raise UnknownNameError("scope", scope, get_args(Scope))
    for name, number in (("max_new_tokens", new), ("num_return_sequences", sequences)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r}; expected a whole number, 1 at least")
    if scope == "new" and new == 1:
        raise PositionError("scope='new' with max_new_tokens=1: the one new token is never fed to the model; ask for more")


def _batch(
    runs: Ahead,
    cells: Sequence[Cell],
    unedited: Cell | None,
    rows: Rows,
    config: Any,
    capture: Sequence[Site],
    seeds: Sequence[int],
) -> Continued:
    """Some rows, in one call of the model's generation loop.

    Args:
        unedited: what rows that are changed are compared with, in rows of their own that follow them; None for no comparing.
    """
    followed = None
    if unedited is not None:
        changed = torch.tensor([any(not where.given for where in cell.places) for cell in cells], device=rows.device)
        followed = changed[rows[:, 0]].nonzero().flatten()
        behind = torch.stack([torch.full_like(followed, len(cells)), rows[followed, 1]], dim=-1)
        cells, rows = [*cells, unedited], torch.cat([rows, behind])
    edits = Edits(cells, rows)
    sites = edits.sites()
    columns = range(runs.base.width + runs.ahead)
    touched = {site: edits.touched([site], columns) for site in sites if runs.grows(site)}

    def writes(window: Window) -> dict[Site, Write]:
        found: dict[Site, Write] = {site: edits.write(site) for site in sites if site not in touched}
        for site, at in touched.items():
            if bool(((at >= window.start) & (at < window.stop)).any()):
                found[site] = edits.write(site, column=window.start, until=window.stop)
        return found

    tokens = runs.base.take(rows[:, 1])
    options: dict[str, Any] = {"reads": capture, "changed": sites, "writes": writes, "seeds": seeds, "followed": followed}
    return continued(runs.model, tokens, config, **options)
