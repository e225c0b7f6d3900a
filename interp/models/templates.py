r"""Chats as text: the tokenizer's own chat template writes it, and every role moves to where its words are then.

    >>> asked = Prompt([{"role": "user", "content": "Where is Paris?"}], {"city": "Paris"})
    >>> written(asked, tokenizer).text                                                       # doctest: +SKIP
    '<|im_start|>user\nWhere is Paris?<|im_end|>\n<|im_start|>assistant\n'

The template opens the assistant's turn, unless the last message is the assistant's, which is then continued. What it writes
holds its special tokens, so none are added. Where the words are is found by writing the chat once more with marks around them,
which is believed only if the text without the marks is the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from interp.errors import InputError, PositionError
from interp.prompts import Prompt
from interp.prompts.chats import Message, Piece, changed, pieces, speakers
from interp.prompts.spans import Span

NO_TEMPLATE = "its tokenizer has no chat template"
Places = Mapping[Piece, int]
"""Where in a written text pieces begin."""


def written(prompt: Prompt, *writers: Any, lacking: str = "") -> Prompt:
    """A chat as the text that a model reads, with its roles; any other prompt as it is.

    Args:
        writers: tokenizer and processor of the model, of which the first that has a chat template writes.
        lacking: why there is no tokenizer.

    Raises:
        InputError: there is no chat template, or it refuses the messages.
        PositionError: a role in words that the template changes.
    """
    if not prompt.messages:
        return prompt
    writer = next((one for one in writers if getattr(one, "chat_template", None)), None)
    if writer is None:
        why = NO_TEMPLATE if any(one is not None for one in writers) else lacking or NO_TEMPLATE
        mend = "give its text, or set model.tokenizer.chat_template" if why == NO_TEMPLATE else "give token ids"
        raise InputError(f"the prompt is a chat, {_short(prompt)}, but {why}; {mend}")
    text = _write(writer, prompt.messages)
    begins = _begins(writer, prompt.messages, text)
    named = speakers(prompt.messages)
    roles = {}
    for role, span in prompt.roles.items():
        moved = span if ":" in role else _moved(span, prompt.messages, begins)
        if moved is not None:
            roles[role] = moved
        elif named.get(role) != span:  # what the user did not ask for is left out
            raise PositionError(
                f"role {role!r} covers {str(prompt.text)[slice(*span)]!r} of {_short(prompt)}, which the chat template "
                f"changes: {text!r}; give that text itself, as Prompt(text, roles, templated=True)"
            )
    return Prompt(text, roles, prompt.target, prompt.images, prompt.inputs, templated=True)


def _write(writer: Any, messages: Sequence[Message]) -> str:
    """What a chat template makes of messages, to be continued by the assistant."""
    continued = messages[-1]["role"] == "assistant"
    try:
        text = writer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=not continued,
            continue_final_message=continued,
        )
    except ImportError:
        raise
    except Exception as error:  # a template raises what its author chose
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the chat template refuses the messages of {' and '.join(dict.fromkeys(m['role'] for m in messages))}: {reason}"
        ) from error
    return str(text)


def _begins(writer: Any, messages: Sequence[Message], text: str) -> Places:
    """Where the pieces of a chat begin in its text; those that the template changes are left out."""
    everything = pieces(messages)
    found = _marked(writer, messages, text, everything)
    if found is not None:
        return found
    return {piece: at for one in everything for piece, at in (_marked(writer, messages, text, [one]) or {}).items()}


def _marked(writer: Any, messages: Sequence[Message], text: str, some: Sequence[Piece]) -> Places | None:
    """Where some pieces begin; None if the text would be another one with marks around them.

    A template may cut off space at the ends, so the marks are inside of it.
    """
    some = [piece for piece in some if piece.text.strip()]
    open_, close = _marks(json.dumps([dict(message) for message in messages], ensure_ascii=False) + text)
    texts = {}
    for piece in some:
        core = piece.text.strip()
        before, after = piece.text.split(core, 1)
        texts[piece.message, piece.part] = f"{before}{open_}{core}{close}{after}"
    try:
        seen = _write(writer, changed(messages, texts))
    except InputError:
        return None
    stretches = list(re.finditer(f"{open_}([^{open_}{close}]*){close}", seen))
    as_said = [stretch[1] for stretch in stretches] == [piece.text.strip() for piece in some]
    if not as_said or re.sub(f"[{open_}{close}]", "", seen) != text:
        return None
    cores = [stretch.start() - 2 * i for i, stretch in enumerate(stretches)]
    return {piece: at - piece.text.index(piece.text.strip()) for piece, at in zip(some, cores, strict=True)}


def _marks(text: str) -> tuple[str, str]:
    """Two characters of private use that a text does not hold."""
    unused = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)
    return next(unused), next(unused)


def _moved(span: Span, messages: Sequence[Message], begins: Places) -> Span | None:
    """A span of the transcript in the text; None where the template changes it. Space that it cuts off is not covered."""
    over = [piece for piece in pieces(messages) if piece.start < span[1] and span[0] < piece.stop and piece.text.strip()]
    if not over or any(piece not in begins for piece in over):
        return None
    first, last = over[0], over[-1]
    core = first.text.index(first.text.strip()), last.text.rindex(last.text.strip()) + len(last.text.strip())
    start = max(span[0] - first.start, core[0]) + begins[first]
    stop = min(span[1] - last.start, core[1]) + begins[last]
    return (start, stop) if start < stop else None


def _short(prompt: Prompt) -> str:
    text = str(prompt.text)
    return repr(text if len(text) <= 100 else text[:60] + " … " + text[-30:])
