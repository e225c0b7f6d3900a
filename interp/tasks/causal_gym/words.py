"""Words that several tasks of the gym fill their slots from."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Phrases, one after each stroke."""
    return tuple(" ".join(one.split()) for one in text.split("/"))


def plural(nouns: tuple[str, ...]) -> tuple[str, ...]:
    """Of nouns that only take an s."""
    return tuple(noun + "s" for noun in nouns)


#: People, whose plural is an s more.
PEOPLE = words(
    """
    nurse painter singer lawyer gardener dancer captain librarian drummer sailor professor waiter hunter builder writer driver
    banker baker boxer poet engineer mechanic detective neighbor visitor chef surgeon butcher cyclist tailor
    """
)

#: Those whom a reflexive of the singular would call "himself".
MEN = words(
    """
    king prince knight monk duke uncle brother cowboy sailor soldier hunter boxer plumber carpenter emperor landlord wizard
    grandfather nephew butler bishop lumberjack
    """
)

#: Verbs of what one person does to another.
MET = words("thanked greeted followed visited invited trusted remembered recognized called hired interviewed warned")

#: What opens a clause that another must follow.
SUBORDINATORS = words("While When After Because Although Once Before Since")

#: Who knows it, up to the clause that says what.
KNOWN_BY = phrases(
    """
    I know / I remember / We found out / They told us / Nobody knew / The twins saw / She forgot / He guessed / We understood /
    The guests noticed / You heard / The letter revealed / My aunt explained / The neighbors learned
    """
)

#: Sentences that may stand before any other.
OPENINGS = tuple(one + " " for one in phrases(
    """
    It was a long day. / The story is short. / This much is certain. / Something strange happened last week. / Times were
    hard. / Nothing was the same again. / It rained. / That was years ago. / The news spread quickly. / It is an old tale.
    """
))  # fmt: skip
