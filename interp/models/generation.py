"""Text from a model's own generation loop, with writes and reads that follow it through all its forward passes.

    >>> ways = configured(model, max_new_tokens=20, do_sample=True, temperature=0.7)                    # doctest: +SKIP
    >>> continued(model, tokens, ways, changed=[site], writes=plan, seeds=[0, 1]).ids.shape               # doctest: +SKIP
    torch.Size([2, 20])

The loop is that of transformers (``GenerationMixin.generate``): its cache, its processors of logits, its criteria for stopping.
Two things are ours. The log-probabilities are of the model's logits as they are, before any processor. And a token is drawn as
the largest of log-probability plus Gumbel noise (Gumbel 1954; Maddison et al. 2014), each row's noise from a generator of its
own, so that what a row says does not depend on the rows beside it, rows that share a seed share their luck, and torch's own
random state is left alone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import GenerationError, UnknownNameError
from interp.models.choosing import Choice
from interp.models.encoding import Tokens
from interp.models.model import Model, TorchHooks
from interp.models.stepping import Plan, Stepping, Window
from interp.sites import Site

_OURS = ("max_new_tokens", "num_return_sequences", "use_cache")
_NOT_OURS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate")
_ELSEWHERE = "the log-probabilities are in the result, activations are asked for with capture="
_MODES = ("greedy_search", "sample")
_OF_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")


class Compared(NamedTuple):
    """What rows said beside what their followers, fed the same, would have; NaN behind the end."""

    logprobs: Float[Tensor, "row token"]
    """Log-probability of each token among the follower's logits; the row's own where none follows."""
    kl: Float[Tensor, "row token"]
    """D(row ‖ follower) of the next-token distributions, nats."""
    reverse_kl: Float[Tensor, "row token"]
    """D(follower ‖ row)."""


@dataclass(frozen=True, eq=False)
class Continued:
    """What some prompts were continued with."""

    ids: Int[Tensor, "row token"]
    """The new tokens, the one that ended a row included; −1 behind it."""
    logprobs: Float[Tensor, "row token"]
    """Log-probability of each among the model's own logits, float32; NaN behind the end."""
    stopped: tuple[str, ...]
    """What ended each row: ``"eos"``, ``"length"``, or another criterion by its class."""
    found: dict[Site, Tensor]
    """The sites that were read, with the positions of all tokens that were fed to the model: all but the last new one."""
    windows: tuple[Window, ...]
    """What each forward pass carried."""
    compared: Compared | None = None
    """With the rows that followed, where any was asked to."""


def refused(model: Model) -> str:
    """Why a model cannot be run by the loop of transformers with hooks inside; empty if it can."""
    from transformers import GenerationMixin, PreTrainedModel

    if not isinstance(model.backend, TorchHooks):
        return f"{model.name} runs with another backend than torch hooks; load it without backend="
    module = model.module
    if not (isinstance(module, PreTrainedModel) and isinstance(module, GenerationMixin) and module.can_generate()):
        return f"{model.name} is {type(module).__name__}, which has no generate() of transformers"
    if model.reading.main is None:
        return f"no token ids enter the main stream of {model.name}"
    if type(module).generate is not GenerationMixin.generate and model.reading.main != "decoder_input_ids":
        return f"{type(module).__name__} generates by a loop of its own"
    if model.reading.main == "decoder_input_ids" and not getattr(module.config, "is_encoder_decoder", False):
        return f"{type(module).__name__} generates by a decoder of its own"
    return ""


def configured(model: Model, *, max_new_tokens: int, use_cache: bool = True, **options: Any) -> Any:
    """The model's own generation config with some of it changed.

    Raises:
        UnknownNameError: an option that transformers does not have.
        GenerationError: beams or another search, or tensors that are not handed out here.
    """
    module: Any = model.module
    config = copy.deepcopy(module.generation_config)
    known = [name for name in vars(config) if not name.startswith("_") and name not in (*_OURS, *_NOT_OURS)]
    for name in options:
        if name not in known:
            where = "among the arguments of generate and of transformers' GenerationConfig"
            raise UnknownNameError("option of generation", name, known, where, why=_ELSEWHERE if name in _NOT_OURS else "")
    _check_options(model, options)
    drawn = [name for name in options if name in _OF_DRAWING]
    if drawn and not options.get("do_sample", config.do_sample):
        raise GenerationError(f"{drawn[0]}={options[drawn[0]]!r} is for tokens that are drawn; pass do_sample=True")
    with quiet():
        config.update(**options, max_new_tokens=max_new_tokens, use_cache=use_cache, num_return_sequences=1)
    mode = str(config.get_generation_mode().value)
    if mode not in _MODES:
        beams = "num_beams=1" if (config.num_beams or 1) > 1 else "other options"
        raise GenerationError(
            f"{mode} moves rows and passes about, so that no edit stays with its row; use greedy search or sampling: {beams}"
        )
    config.max_length = None
    config.disable_compile = True
    if config.eos_token_id is None and "eos_token_id" not in options:
        config.eos_token_id = getattr(model.tokenizer, "eos_token_id", None)
    if config.pad_token_id is None:
        config.pad_token_id = model.reading.pad
    return config


def _check_options(model: Model, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        many = value if isinstance(value, (list, tuple)) else [value]
        if name.endswith("_token_id") and not all(one is None or isinstance(one, int) for one in many):
            raise GenerationError(f"{name}={value!r}; expected a token id, or several; a text that ends it is stop_strings=")
    if options.get("stop_strings") is not None and model.tokenizer is None:
        raise GenerationError(f"stop_strings={options['stop_strings']!r}, but {model.reading.lacking}; use eos_token_id=")


def continued(
    model: Model,
    tokens: Tokens,
    config: Any,
    *,
    reads: Collection[Site] = (),
    changed: Collection[Site] = (),
    writes: Plan = lambda window: {},
    seeds: Sequence[int] | None = None,
    followed: Int[Tensor, " follower"] | None = None,
) -> Continued:
    """Continue some prompts.

    Args:
        tokens: prompts padded on the left, one a row.
        config: from :func:`configured`.
        reads, changed, writes: see :class:`interp.models.stepping.Stepping`.
        seeds: of each row's draws, where the config asks for sampling; rows with one seed draw alike.
        followed: which row each of the last rows follows: it is fed what that one says, to be compared with it, and is not
            returned. ``writes`` and ``tokens`` know of these rows, ``seeds`` do not.
    """
    from transformers import GenerationMixin

    module: Any = model.module
    sites = {*reads, *changed}
    whole = {site for site in sites if model.places(tokens, site) is not tokens}
    given = _inputs(model, tokens)
    if "logits_to_keep" in model.arguments and any(site.name == "logits" or site.path is not None for site in sites):
        given["logits_to_keep"] = 0  # all of them; the loop asks for the last ones alone
    leading = len(tokens) - (0 if followed is None else len(followed))
    choice = Choice(_generators(seeds, leading) if config.do_sample else None, followed)

    def loop(
        owner: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **rest: Any,
    ) -> Any:
        generation_config.do_sample = False  # the largest is taken: of noisy scores, where tokens are drawn
        choice.processors = logits_processor
        rest |= {"logits_processor": type(logits_processor)([choice]), "generation_config": generation_config}
        return type(owner)._sample(owner, input_ids, stopping_criteria=choice.watching(stopping_criteria), **rest)

    taps = {site: model.taps(site) for site in sites}
    plan: dict[str, Any] = {"reads": reads, "changed": changed, "writes": writes, "whole": whole, "rows": len(tokens)}
    stepping = Stepping(module, taps, tokens.argument, **plan)
    config = copy.copy(config)
    if tokens.ids is not None and tokens.argument == "decoder_input_ids":
        config.decoder_start_token_id = tokens.ids[:, 0].tolist()  # prompts begin as they are given: nothing is put in front
    given |= {"generation_config": config, "custom_generate": loop, "stopping_criteria": _strings(model, config)}
    with torch.no_grad(), model.prepared(sites), quiet(), _asked_alone(module, config), stepping:
        text: Any = GenerationMixin.generate(module, **given)
    new = text.shape[1] - tokens.width
    ids = text[:leading, tokens.width :]
    behind = torch.arange(new, device=ids.device) >= choice.ended[:leading, None]
    logprobs = torch.stack(choice.logprobs, dim=-1)[:, :new]
    return Continued(
        ids.masked_fill(behind, -1),
        logprobs[:leading].masked_fill(behind, torch.nan),
        tuple(choice.reasons[:leading]),
        {site: tensor[:leading] for site, tensor in stepping.found.items()},
        tuple(stepping.windows),
        None if followed is None else _compared(choice, logprobs, behind),
    )


def _compared(choice: Choice, logprobs: Float[Tensor, "row token"], behind: Bool[Tensor, "leading token"]) -> Compared:
    """Rows and their followers; a row that none follows is its own."""
    leading, new = behind.shape
    theirs, one, other = logprobs[:leading].clone(), *(torch.zeros_like(logprobs[:leading]) for _ in range(2))
    theirs[choice.followed] = logprobs[leading:]
    if choice.divergences:
        steps = choice.divergences[:new]
        one[choice.followed] = torch.stack([step.forward for step in steps], dim=-1)
        other[choice.followed] = torch.stack([step.reverse for step in steps], dim=-1)
    return Compared(*(tensor.masked_fill(behind, torch.nan) for tensor in (theirs, one, other)))


def _strings(model: Model, config: Any) -> Any:
    """The criterion of strings that end a text, which needs the tokenizer."""
    from transformers import StoppingCriteriaList, StopStringCriteria

    criteria = StoppingCriteriaList()
    if config.stop_strings is not None:
        tokenizer: Any = model.tokenizer
        criteria.append(StopStringCriteria(tokenizer, config.stop_strings))
        config.stop_strings = None  # transformers would make it again, and does not hand its own loop a tokenizer
    return criteria


@contextmanager
def _asked_alone(module: Any, config: Any) -> Iterator[None]:
    """The module's own config out of the way, from which transformers takes whatever was set to None."""
    own = module.generation_config
    module.generation_config = config
    try:
        yield
    finally:
        module.generation_config = own


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, what transformers warns of passes: options that greedy search does not read, or special tokens."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"transformers\.")
        yield


def _inputs(model: Model, tokens: Tokens) -> dict[str, Any]:
    """What ``generate`` is given; position ids and the mask of a decoder's text without padding it makes itself."""
    left_out = {"decoder_attention_mask"} if bool(tokens.mask.all()) else set()
    given = {name: tensor for name, tensor in tokens.inputs().items() if name in model.arguments - left_out}
    return {name: tensor for name, tensor in given.items() if not name.endswith("position_ids")}


def _generators(seeds: Sequence[int] | None, rows: int) -> list[torch.Generator]:
    """A generator a row, the same one for rows with one seed."""
    wanted = range(rows) if seeds is None else seeds
    made = {seed: torch.Generator().manual_seed(seed) for seed in set(wanted)}
    return [made[seed] for seed in wanted]
