"""One task of minimal pairs: a template whose regions align span by span, two types, and a label for each.

>>> task = GymTask(
...     "demo", "agreement", "a verb agrees with its subject over a phrase",
...     "The {subject} {place} the {object}",
...     labels={"singular": (" is",), "plural": (" are",)},
...     varies={"subject": {"singular": ("nurse", "poet"), "plural": ("nurses", "poets")}},
...     free={"place": ("beside", "close to"), "object": ("door", "gate", "wall")},
...     matched=(("subject",),),
... )
>>> task.regions, task.size
(('The', 'subject', 'place', 'the', 'object'), 12)
>>> prompt = task.render(subject="nurse", place="close to", object="door")
>>> prompt.text, prompt.roles["place"], prompt.roles["END"]
('The nurse close to the door', (10, 18), (23, 27))
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from interp.errors import AnswerError, InputError, UnknownNameError
from interp.prompts import Prompt
from interp.tasks.draw import Draw
from interp.tasks.template import last_word

Region = tuple[str, ...]
"""Its slots, written in braces, or one literal."""


@lru_cache(maxsize=256)
def _regions(template: str) -> tuple[tuple[str, Region], ...]:
    """Regions by name: slots that touch are one, since one of them may be empty; so are the words between two slots."""
    found: list[tuple[str, Region]] = []
    for piece in re.findall(r"(?:\{[^{}]+\})+|[^{}]+", template):
        if piece.startswith("{"):
            slots = re.findall(r"\{[^{}]+\}", piece)
            found.append(("+".join(slot[1:-1] for slot in slots), tuple(slots)))
        elif piece.strip():
            found.append(("_".join(piece.split()), (piece.strip(),)))
    total = Counter[str]()
    named = []
    for name, region in found:
        total[name] += 1
        named.append((name if total[name] == 1 else f"{name}_{total[name]}", region))
    return tuple(named)


@dataclass(frozen=True, slots=True)
class Contrast:
    """The fillers of two sentences that differ in their type."""

    fillers: Mapping[str, Mapping[str, str]]
    """By type, then by slot."""
    frame: tuple[str, ...]
    """What both sentences have: the choices that do not depend on the type."""
    entities: tuple[str, ...]
    """What fills the slot with the most fillers."""


@dataclass(frozen=True, slots=True, repr=False)
class GymTask:
    """A task of minimal pairs.

    Raises:
        InputError: a slot that is filled twice or never, not two types, or lists of different lengths that should match.
        AnswerError: a label is that of both types, or a type has none.
    """

    name: str
    group: str
    """The kind of phenomenon: agreement, licensing, garden path, gross syntactic state or long-distance."""
    description: str
    template: str
    """Words with slots in braces."""
    labels: Mapping[str, tuple[str, ...]]
    """The tokens that follow, by type, as they follow: with a leading space. Lists of one length are drawn from together."""
    varies: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Fillers by slot and type. An empty one is a slot that this type does not have; it must touch another slot."""
    free: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Fillers by slot, whatever the type."""
    matched: tuple[tuple[str, ...], ...] = ()
    """Slots that are drawn together: at one place of their lists, for both types."""

    def __post_init__(self) -> None:
        if len(self.labels) != 2:
            raise InputError(f"task {self.name!r} has the types {list(self.labels)}; expected two")
        slots = self.slots
        for slot in (*self.varies, *self.free):
            if slot not in slots:
                raise UnknownNameError("slot", slot, slots, f"of the template of task {self.name!r}")
            if slot in self.varies and slot in self.free:
                raise InputError(f"slot {slot!r} of task {self.name!r} is in varies and in free; expected one of them")
        for slot in slots:
            if slot not in self.varies and slot not in self.free:
                raise InputError(f"task {self.name!r} has no fillers for slot {slot!r} of its template {self.template!r}")
            if any(len(some) == 0 for some in self.lists(slot)):
                raise InputError(f"slot {slot!r} of task {self.name!r} has an empty list of fillers")
        for slot, by_type in self.varies.items():
            if set(by_type) != set(self.labels):
                raise InputError(f"slot {slot!r} of task {self.name!r} has the types {list(by_type)}; expected {self.types}")
        self._check_labels()
        self._check_matched()

    def _check_labels(self) -> None:
        one, other = self.labels.values()
        if not one or not other or "" in (*one, *other):
            raise AnswerError(f"task {self.name!r} has the labels {dict(self.labels)}; expected one at least for each type")
        if both := set(one) & set(other):
            raise AnswerError(f"task {self.name!r} has the label {min(both)!r} for both types {self.types}")

    def _check_matched(self) -> None:
        for group in self.matched:
            for slot in group:
                if slot not in self.slots:
                    raise UnknownNameError("slot", slot, self.slots, f"of the template of task {self.name!r}")
            sizes = {slot: len(some) for slot in group for some in self.lists(slot)}
            if len({len(some) for slot in group for some in self.lists(slot)}) > 1:
                raise InputError(f"matched slots of task {self.name!r} have lists of different lengths: {sizes}")

    @property
    def types(self) -> tuple[str, str]:
        one, other = self.labels
        return one, other

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{([^{}]+)\}", self.template))

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the spans that the sentences of both types have, in their order: slots by their name, ``verb+comma`` for
        two that touch, and words by themselves.
        """
        return tuple(name for name, _ in _regions(self.template))

    @property
    def size(self) -> int:
        """How many contrasts can be drawn, repeated words included."""
        shared = prod(self._length(group) for group in self._groups())
        return shared * prod(len(some) for slot in self._own() for some in self.lists(slot))

    def lists(self, slot: str) -> tuple[tuple[str, ...], ...]:
        """The fillers of a slot: two lists, by type, or one."""
        return tuple(self.varies[slot].values()) if slot in self.varies else (self.free[slot],)

    def _groups(self) -> tuple[tuple[str, ...], ...]:
        """Slots that share one draw, those that both types share."""
        together = {slot for group in self.matched for slot in group}
        return (*self.matched, *((slot,) for slot in self.slots if slot in self.free and slot not in together))

    def _own(self) -> tuple[str, ...]:
        """Slots that each type draws for itself."""
        together = {slot for group in self.matched for slot in group}
        return tuple(slot for slot in self.slots if slot in self.varies and slot not in together)

    def _length(self, group: tuple[str, ...]) -> int:
        return len(self.lists(group[0])[0])

    @property
    def frames(self) -> int:
        """How many choices there are of what both sentences share."""
        return prod(self._length(group) for group in self._groups())

    def draw(self, draw: Draw) -> Contrast:
        """Fillers for a sentence of each type."""
        at = {slot: index for group in self._groups() for index in [draw.below(self._length(group))] for slot in group}
        fillers: dict[str, dict[str, str]] = {}
        for kind in self.types:
            own = {slot: draw.pick(self.varies[slot][kind]) for slot in self._own()}
            fillers[kind] = {slot: own.get(slot, "") if slot in own else self._at(slot, kind, at[slot]) for slot in self.slots}
        shared = tuple(self.lists(group[0])[0][at[group[0]]] for group in self._groups())
        chief = max(self.slots, key=lambda slot: max(map(len, self.lists(slot))))
        chosen = [fillers[kind][chief] for kind in self.types][: 2 if chief in self._own() else 1]
        return Contrast(fillers, shared, tuple(dict.fromkeys(chosen)))

    def _at(self, slot: str, kind: str, index: int) -> str:
        return (self.varies[slot][kind] if slot in self.varies else self.free[slot])[index]

    def repeats(self, contrast: Contrast) -> bool:
        """Whether a sentence would have one word in two slots, in the singular or the plural."""
        several = [slot for slot in self.slots if max(map(len, self.lists(slot))) > 1]
        said = ([by_slot[slot].strip().removesuffix("s") for slot in several] for by_slot in contrast.fillers.values())
        return any(len(set(words) - {""}) < len([word for word in words if word]) for words in said)

    def render(self, **fillers: str) -> Prompt:
        """One sentence, up to its label, with its regions and END (the last word) as roles.

        Raises:
            UnknownNameError: a filler for a slot that the template lacks, or a slot without one.
        """
        for slot in self.slots:
            if slot not in fillers:
                raise UnknownNameError("filler", slot, fillers, f"given to task {self.name!r}")
        for slot in fillers:
            if slot not in self.slots:
                raise UnknownNameError("slot", slot, self.slots, f"of task {self.name!r}")
        parts = re.split(r"(\{[^{}]+\})", self.template)
        return joined(list(self._spans([fillers[part[1:-1]] if part.startswith("{") else part for part in parts])))

    def _spans(self, parts: list[str]) -> Iterator[tuple[str, str]]:
        """Pieces of the text with the region that each belongs to, none for the space between two slots."""
        names, current, before = iter(self.regions), "", False
        for written, part in zip(re.split(r"(\{[^{}]+\})", self.template), parts, strict=True):
            if not written:
                continue
            slot = written.startswith("{")
            if not slot and not written.strip():
                current, before = "", False
            elif not (slot and before):
                current, before = next(names), slot
            yield current, part

    def __repr__(self) -> str:
        return f"GymTask({self.name}: {self.group}, regions {' '.join(self.regions)})"


def joined(pieces: list[tuple[str, str]]) -> Prompt:
    """The text of pieces, with the names of those that have one as roles, without the space around; and END, its last word.

    Raises:
        InputError: a region has no words.
    """
    text, spans = "", dict[str, list[int]]()
    for name, piece in pieces:
        if name:
            start = spans.setdefault(name, [len(text), 0])[0]
            spans[name] = [start, len(text) + len(piece)]
        text += piece
    roles: dict[str, tuple[int, int]] = {}
    for name, (start, stop) in spans.items():
        inside = text[start:stop]
        if not inside.strip():
            raise InputError(f"region {name!r} has no words in {text!r}; let a slot that may be empty touch another one")
        roles[name] = start + len(inside) - len(inside.lstrip()), start + len(inside.rstrip())
    return Prompt(text, {**roles, "END": last_word(text)})


def opened(opening: str, prompt: Prompt) -> Prompt:
    """The same behind an opening, which is a role of its own; an empty one changes nothing."""
    if not opening.strip():
        return prompt
    shifted = {role: (start + len(opening), stop + len(opening)) for role, (start, stop) in prompt.roles.items()}
    return Prompt(opening + str(prompt.text), {"opening": (0, len(opening.rstrip())), **shifted})
