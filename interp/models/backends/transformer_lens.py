"""TransformerLens as a backend: the hook points of a ``TransformerBridge``, under our names and theirs.

    >>> bridge = TransformerBridge.boot_transformers("gpt2")                                 # doctest: +SKIP
    >>> model = load(bridge)                                                                 # doctest: +SKIP
    >>> patch(model, pairs, grid("blocks.3.attn.hook_z", head=...))                          # doctest: +SKIP

The bridge is taken as it is: raw or in compatibility mode, with the hooks that its user added, which run before ours and stay.
Ours are on its hook points during one forward pass. Which hook points a model has is asked of the bridge, and which of them
fire is found by one forward pass; what they hold is held to the same laws as every other model's sites.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from interp.errors import LoadError
from interp.models.backends.bridge_anatomy import anatomy
from interp.models.backends.bridge_hooks import PointHooks, called
from interp.models.model import Model, Peer
from interp.models.taps import Reads, Write
from interp.protocols import Tokenizer
from interp.sites import Site


class TransformerLens:
    """Runs a bridge with hooks on its hook points."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Mapping[str, Tensor], reads: Reads, writes: Mapping[Site, Write]) -> dict[Site, Tensor]:
        taps = {site: self.model.anatomy.tap(site) for site in (*reads, *writes)}
        with PointHooks(self.model.module, taps, reads, writes) as hooks, warnings.catch_warnings():
            # With another scale the bridge computes the norm itself, and says so: it is what was asked for.
            warnings.filterwarnings("ignore", "A forward hook edited hook_scale")
            called(self.model.module, inputs)
        return hooks.found


def peer(bridge: nn.Module) -> Peer:
    """What a model needs to know of a bridge."""
    return Peer(TransformerLens, bridge.original_model, lambda inputs: anatomy(bridge, inputs))  # type: ignore[arg-type]


def boot(module: nn.Module, tokenizer: Tokenizer | None, *, copied: bool) -> Any:
    """A bridge of a transformers model, which it rewires.

    Args:
        copied: of a copy of the module; the tokenizer, which it changes too, is always copied.

    Raises:
        LoadError: TransformerLens has no adapter for the architecture, or cannot take the model over.
    """
    from transformer_lens.model_bridge import TransformerBridge

    config: Any = getattr(module, "config", None)
    if config is None:
        raise LoadError(f"backend='transformer_lens' takes a model of transformers; {type(module).__name__} has no config")
    module = copy.deepcopy(module) if copied else module
    if not getattr(module.config, "architectures", None):  # models made from a configuration; bridges are chosen by it
        module.config.architectures = [type(module).__name__]  # type: ignore[union-attr]
    name = getattr(config, "_name_or_path", "") or type(module).__name__
    words = copy.deepcopy(tokenizer) if tokenizer is not None else _wordless(config)
    try:
        return TransformerBridge.boot_transformers(name, hf_model=module, tokenizer=words).eval()
    except (ValueError, KeyError, NotImplementedError, AttributeError, RuntimeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0].partition(" Available architectures")[0][:300]
        raise LoadError(f"TransformerLens cannot bridge {type(module).__name__} ({type(error).__name__}: {reason})") from error


def _wordless(config: Any) -> Any:
    """A tokenizer of made-up words, for a model of text that has none: the bridge wants one, and we give it token ids."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if (vocabulary := getattr(text, "vocab_size", None)) is None:
        return None
    from tokenizers import Tokenizer as Words
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    words = Words(models.WordLevel({f"<{i}>": i for i in range(vocabulary)}, unk_token="<0>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<0>", pad_token="<0>", eos_token="<0>")
