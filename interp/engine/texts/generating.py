"""Text generated under interventions: several of them, on several prompts, as rows of one batch.

    >>> doses = [interp.Change("L15.resid_post", source=interp.Constant(s * v), edit=interp.Add()) for s in (0, 2, 4, 8)]
    >>> interp.generate(model, ["I think that", "My day was"], doses, scope="new").table()       # doctest: +SKIP

Positions are absolute: ``@25`` of a prompt of 20 tokens is the sixth new token, at the forward pass that is fed it. Negative
indices and roles are the prompt's. The last new token is never fed to the model, so nothing can be changed at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from interp.engine import gauge, provenance
from interp.engine.batches import in_batches
from interp.engine.budget import check_rows
from interp.engine.cells import Cell
from interp.engine.edits import Edits, Rows
from interp.engine.families import check_words, encoded_pairs, listed
from interp.engine.precision import float32
from interp.engine.prepared import Patching
from interp.engine.texts.ahead import Ahead, resolved
from interp.engine.texts.generated import Generated, together, unreached
from interp.errors import GenerationError, InputError, PositionError, UnknownNameError
from interp.interventions import Change, Intervention
from interp.models import Encoded, Model, Tokens
from interp.models.encoding import as_prompts
from interp.models.generation import Continued, configured, continued, refused
from interp.models.places import Scope
from interp.models.stepping import Window
from interp.models.taps import Write
from interp.models.unpadded import unpadded
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site

_SAID_ELSEWHERE = ("max_new_tokens", "num_return_sequences", "use_cache", "disable_compile", "_from_model_config")
Asked = Intervention | Change | Sequence[Intervention | Change | None] | None


def generate(
    model: Model,
    prompts: Any,
    interventions: Asked = None,
    *,
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
            returns; or pairs, of which the base is continued, so that ``Activation()`` means the other prompt's.
        interventions: one or several; None, alone or among them, is the model as it is.
        scope: where an edit of all positions acts: ``"prompt"``, ``"new"`` – from the prompt's end on – or ``"all"``.
        max_new_tokens: at most so many.
        num_return_sequences: how many texts to draw for each prompt, where tokens are drawn.
        seed: of the draws. A row's luck depends on this, on its prompt's number and on which of the prompt's texts it is, and
            not on the intervention: doses differ by what they do alone.
        capture: sites whose activations are returned, after the edits.
        patching: of pairs, whether the corrupted prompt is the base (``"denoising"``) or the clean one (``"noising"``).
        use_cache: keep keys and values; without, every pass carries the whole text, which gives the same numbers slowly.
        rows: most rows in one batch; by default what a memory budget allows.
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
    sites = [Site.parse(site).tensor for site in capture]
    for site in sites:
        model.check(site)
    asked = _interventions(interventions)
    encoded, paired = _encoded(model, prompts)
    runs = Ahead(model, encoded, "corrupted" if patching == "denoising" else "clean", max_new_tokens - 1, scope, rows)
    with float32(), torch.no_grad():
        cells = resolved(asked, runs, paired, chunked=config.prefill_chunk_size is not None)
        examples = torch.arange(len(encoded)).repeat_interleave(num_return_sequences)
        every = torch.stack([torch.arange(len(cells)).repeat_interleave(len(examples)), examples.repeat(len(cells))], dim=-1)
        numbers = torch.arange(num_return_sequences).repeat(len(encoded) * len(cells))
        seeds = [
            ((seed * 1_000_003 + e) * 1_000_003 + n) % (1 << 63)
            for e, n in zip(every[:, 1].tolist(), numbers.tolist(), strict=True)
        ]

        def run(part: slice) -> Continued:
            return _batch(runs, cells, every[part].to(model.device), config, sites, seeds[part])

        parts = in_batches(len(every), runs.rows, run)
    attrs = provenance.identity(model, encoded) | {
        "scope": scope,
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_return_sequences,
        "seed": seed if config.do_sample else None,
        "use_cache": use_cache,
        "patching": patching if paired else None,
        "options": {name: value for name, value in config.to_diff_dict().items() if name not in _SAID_ELSEWHERE},
        "versions": provenance.versions(),
    }
    attrs |= gauge.attribute(model, [one for one in asked if one is not None])
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


def _interventions(given: Any) -> list[Intervention | None]:
    many = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    found = iter(listed([one for one in many if one is not None], "interventions") if many != [None] * len(many) else [])
    if not many:
        raise ValueError("interventions is an empty list; None is the model as it is")
    return [None if one is None else next(found) for one in many]


def _encoded(model: Model, prompts: Any) -> tuple[Encoded, bool]:
    """Prompts or pairs as pairs, and whether they are pairs."""
    many = [prompts] if isinstance(prompts, str | Prompt | Pair) else prompts
    if isinstance(many, Encoded | Pairs) or (isinstance(many, Sequence) and many and isinstance(many[0], Pair)):
        return encoded_pairs(model, many), True
    if isinstance(many, Mapping) and isinstance(many.get("input_ids"), list) and isinstance(many["input_ids"][0], int):
        many = [many["input_ids"]]  # what a tokenizer returns for one text
    if isinstance(many, Tensor | Mapping):
        many = unpadded(many)
    if isinstance(many, Tokens) or not isinstance(many, Sequence):
        raise InputError(f"prompts is {type(prompts).__name__}; expected texts, token ids, interp.Prompt or interp.Pair")
    alone = tuple(Pair(prompt, prompt) for prompt in as_prompts(many))
    return encoded_pairs(model, Pairs(alone, "prompts")), False


def _batch(
    runs: Ahead, cells: Sequence[Cell], rows: Rows, config: Any, capture: Sequence[Site], seeds: Sequence[int]
) -> Continued:
    """Some rows, in one call of the model's generation loop."""
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
    return continued(runs.model, tokens, config, reads=capture, changed=sites, writes=writes, seeds=seeds)
