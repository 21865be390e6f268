"""English for what drawings show: "an umbrella", "grapes", "three cherries"."""

from __future__ import annotations

from data.drawings.index import Name
from data.synthetic.vocabulary import count_word

_WITHOUT_NUMBER = (
    "bacon bread broccoli butter candy construction coral custard dango dna fire flatbread fog foggy food garlic "
    "herb ice litter meat money oden poo popcorn rice sake salt snow soap spaghetti sushi tea thread wood yarn voltage "
    "polish chess lacrosse badminton hockey pong football biking golfing tofu mate paper"
)
_MASS = frozenset(_WITHOUT_NUMBER.split())
_ONE = ("Santa Claus", "Mrs. Claus", "Mx Claus", "mount fuji", "kaaba")  # without an article
_THE = ("milky way", "Statue of Liberty", "Tokyo tower", "map of Japan")
_HEAD_ENDS = (" with ", " of ", " on ", " in ", " without ", " behind ", " showing ", " for ", " fluttering ", " at ")
_IRREGULAR = {"mouse": "mice", "goose": "geese", "tooth": "teeth", "foot": "feet", "leaf": "leaves", "knife": "knives"}
_IRREGULAR |= {"wolf": "wolves", "man": "men", "woman": "women", "person": "people", "child": "children", "ox": "oxen"}
_IRREGULAR |= dict.fromkeys(("fish", "deer", "sheep", "moose", "bison", "shrimp", "squid", "aircraft", "salmon"), "")
_CONSONANT = ("uni", "uti", "euro", "one", "use", "u-")  # begin with a vowel's letter and a consonant's sound
_VOWEL = ("x-ray", "hour", "atm", "sos", "mri")


_TIMES = ("", "", "twice", *(f"{count_word(count)} times" for count in range(3, 7)))


def head(text: str) -> tuple[str, str]:
    """A phrase before and from the first preposition on: "bowl with spoon" -> "bowl", " with spoon"."""
    ends = [text.index(end) for end in _HEAD_ENDS if end in text]
    cut = min(ends, default=len(text))
    return text[:cut], text[cut:]


def is_plural(text: str) -> bool:
    """Whether a name means several: "grapes", "glasses"."""
    word = head(text)[0].split()[-1].casefold()
    return word in ("people", "men", "women") or (word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")))


def is_countable(text: str) -> bool:
    """Whether there can be "one" and "two" of it."""
    word = head(text)[0].split()[-1].casefold()
    return not is_plural(text) and word not in _MASS and text not in (*_ONE, *_THE) and word.isascii()


def with_article(text: str) -> str:
    """A name as a sentence names it first: "a red apple", "an x-ray", "grapes", "bread"."""
    if text in _THE:
        return f"the {text}"
    return f"{_article(text)} {text}" if is_countable(text) else text


def _article(text: str) -> str:
    word = text.casefold()
    vowel = word.startswith(_VOWEL) or (word[0] in "aeiou8" and not word.startswith(_CONSONANT))
    return "an" if vowel else "a"


def with_the(text: str) -> str:
    """A name as a sentence names it again: "the red apple"."""
    return text if text in _ONE else f"the {text}"


def colored(color: str, text: str) -> str:
    """ "a red car", "red grapes"; a name that has the color already stays."""
    if color in text.split():
        return with_article(text)
    phrase = f"{color} {text}"
    return f"{_article(phrase)} {phrase}" if is_countable(text) else phrase


def plural(text: str) -> str:
    """More than one of it: "apples", "boxes", "pots of food"."""
    if is_plural(text):
        return text
    noun, rest = head(text)
    *before, last = noun.split(" ")
    word = last.casefold()
    if word in _IRREGULAR:
        last = _IRREGULAR[word] or last
    elif word.endswith("man") and word not in ("human",):
        last = last[:-2] + "en"
    elif word.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*before, last]) + rest


def counted(count: int, text: str) -> str:
    """ "a red apple", "three red apples"; "two pairs of glasses" are "glasses" twice."""
    if count == 1:
        return with_article(text)
    return (
        f"{count_word(count)} {plural(text)}" if is_countable(text) else f"{text} {('twice', 'three times')[count > 2]}"
    )


def verb(text: str) -> str:
    """ "is" or "are", as the name wants it."""
    return "are" if is_plural(text) else "is"


def sentence(text: str) -> str:
    """A text with a capital letter and a full stop."""
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def phrase(name: Name) -> str:
    """`with_article` of a name."""
    return with_article(name.text)
