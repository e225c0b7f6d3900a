"""TransformerLens: its own sweep functions on a TransformerBridge of a copy of the network, without compatibility mode.

``transformer_lens.patching`` makes one ``run_with_hooks`` a cell. The bridge rewires the module that it wraps and sets eager
attention, which is why it gets a copy.
"""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from contestants.networks import Shape
from contestants.question import Question
from contestants.timed import Contestant


class Lens(Contestant):
    def __init__(self, shape: Shape, network: PreTrainedModel) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        self.device = shape.device
        self.bridge = TransformerBridge.boot_transformers(
            shape.name,
            hf_model=copy.deepcopy(network),
            tokenizer=shape.tokenizer(),
            device=shape.device,
            dtype=getattr(torch, shape.dtype),
        ).eval()

    @torch.no_grad()
    def answer(self, question: Question) -> Tensor:
        from transformer_lens import patching

        by_head = question.site == "z"
        clean, cache = self.bridge.run_with_cache(
            question.ids("source"), names_filter=lambda name: name.endswith("hook_z" if by_head else "hook_resid_pre")
        )
        cells = [(layer, place) for layer in question.layers for place in question.where]
        found = patching.generic_activation_patch(
            self.bridge,
            question.ids("base"),
            cache,
            lambda logits: question.measure(logits[:, -1], clean[:, -1]),
            patch_setter=patching.layer_head_vector_patch_setter if by_head else patching.layer_pos_patch_setter,
            activation_name=question.site,
            index_df=pd.DataFrame(cells, columns=["layer", "head" if by_head else "pos"]),
            reduce="none",
        )
        return found.values.unflatten(0, (len(question.layers), -1))
