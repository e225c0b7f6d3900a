"""The words that fill templates: our own lists, each with a digest.

    >>> from interp.tasks import lexicon
    >>> lexicon.NAMES[:3], len(lexicon.NAMES)
    (('Mary', 'John', 'Tom'), 120)
    >>> train, validation, test = lexicon.split(lexicon.NAMES)
    >>> [len(part) for part in (train, validation, test)]
    [72, 24, 24]

Every word is one token, with its leading space, in GPT-2's and in SmolLM2's tokenizer (checked when the lists were made; they
are not shipped). For another tokenizer ask :func:`single_token`. No word stands in two lists, and no name is a word of a
template or of another list whatever its case, so a name is found in a prompt only where it was put.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from interp.errors import UnequalLengthsError
from interp.protocols import Tokenizer, spelled
from interp.tasks.draw import Draw


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: tuple[str, ...] = _words(
    """
    Mary John Tom James Sarah Anna Peter David Michael Robert William Thomas Daniel Paul George Kevin Brian Edward Ronald
    Timothy Jason Jeff Ryan Gary Eric Stephen Andrew Scott Benjamin Samuel Gregory Patrick Jack Dennis Jerry Aaron Adam Henry
    Nathan Douglas Walter Ethan Jeremy Harold Carl Keith Roger Arthur Lawrence Joe Albert Bryan Bruce Alan Ralph Eugene Louis
    Philip Bobby Johnny Emma Lisa Linda Susan Karen Jessica Emily Laura Amy Anne Jane Julia Rachel Rebecca Alice Kate Helen Ruth
    Martha Maria Diana Claire Ellen Elizabeth Jennifer Patricia Barbara Margaret Nancy Sandra Ashley Michelle Amanda Melissa
    Deborah Stephanie Sharon Kathleen Nicole Catherine Christine Carol Janet Lauren Hannah Jean Katherine Sara Lucy Sophie
    Allison Erin Simon Oscar Luke Steve Tony Fred Oliver Alex
    """
)

PLACES: tuple[str, ...] = _words(
    """
    store park school office library station market garden house kitchen hospital museum church hotel restaurant beach farm
    theater airport bank bakery shop gym studio zoo club college factory harbor forest lake tower village castle bridge court
    """
)

#: They begin with a consonant sound, since templates write "a {object}".
OBJECTS: tuple[str, ...] = _words(
    """
    book drink ring ball bone pen letter box key phone map card coin bag hat cup gift ticket lamp watch camera basket bottle
    flower toy knife blanket coat clock guitar rope plate shirt photo brush magazine newspaper picture hammer bell candle
    """
)

#: Nouns for something that lasts for years.
EVENTS: tuple[str, ...] = _words(
    """
    war battle siege campaign strike trial reign voyage drought famine project construction journey tour conflict revolt
    rebellion crisis occupation alliance dispute expedition plague partnership treaty survey festival exile revolution struggle
    search marriage course program recession investigation contest peace rule boom study regime mission union fight blockade
    empire career debate service experiment movement
    """
)

#: Neutral words, for sequences that mean nothing.
WORDS: tuple[str, ...] = _words(
    """
    table river stone paper green window cloud train glass sugar yellow metal circle summer winter honey salt silver wood horse
    tiger engine button pencil carpet ladder mirror pillow barrel rocket desert island ocean valley mountain copper iron cotton
    leather butter pepper garlic lemon orange banana tomato potato rice bread cheese chicken rabbit eagle snake turtle spider
    planet comet magnet needle thread finger shoulder elbow violin piano drum trumpet anchor captain doctor farmer teacher
    soldier student tunnel fence branch leaf root seed grass storm thunder shadow ghost mask wheel pipe wire cable screen signal
    number square triangle purple brown black white grey north south east west coffee milk wine soup salad chair shelf door
    floor roof wall brick sand dust smoke flame ice snow rain wind moon star sun
    """
)

LISTS: Mapping[str, tuple[str, ...]] = {
    "names": NAMES,
    "places": PLACES,
    "objects": OBJECTS,
    "events": EVENTS,
    "words": WORDS,
}


def digest(words: Iterable[str]) -> str:
    """sha256 of the words in their order, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(words), ensure_ascii=False).encode()).hexdigest()[:16]


DIGESTS: Mapping[str, str] = {name: digest(words) for name, words in LISTS.items()}


def split(words: Sequence[str], shares: Sequence[float] = (0.6, 0.2, 0.2), *, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """Disjoint parts of ``words``, one a share, drawn by ``seed``; what rounding leaves over goes to the last part.

    Raises:
        ValueError: the shares are not positive or do not sum to 1.
    """
    if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares={tuple(shares)} must be positive and sum to 1")
    shuffled = Draw("split", seed, 0).order(words)
    cuts = [0] + [round(sum(shares[: i + 1]) * len(words)) for i in range(len(shares))]
    return tuple(tuple(shuffled[a:b]) for a, b in pairwise(cuts))


def following(text: str, tokenizer: Tokenizer) -> list[int]:
    """The token ids that ``text`` (leading space included) gets in the middle of a sentence, where it begins a new token.

    A tokenizer may write the start of a text differently (a space put in front, a word without one), so the text is written
    after a word and the ids of that word are taken away. Where the two merge, the ids are those of the whole.
    """
    before = tokenizer.encode("the", add_special_tokens=False)
    whole = tokenizer.encode("the" + text, add_special_tokens=False)
    return whole[len(before) :] if whole[: len(before)] == before else whole


def is_single(word: str, tokenizer: Tokenizer, *, leading_space: bool = True) -> bool:
    """Whether ``word`` is exactly one token that also reads back as the word (an unknown-word token does not)."""
    ids = following(" " + word, tokenizer) if leading_space else tokenizer.encode(word, add_special_tokens=False)
    return len(ids) == 1 and str(tokenizer.decode(ids)).strip().casefold() == word.casefold()


def single_token(words: Iterable[str], tokenizer: Tokenizer, leading_space: bool = True) -> tuple[str, ...]:
    """The words that are one token in ``tokenizer``, in their order.

    Args:
        words: the words, without a space.
        tokenizer: the tokenizer in question.
        leading_space: look at the word as it stands inside a sentence, after a space.
    """
    return tuple(word for word in words if is_single(word, tokenizer, leading_space=leading_space))


def choose(
    argument: str, given: Sequence[str] | None, list_name: str, tokenizer: Tokenizer | None, *, least: int
) -> tuple[str, ...]:
    """The words that a generator fills its slots from.

    The lexicon's own list (``given`` is None) is cut down to the tokenizer's single-token words; a list that the caller chose
    is taken as it is or refused.

    Raises:
        UnequalLengthsError: a given word is not a single token of ``tokenizer``.
        ValueError: a word occurs twice, or fewer than ``least`` words are left.
    """
    if given is None:
        words = LISTS[list_name] if tokenizer is None else single_token(LISTS[list_name], tokenizer)
        origin = f"of the lexicon's {len(LISTS[list_name])} {list_name} are single tokens of this tokenizer"
    else:
        words = tuple(given)
        origin = "were given"
        repeated = sorted({word for word in words if words.count(word) > 1}) if len(set(words)) < len(words) else []
        if repeated:
            raise ValueError(f"{argument} holds {repeated[0]!r} twice; give each word once")
        if tokenizer is not None:
            _refuse_several_tokens(argument, words, tokenizer)
    if len(words) < least:
        raise ValueError(f"{argument}: at least {least} different words are needed, {len(words)} {origin}")
    return words


def _refuse_several_tokens(argument: str, words: Iterable[str], tokenizer: Tokenizer) -> None:
    for word in words:
        if not is_single(word, tokenizer):
            ids = following(" " + word, tokenizer)
            raise UnequalLengthsError(
                f"{argument} holds {word!r}, which this tokenizer writes as {len(ids)} token{'' if len(ids) == 1 else 's'} "
                f"{spelled(tokenizer, ids)}; clean and corrupted prompts match by position only if every filler is one "
                f"token of its own. Leave it out, or filter with lexicon.single_token({argument}, tokenizer)"
            )


def record(lists: Mapping[str, Sequence[str]]) -> dict[str, dict[str, object]]:
    """What ``made_by`` keeps of the words used: their number and digest, to compare with ``DIGESTS``."""
    return {name: {"size": len(words), "digest": digest(words)} for name, words in lists.items()}
