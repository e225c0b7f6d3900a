"""Facts that are well known: relations, how they are asked for, and who stands in them; our own lists.

    >>> RELATIONS["capital"].templates[0].text, RELATIONS["capital"].facts["France"]
    ('The capital of {subject} is', 'Paris')

A subject has one answer in its relation, and it occurs in no other place of its prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from interp.tasks.template import Template


@dataclass(frozen=True, slots=True)
class Relation:
    """What subjects have each one of."""

    templates: tuple[Template, ...]
    """They have the slot ``{subject}``, and the answer is the next word."""
    facts: Mapping[str, str]
    """Answers by subject."""


def _relation(name: str, texts: tuple[str, ...], facts: str) -> Relation:
    templates = tuple(Template(f"facts/{name}-{i}", text) for i, text in enumerate(texts))
    stated = [line.split(" = ") for line in facts.replace("\n", ",").split(",") if line.strip()]
    return Relation(templates, {subject.strip(): answer.strip() for subject, answer in stated})


RELATIONS: Mapping[str, Relation] = {
    name: _relation(name, texts, facts)
    for name, texts, facts in (
        (
            "capital",
            ("The capital of {subject} is", "The capital city of {subject} is", "The capital of {subject} is the city of"),
            """
            France = Paris, Italy = Rome, Germany = Berlin, Spain = Madrid, Portugal = Lisbon, Greece = Athens
            Egypt = Cairo, Japan = Tokyo, China = Beijing, Russia = Moscow, England = London, Ireland = Dublin
            Austria = Vienna, Hungary = Budapest, Poland = Warsaw, Sweden = Stockholm, Norway = Oslo, Denmark = Copenhagen
            Finland = Helsinki, Belgium = Brussels, Cuba = Havana, Peru = Lima, Kenya = Nairobi, Iraq = Baghdad
            Iran = Tehran, Syria = Damascus, Thailand = Bangkok, Canada = Ottawa, Turkey = Ankara, Vietnam = Hanoi
            Cambodia = Phnom Penh, Argentina = Buenos Aires, Ethiopia = Addis Ababa, Malaysia = Kuala Lumpur
            India = New Delhi
            """,
        ),
        (
            "language",
            ("The main language of {subject} is", "The people of {subject} speak"),
            """
            France = French, Italy = Italian, Germany = German, Spain = Spanish, Portugal = Portuguese, Greece = Greek
            Egypt = Arabic, Japan = Japanese, China = Chinese, Russia = Russian, England = English, Austria = German
            Hungary = Hungarian, Poland = Polish, Sweden = Swedish, Norway = Norwegian, Denmark = Danish, Cuba = Spanish
            Mexico = Spanish, Brazil = Portuguese, Argentina = Spanish, Chile = Spanish, Iran = Persian, Iraq = Arabic
            Syria = Arabic, Turkey = Turkish, Thailand = Thai, Vietnam = Vietnamese, Australia = English
            Colombia = Spanish
            """,
        ),
        (
            "currency",
            ("The currency of {subject} is the", "The currency used in {subject} is the"),
            """
            Japan = yen, China = yuan, Russia = ruble, India = rupee, Mexico = peso, Turkey = lira, Sweden = krona
            Poland = zloty, Germany = euro, France = euro, Italy = euro, Spain = euro, Thailand = baht
            Switzerland = franc, Israel = shekel, Brazil = real, Pakistan = rupee, Vietnam = dong
            """,
        ),
        (
            "continent",
            ("The country {subject} is in the continent of", "The country of {subject} lies on the continent of"),
            """
            France = Europe, Italy = Europe, Germany = Europe, Poland = Europe, Sweden = Europe, Egypt = Africa
            Kenya = Africa, Nigeria = Africa, Ghana = Africa, Ethiopia = Africa, Morocco = Africa, Japan = Asia
            China = Asia, India = Asia, Thailand = Asia, Vietnam = Asia, Nepal = Asia, Peru = South America
            Chile = South America, Brazil = South America, Argentina = South America, Canada = North America
            Mexico = North America
            """,
        ),
        (
            "country",
            ("The city of {subject} is in the country of", "{subject} is a city in the country of"),
            """
            Munich = Germany, Hamburg = Germany, Lyon = France, Marseille = France, Milan = Italy, Naples = Italy
            Venice = Italy, Barcelona = Spain, Seville = Spain, Osaka = Japan, Kyoto = Japan, Shanghai = China
            Mumbai = India, Geneva = Switzerland, Manchester = England, Liverpool = England, Toronto = Canada
            Montreal = Canada, Sydney = Australia, Melbourne = Australia, Istanbul = Turkey, Rotterdam = the Netherlands
            Auckland = New Zealand, Johannesburg = South Africa, Krakow = Poland
            """,
        ),
        (
            "landmark",
            (
                "The {subject} is in the city of",
                "The {subject} is located in the city of",
                "The {subject} stands in the city of",
            ),
            """
            Eiffel Tower = Paris, Louvre = Paris, Colosseum = Rome, Pantheon = Rome, Brandenburg Gate = Berlin
            Kremlin = Moscow, Statue of Liberty = New York, Empire State Building = New York
            Golden Gate Bridge = San Francisco, Space Needle = Seattle, Acropolis = Athens, Parthenon = Athens
            Forbidden City = Beijing, British Museum = London, Tower Bridge = London, Sagrada Familia = Barcelona
            Hagia Sophia = Istanbul, Blue Mosque = Istanbul, Sistine Chapel = Rome, White House = Washington
            Prado Museum = Madrid, Rialto Bridge = Venice
            """,
        ),
        (
            "author",
            ("The book {subject} was written by", "The novel {subject} was written by"),
            """
            The Trial = Franz Kafka, Ulysses = James Joyce, Emma = Jane Austen, Pride and Prejudice = Jane Austen
            Oliver Twist = Charles Dickens, Great Expectations = Charles Dickens, War and Peace = Leo Tolstoy
            Anna Karenina = Leo Tolstoy, Crime and Punishment = Fyodor Dostoevsky, Moby-Dick = Herman Melville
            Frankenstein = Mary Shelley, Dracula = Bram Stoker, Jane Eyre = Charlotte Brontë
            Wuthering Heights = Emily Brontë, The Great Gatsby = F. Scott Fitzgerald, The Hobbit = J.R.R. Tolkien
            Animal Farm = George Orwell, Ivanhoe = Walter Scott, Brave New World = Aldous Huxley
            Don Quixote = Miguel de Cervantes
            Lolita = Vladimir Nabokov
            """,
        ),
        (
            "maker",
            ("The {subject} was introduced by", "The {subject} is made by"),
            """
            iPhone = Apple, iPad = Apple, iPod = Apple, MacBook = Apple, Xbox = Microsoft, Kindle = Amazon
            PlayStation = Sony, Walkman = Sony, Chromebook = Google, Mustang = Ford, Corolla = Toyota, Prius = Toyota
            Civic = Honda, Beetle = Volkswagen, Camaro = Chevrolet, Corvette = Chevrolet, Game Boy = Nintendo
            Windows operating system = Microsoft, Android operating system = Google, Galaxy phone = Samsung
            Model T = Ford, ThinkPad = Lenovo
            """,
        ),
        (
            "sport",
            ("{subject} is a player of the sport of", "The sport that {subject} played is"),
            """
            Michael Jordan = basketball, LeBron James = basketball, Kobe Bryant = basketball, Larry Bird = basketball
            Magic Johnson = basketball, Babe Ruth = baseball, Derek Jeter = baseball, Willie Mays = baseball
            Jackie Robinson = baseball, Roger Federer = tennis, Serena Williams = tennis, Rafael Nadal = tennis
            Andre Agassi = tennis, Tiger Woods = golf, Jack Nicklaus = golf, Wayne Gretzky = hockey
            Diego Maradona = soccer, Lionel Messi = soccer, Tom Brady = football, Joe Montana = football
            Peyton Manning = football
            """,
        ),
        (
            "symbol",
            ("The chemical symbol for {subject} is", "In chemistry, the element {subject} is written as"),
            """
            gold = Au, silver = Ag, iron = Fe, copper = Cu, lead = Pb, tin = Sn, sodium = Na, helium = He, calcium = Ca
            zinc = Zn, hydrogen = H, oxygen = O, carbon = C, nitrogen = N, aluminum = Al, magnesium = Mg, mercury = Hg
            silicon = Si, lithium = Li, neon = Ne
            """,
        ),
        (
            "inventor",
            ("The inventor of the {subject} was", "The {subject} was invented by"),
            """
            telephone = Alexander Graham Bell, light bulb = Thomas Edison, phonograph = Thomas Edison
            dynamite = Alfred Nobel, printing press = Johannes Gutenberg, World Wide Web = Tim Berners-Lee
            cotton gin = Eli Whitney
            """,
        ),
        (
            "young",
            ("A baby {subject} is called a", "The young of a {subject} is called a"),
            """
            dog = puppy, cat = kitten, cow = calf, sheep = lamb, horse = foal, bear = cub, lion = cub, deer = fawn
            duck = duckling, goose = gosling, frog = tadpole, kangaroo = joey, goat = kid
            """,
        ),
    )
}  # fmt: skip
"""Relations by name."""
