"""A model block by block, through its own code: any block on any rows, from any position on.

    >>> stack = model.stack                                                                   # doctest: +SKIP
    >>> call = stack.arguments(tokens, range(3, 9), before=keys_values)                         # doctest: +SKIP
    >>> hidden = stack.run(5, hidden, call, rows)                                             # doctest: +SKIP
    >>> logits = stack.logits(stack.run(6, hidden, call, rows))                               # doctest: +SKIP

Nothing is written anew. The model's forward is called with its blocks standing still, which tells what each block is called
with (masks, rotary phases, alibi), and once more with the last block handing over the rows, which applies the final norm, the
unembedding and whatever follows it. Which dimension of a block's arguments is the batch is found when the model is loaded, from
two batch sizes. Inside a block, attention or MLP may be replaced by what they are known to give.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp import kernels
from interp.models.calls import first_tensor, output_tensor, with_first
from interp.models.encoding import Tokens
from interp.models.examples import text_config
from interp.models.hooks import Forward, Hooks, Left, leave, standing_in
from interp.models.keys_values import Carried, KeysValues
from interp.models.layouts import Flat
from interp.models.maps import in_out
from interp.models.trees import Batch, Tree, batch_of, leaves, mapped

if TYPE_CHECKING:
    from interp.models.anatomy import Anatomy
    from interp.models.suffix import Suffix


@dataclass(frozen=True, eq=False)
class Arguments:
    """What the blocks are called with at some columns of some tokens, for every example."""

    columns: range
    calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]
    """Positional and keyword arguments by layer, the hidden states among them."""
    hidden: Float[Tensor, "example position d_model"]
    """What enters the first block."""
    cache: Suffix | None
    taken: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    """The last selection of rows from each tensor, by its id: layers share their masks and phases."""

    @cached_property
    def bytes(self) -> int:
        """Of what blocks are called with, tensors that layers share counted once."""
        seen = {tensor.untyped_storage().data_ptr(): tensor for tensor in (self.hidden, *leaves(self.calls))}
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


class Stack:
    """The blocks of one model. Made by :func:`interp.models.stack_probe.prove`, which holds it to the model's own forward.

    Args:
        module: a model whose forward takes ``input_ids`` and, for a causal suffix, ``past_key_values``.
        anatomy: its main stream's blocks and their parts.
        accepted: keyword arguments that the module's forward takes.
        resumes: whether a pass may start behind positions whose keys and values are known; by default where there is a cache.
            It may not where blocks hand on more than keys and values, as state spaces and linear attention do.
    """

    def __init__(
        self,
        module: nn.Module,
        anatomy: Anatomy,
        accepted: Collection[str],
        *,
        resumes: bool | None = None,
    ) -> None:
        self.module, self._accepted = module, frozenset(accepted)
        self.resumes = "past_key_values" in self._accepted if resumes is None else resumes
        """Whether a pass can start behind positions whose keys and values are known."""
        self.blocks = [module.get_submodule(path) for path in anatomy.main.blocks]
        self.attention = {layer: module.get_submodule(path) for layer, path in anatomy.attention.items()}
        self.mlp = {layer: module.get_submodule(path) for layer, path in anatomy.mlp.items()}
        taps = {module.get_submodule(path): tap for (path, side), tap in anatomy.modules.items() if side == "output"}
        self._flat = {part for part, tap in taps.items() if isinstance(tap.layout, Flat)}
        """Modules that give the tokens of all examples in one axis."""
        self._overwritten = {part for part, tap in taps.items() if tap.copied}
        """Modules whose output is written into later."""
        self.dims: list[Tree] = []
        """For each layer the tree of its arguments, with a :class:`Batch` for every tensor that has one and None elsewhere."""
        self.local = False
        """Whether what enters the first block at a position depends on that position and its token alone."""
        self.forms: dict[nn.Module, int | None] = {}
        """Length of the tuple that a module returns; None for a bare tensor."""
        self.unfolded: frozenset[str] = frozenset()
        """Components that are seen at all positions, those before the first column too: what a cache of latents unfolds to."""
        self.unfused = "it was not probed"
        """Why :meth:`read` cannot be had; empty if it can."""

    def __len__(self) -> int:
        return len(self.blocks)

    # what is learned when the model is loaded

    def learn(self, two: Tokens, three: Tokens) -> None:
        """Find the batch dimensions from two and three prompts of one width, and what blocks, attention and MLPs return."""
        a, b = (self.arguments(tokens, range(tokens.width), None) for tokens in (two, three))
        self.dims = [mapped(batch_of, x, y) for x, y in zip(a.calls, b.calls, strict=True)]
        with ExitStack() as hooks:
            for module in (*self.blocks, *self.attention.values(), *self.mlp.values()):
                handle = module.register_forward_hook(self._form)
                hooks.callback(handle.remove)
            self._forward({**two.inputs(), "use_cache": False})

    def _form(self, module: nn.Module, args: Any, output: Any) -> None:
        self.forms[module] = len(output) if isinstance(output, (tuple, list)) else None

    # running

    def arguments(self, tokens: Tokens, columns: range, before: Sequence[KeysValues] | None) -> Arguments:
        """What the blocks are called with when some columns are run.

        Args:
            before: the keys and values of the base run; None for the arguments alone, or where no column comes before these.
        """
        cache = None
        inputs: dict[str, Any] = tokens.inputs(columns)
        if self.resumes:
            from interp.models.suffix import Suffix

            cache = Suffix(columns.start, before, len(self))
            inputs |= {"past_key_values": cache}
        elif len(columns) < tokens.width:
            raise ValueError(f"{type(self.module).__name__} takes no cache, so no pass can be of the columns {columns} alone")
        inputs |= {"use_cache": cache is not None, "logits_to_keep": 1}
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def stand(*args: Any, **kwargs: Any) -> Any:
            layer = len(calls)
            calls.append((args, kwargs))
            if len(calls) == len(self.blocks):
                raise Left
            return self._returned(self.blocks[layer], first_tensor(args, kwargs))

        with standing_in(dict.fromkeys(self.blocks, stand)), suppress(Left):
            self._forward(inputs)
        return Arguments(columns, calls, first_tensor(*calls[0]), cache)

    def _forward(self, inputs: Mapping[str, Any]) -> Any:
        return self.module(**{name: value for name, value in inputs.items() if name in self._accepted})

    def run(
        self,
        layer: int,
        hidden: Float[Tensor, "row position d_model"],
        call: Arguments,
        rows: Int[Tensor, " row"],
        *,
        attention: Float[Tensor, "row position d_model"] | None = None,
        mlp: Float[Tensor, "row position d_model"] | None = None,
        whole: KeysValues | None = None,
        carried: Carried | None = None,
    ) -> Float[Tensor, "row position d_model"]:
        """One block on some rows, at the columns of ``call``.

        Args:
            rows: which example each row is.
            attention: what the attention module gives; it is then not run.
            mlp: what the MLP gives; it is then not run.
            whole: keys and values of all positions, from :meth:`keys_values`.
            carried: those of earlier columns of the same rows, to which those of this call are added.
        """
        known = {self.attention[layer]: attention} if attention is not None else {}
        known |= {self.mlp[layer]: mlp} if mlp is not None else {}
        if call.cache is not None:
            call.cache.serve(layer, rows, whole=whole, carried=carried)
        args, kwargs = self._call(layer, hidden, call, rows)
        with standing_in({module: self._giving(module, tensor) for module, tensor in known.items()}):
            left = output_tensor(self.blocks[layer](*args, **kwargs))
        if call.cache is not None:
            call.cache.serve(layer, None)  # keeps nothing of this pass
        return left

    def keys_values(
        self,
        layer: int,
        hidden: Float[Tensor, "row position d_model"],
        call: Arguments,
        rows: Int[Tensor, " row"],
        *,
        carried: Carried | None = None,
    ) -> KeysValues:
        """Keys and values of a block for some rows, those of earlier columns in front; nothing else of the block is run."""
        assert call.cache is not None
        call.cache.serve(layer, rows, capture=True, carried=carried)
        args, kwargs = self._call(layer, hidden, call, rows)
        with suppress(Left):
            self.blocks[layer](*args, **kwargs)
        return call.cache.captured(layer)

    def heads(
        self,
        layer: int,
        hidden: Float[Tensor, "row position d_model"],
        call: Arguments,
        rows: Int[Tensor, " row"],
        changing: Hooks,
        output: nn.Module,
        *,
        whole: KeysValues | None = None,
    ) -> None:
        """A block up to the output map of its attention, with hooks that read and write inside; nothing after it is run.

        Args:
            output: W_O.
            whole: keys and values of all positions, from :meth:`keys_values`.
        """
        if call.cache is not None:
            call.cache.serve(layer, rows, whole=whole)
        args, kwargs = self._call(layer, hidden, call, rows)

        with suppress(Left), standing_in({output: leave}), changing:
            self.blocks[layer](*args, **kwargs)

    def logits(
        self, hidden: Float[Tensor, "row position d_model"], columns: Int[Tensor, "row column"] | None = None
    ) -> Float[Tensor, "row position vocab"]:
        """Final norm, unembedding and what follows it, of what leaves the last block.

        Args:
            columns: the only tokens whose logits are wanted, in at least float32; None for the whole vocabulary.
        """
        head = self.unembedding
        if columns is None:
            return self.leaving(hidden)
        if in_out(head) is None:
            every = self.leaving(hidden)
            chosen = repeat(columns.to(every.device), "row column -> row position column", position=every.shape[1])
            return every.to(torch.promote_types(every.dtype, torch.float32)).gather(-1, chosen)

        def some(x: Tensor) -> Tensor:
            found = _read(head, x, columns, logsumexp=False).columns
            return rearrange(found, "(row position) column -> row position column", row=len(x))

        return self.leaving(hidden, some)

    def read(
        self,
        hidden: Float[Tensor, "row position d_model"],
        columns: Int[Tensor, "row column"],
        reference: kernels.ReferenceLogProbs | None = None,
        *,
        logsumexp: bool = True,
    ) -> kernels.Fused:
        """Some logits of what leaves the last block, and numbers about all of them, which are never kept.

        Only where :attr:`unfused` is empty. Rows and positions are one axis, ``(row position)``, of the result, which is at
        least float32, and of ``reference``.
        """
        taken: list[Tensor] = []

        def take(x: Tensor) -> Any:
            taken.append(x)
            raise Left

        with suppress(Left):
            self.leaving(hidden, take)
        options = {"softcap": self.softcap, "reference": reference, "logsumexp": logsumexp}
        return _read(self.unembedding, taken[0], columns, **options)

    def leaving(self, hidden: Float[Tensor, "row position d_model"], unembed: Forward | None = None) -> Tensor:
        """What the model's own forward makes of what leaves its last block.

        Args:
            unembed: stands in for the unembedding.
        """
        ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": ids, "use_cache": False}
        swaps = {block: self._giving(block, hidden) for block in self.blocks}
        if unembed is not None:
            swaps[self.unembedding] = unembed
        with standing_in(swaps):
            return output_tensor(self._forward(inputs))

    @property
    def softcap(self) -> float | None:
        """The cap c that the model's config puts on logits: c · tanh(logits / c)."""
        text = text_config(getattr(self.module, "config", None))
        return getattr(text, "final_logit_softcapping", None)

    @property
    def unembedding(self) -> nn.Module:
        """The linear map from the stream to the vocabulary."""
        module: Any = self.module
        return module.get_output_embeddings()

    def _call(self, layer: int, hidden: Tensor, call: Arguments, rows: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a block for some rows."""

        def take(batch: Batch | None, value: Any) -> Any:
            if batch is None or not isinstance(value, Tensor) or value.shape[batch.dimension] == 1 != len(call.hidden):
                return value
            known = call.taken.get(id(value))
            if known is None or known[0] is not rows:
                split = value.unflatten(batch.dimension, (-1, batch.multiple)).index_select(batch.dimension, rows)
                call.taken[id(value)] = known = (rows, split.flatten(batch.dimension, batch.dimension + 1))
            return known[1]

        args, kwargs = mapped(take, self.dims[layer], call.calls[layer])
        return with_first(args, kwargs, hidden)

    def _giving(self, module: nn.Module, tensor: Tensor) -> Forward:
        """A forward that returns ``tensor`` in the form in which the module returns its own."""
        return lambda *args, **kwargs: self._returned(module, tensor)

    def _returned(self, module: nn.Module, tensor: Tensor) -> Any:
        tensor = tensor.flatten(0, 1) if module in self._flat else tensor
        tensor = tensor.clone() if module in self._overwritten else tensor
        length = self.forms.get(module)
        return tensor if length is None else (tensor, *(None for _ in range(length - 1)))


def _read(
    head: Any, x: Float[Tensor, "row position d_model"], columns: Int[Tensor, "row column"], **options: Any
) -> kernels.Fused:
    """What is read of an unembedding's logits, each row at columns of its own and at all of its positions."""
    return kernels.fused_readout(
        rearrange(x, "row position d_model -> (row position) d_model"),
        head.weight,
        repeat(columns.to(x.device), "row column -> (row position) column", position=x.shape[1]),
        bias=getattr(head, "bias", None),
        **options,
    )
