"""Templates that read facts off English prompts, and ask about them.

"Press 2 to enter a different number" says which key enters a different number, and what key 2 does;
"Please leave your message after the tone" says when. Each template reads one such fact off the
transcript; no model writes questions or answers. A question that a prompt answers in two ways is
left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WORDS = "zero one two three four five six seven eight nine".split()
_DIGITS = {word: str(digit) for digit, word in enumerate(_WORDS)}
_NAMES = {digit: word for word, digit in _DIGITS.items()}
_SIGNS = {
    "pound": ("pound", "#", "hash"),
    "star": ("star", "*", "asterisk"),
}
_SAME = {"*": "star", "#": "pound", "hash": "pound", "asterisk": "star"}
_ONE_KEY = rf"\d+|{'|'.join(_DIGITS)}|pound|star|hash|\*|#"
_KEY = (
    rf"(?:the )?(?P<key>{_ONE_KEY})"
    r"(?:,? or hash)?(?: (?:key|sign)\b)?"
)
_ANY_KEY = re.compile(rf"(?<!\w)(?P<key>{_ONE_KEY})(?!\w)", re.I)
#: A purpose ends with its clause: at punctuation, or where the next key is named.
_PURPOSE = r"(?P<purpose>[^.,;:!?]+?)"
_END = (
    r"(?=\s*(?:[.,;:!?]|$|\b(?:or|and|then)?\s*(?:please )?(?:press|dial)\b"
    rf"|\bor (?:{_ONE_KEY}) (?:to|for)\b))"
)
_PRESS = r"(?P<verb>press|dial)"
_TO_PRESS = re.compile(rf"\b{_PRESS} {_KEY}(?: now)? (?P<link>to|for|if) {_PURPOSE}{_END}", re.I)
_NEXT_KEY = re.compile(rf"(?:,|\bor\b)\s*(?:or )?{_KEY} (?P<link>to|for) {_PURPOSE}{_END}", re.I)
_PRESS_TO = re.compile(
    rf"(?:^|, )(?P<link>to|for|if) {_PURPOSE},? (?:please |you can )*{_PRESS} {_KEY}(?! or\b)", re.I
)
_BY_PRESSING = re.compile(
    rf"\byou (?:may|can) {_PURPOSE}(?: at any time)? by (?:\w+ \w+ or by )?pressing {_KEY}", re.I
)
_WHEN_DONE = re.compile(rf"\bwhen (?:done|finished),? (?:hang up or )?press {_KEY}", re.I)
_AFTER = re.compile(
    rf"\b(?P<act>enter|say) (?P<what>[^.,;]+?),? (?:followed by|and then press) {_KEY}", re.I
)
_KEY_FOR_LETTER = re.compile(r"\bthe (?P<key>\d) key for (?P<letter>[A-Z])\b")
_ENTER = re.compile(
    r"(?:^|[.,:] |\bplease )(?:re-)?enter (?P<what>(?:your|the|an?) [^.,;]+?)"
    r"(?=,? (?:followed|using|and)\b|[.,;]|$)", re.I,
)  # fmt: skip
_TONE_FIRST = re.compile(
    r"\b(?P<when>after|at) the tone,? (?:please )?(?P<act>say|record) (?P<what>[^.,;]+?)"
    r"(?= and then\b|[.,;]|$)", re.I,
)  # fmt: skip
_TONE_LAST = re.compile(
    r"\b(?P<act>leave|record|say) (?P<what>[^.,;]+?) (?P<when>after|at) the tone", re.I
)
_LETTERS = re.compile(rf"\bfirst (?P<count>{'|'.join(_DIGITS)}) letters of (?P<of>[^.,;]+?)"
                      r"(?= using\b|[.,;]|$)", re.I)  # fmt: skip
_RETURN = re.compile(r"\breturn to (?P<where>the [a-z ]+?)(?= and\b|[.,;]|$)", re.I)
_LOCATED = re.compile(r"\b(?P<what>\w+ server) located at (?P<where>[A-Z]\w+)")
_STATE = re.compile(
    r"^(?P<who>you|the conference|this conference) (?:is|are)(?: now| currently)? "
    r"(?P<state>un)?(?P<what>muted|locked)\b", re.I,
)  # fmt: skip
_LEADER = re.compile(r"\bconference will begin when (?P<who>(?:the|our) [a-z ]+?) arrives", re.I)
_MOVE = re.compile(r"\bhas (?P<move>joined|left) the conference", re.I)
_REQUEST = re.compile(
    r"\bplease (?P<what>(?:try|hold|wait|stay|check|continue)\b[^.,;!]*?)(?= and your\b|[.,;!]|$)",
    re.I,
)
_NOT_VALID = re.compile(
    r"\bthat(?:'s| is) not a valid (?P<one>[a-z ]+)|\bthat (?P<other>\w+) is (?:invalid|not valid)",
    re.I,
)
_DONE = re.compile(
    r"^(?P<what>(?:your|the) [a-z ]+?) (?P<has>has|have) been (?:successfully )?(?P<done>\w+ed)\b",
    re.I,
)
_FULL = re.compile(r"^that (?P<what>\w+) is full", re.I)
_BUSY = re.compile(r"^(?P<what>all [^.,;]+?) are (?:currently )?busy", re.I)
# A purpose that ends like this was cut: the recording goes on with another one.
_CUT_OFF = frozenset("to for the a an of or and if with from your you".split())


@dataclass(frozen=True)
class Question:
    """One question about a transcript.

    Attributes
    ----------
    kind : str
        Template: ``key``, ``purpose``, ``how_many``, ``what``, ``when``, ``where``, ``who``,
        ``state``, ``request``.
    text : str
    answers : tuple of str
        All right answers, the shortest natural one first.
    """

    kind: str
    text: str
    answers: tuple[str, ...]


def _key_answers(key: str) -> tuple[str, ...]:
    key = _SAME.get(key.lower(), key.lower())
    if key in _SIGNS:
        name, sign, other = _SIGNS[key]
        return (name, f"{name} key", sign, other, f"{other} key")
    digit = _DIGITS.get(key, key)
    return (digit, _NAMES[digit]) if digit in _NAMES else (digit,)


def _without_determiner(text: str) -> tuple[str, ...]:
    bare = re.sub(r"^(?:all of our|your|the|an?|all|our) ", "", text, flags=re.I)
    return tuple(dict.fromkeys((text, bare)))


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[A-Z.])", text) if part.strip()]


def _whole(purpose: str, sentence: str, end: int) -> bool:
    """Whether a purpose was said to its end, and is more than a pronoun."""
    words = purpose.lower().split()
    cut = sentence[end:].lstrip().startswith("...") or words[-1] in _CUT_OFF
    return len(words) >= 1 and not cut


def _keys_of(sentence: str) -> list[tuple[str, str, str, str]]:
    """(verb, key, link, purpose) of each option a sentence names."""
    verb = re.search(r"\b(?:press|dial)\b", sentence, re.I)
    found = []
    if verb:
        if re.search(r"\b(?:to|for|if)\b", sentence[: verb.start()], re.I):
            matches = list(_PRESS_TO.finditer(sentence))
        else:
            first = list(_TO_PRESS.finditer(sentence))
            later = [m for m in _NEXT_KEY.finditer(sentence) if first and m.start() > verb.start()]
            taken = [m.span() for m in first]
            matches = first + [
                m for m in later if not any(a <= m.start("key") < b for a, b in taken)
            ]
        matches.sort(key=lambda m: m.start())
        for match in matches:
            purpose = match["purpose"].strip()
            if _whole(purpose, sentence, match.end("purpose")) and not _two_keys(sentence, match):
                word = match["verb"] if "verb" in match.re.groupindex else verb[0]
                found.append((word.lower(), match["key"], match["link"].lower(), purpose))
    found += [("press", m["key"], "to", m["purpose"]) for m in _BY_PRESSING.finditer(sentence)]
    return found


def _two_keys(sentence: str, match: re.Match) -> bool:
    """Whether the option names two keys for two purposes ("4 or 6 to decrease or increase")."""
    return bool(re.search(r"(?:\d|star|pound) or $", sentence[: match.start("key")], re.I))


def questions_of(text: str) -> tuple[list[Question], Counter[str]]:
    """All questions that the templates find in a transcript.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of Question
        No two with the same text.
    Counter
        ``ambiguous``: questions left out because the prompt answers them in two ways.

    Example
    -------
    >>> found, _ = questions_of("press 1 to accept this call, or 2 to reject it")
    >>> [(q.kind, q.text, q.answers[0]) for q in found][:2]
    [('key', 'Which key do you press to accept this call?', '1'), \
('purpose', 'What can you do by pressing 1?', 'accept this call')]
    >>> [q.answers[0] for q in found if q.kind == "how_many"]
    ['2']
    """
    found: list[Question] = []
    keys: list[str] = []
    for sentence in _sentences(text):
        for verb, key, link, purpose in _keys_of(sentence):
            noun = "number" if len(key) > 1 and key.isdigit() else "key"
            said = f"Which {noun} do you {verb} {link} {purpose}?"
            found.append(Question("key", said, _key_answers(key)))
            keys.append(_key_answers(key)[0])
            if link == "to":
                name = _key_answers(key)[0]
                doing = {"press": "pressing", "dial": "dialling"}[verb]
                ask = f"What can you do by {doing} {name}?"
                found.append(Question("purpose", ask, (purpose, f"to {purpose}")))
        found += _single_facts(sentence)
    # Only where every key that is named was understood, or the count would be wrong.
    named = {_key_answers(m["key"])[0] for m in _ANY_KEY.finditer(text)}
    if len(named) >= 2 and named == set(keys):
        answers = _key_answers(str(len(named)))
        found.append(Question("how_many", "For how many keys does it say what they do?", answers))
    return _unambiguous(found)


def _single_facts(sentence: str) -> list[Question]:
    found = []

    def add(kind: str, text: str, answers: Sequence[str]) -> None:
        found.append(Question(kind, text, tuple(answers)))

    for m in _WHEN_DONE.finditer(sentence):
        add("key", "Which key do you press when you are done?", _key_answers(m["key"]))
    for m in _AFTER.finditer(sentence):
        doing = {"enter": "entering", "say": "saying"}[m["act"].lower()]
        text = f"Which key do you press after {doing} {m['what']}?"
        add("key", text, _key_answers(m["key"]))
    for m in _KEY_FOR_LETTER.finditer(sentence):
        text = f"Which key do you use for the letter {m['letter']}?"
        add("key", text, _key_answers(m["key"]))
    for m in _ENTER.finditer(sentence):
        if m["what"].split()[-1].lower() not in _CUT_OFF and "..." not in sentence[m.end() :][:5]:
            add("what", "What are you asked to enter?", _without_determiner(m["what"]))
    for m in [*_TONE_FIRST.finditer(sentence), *_TONE_LAST.finditer(sentence)]:
        text = f"When are you asked to {m['act'].lower()} {m['what']}?"
        add("when", text, (f"{m['when'].lower()} the tone", "the tone"))
    for m in _LETTERS.finditer(sentence):
        text = f"How many letters of {m['of']} are you asked to enter?"
        add("how_many", text, _key_answers(m["count"]))
    for m in _RETURN.finditer(sentence):
        add("where", "Where can you return to?", _without_determiner(m["where"]))
    for m in _LOCATED.finditer(sentence):
        add("where", f"Where is the {m['what']} located?", (m["where"], f"at {m['where']}"))
    for m in _STATE.finditer(sentence):
        be = "Are you" if m["who"].lower() == "you" else "Is the conference"
        state = f"{m['state'] or ''}{m['what']}".lower()
        add("state", f"{be} {m['what'].lower()} or un{m['what'].lower()}?", (state,))
    for m in _LEADER.finditer(sentence):
        text = "Who has to arrive for the conference to begin?"
        add("who", text, _without_determiner(m["who"]))
    for m in _MOVE.finditer(sentence):
        text = "Has somebody joined or left the conference?"
        add("state", text, (m["move"].lower(),))
    for m in _REQUEST.finditer(sentence):
        if m["what"].split()[-1].lower() not in _CUT_OFF:
            add("request", "What are you asked to do?", (m["what"], f"to {m['what']}"))
    for m in _NOT_VALID.finditer(sentence):
        what = (m["one"] or m["other"]).strip()
        add("what", "What is not valid?", (what, f"the {what}", f"that {what}"))
    for m in _DONE.finditer(sentence):
        text = f"What {m['has'].lower()} been {m['done'].lower()}?"
        add("what", text, _without_determiner(m["what"]))
    for m in _FULL.finditer(sentence):
        add("what", "What is full?", (m["what"], f"the {m['what']}", f"that {m['what']}"))
    for m in _BUSY.finditer(sentence):
        add("what", "What is busy?", _without_determiner(m["what"]))
    return found


def _unambiguous(found: Iterable[Question]) -> tuple[list[Question], Counter[str]]:
    by_text: dict[str, list[Question]] = {}
    for question in found:
        by_text.setdefault(question.text.lower(), []).append(question)
    kept, counts = [], Counter()
    for same in by_text.values():
        if len({q.answers for q in same}) > 1:
            counts["ambiguous"] += 1
        else:
            kept.append(same[0])
    return kept, counts
