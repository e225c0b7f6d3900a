"""What the workbench asks of objects that others make.

>>> from interp.protocols import Tokenizer
>>> tokenizer = interp.load("zoo/language-4l").tokenizer                    # any Hugging Face tokenizer will do
>>> ids = tokenizer.encode(" Mary", add_special_tokens=False)
>>> tokenizer.decode(ids)
' Mary'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used; anything that behaves so is accepted."""

    @property
    def bos_token_id(self) -> int | None: ...

    def __call__(self, text: Any, **kwargs: Any) -> Mapping[str, Any]:
        """``input_ids``, and ``offset_mapping`` in characters where ``return_offsets_mapping=True`` is asked for."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Any) -> Any:
        """The text of token ids (a string for a flat list of ids)."""
        ...

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The tokenizer's own spelling of ids, such as ``Ġ17``, a list for a list."""
        ...


def spelled(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Token ids as the tokenizer spells them, for error messages."""
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
