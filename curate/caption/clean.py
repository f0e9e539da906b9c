"""Cleaning of captions: what a model answered in, a plain description or the reason there is none.

Everything here is pure and works on the stored raw answer, so a better rule re-asks nobody.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass

OK, TRUNCATED, REFUSED, EMPTY, ERROR = "ok", "truncated", "refused", "empty", "error"
NONE = "none"  # nobody has said what is to be seen


@dataclass(frozen=True)
class Cleaned:
    """`text` to train on ("" when there is none), `status`, and in `problem` why it is not ok."""

    text: str
    status: str
    problem: str = ""


def clean_caption(raw: str, *, finish: str | None = "stop", language: str = "en") -> Cleaned:
    """Judge and clean one raw answer.

    `finish` is the server's finish reason: "stop", "length", "content_filter", or None when it
    is not known. `language` is an ISO 639-1 code, "" to accept any. Status:
    ok; truncated (text holds the sentences that are whole, perhaps none); refused; empty;
    error (an answer that cannot be used, such as one in another language).
    """
    text = _unwrap(raw)
    if finish == "content_filter" or _REFUSAL.search(text[:400]):
        return Cleaned("", REFUSED, text[:200] or "the server's content filter")
    looped = cut_loop(text)
    cut = finish == "length" or looped != text
    text = strip_caption(looped)
    if not any(c.isalpha() for c in text):
        return Cleaned("", EMPTY, "no words")
    if finish is None and not cut:
        cut = len(split_sentences(text)) > 1 and text[-1] not in _ENDS
    if cut:
        text = _whole_sentences(text)
    if text and language and (found := other_language(text, language)):
        return Cleaned("", ERROR, f"written in {found}, wanted {language}")
    if cut:
        why = "the answer ran in a loop" if looped != _unwrap(raw) else "the answer was cut off"
        return Cleaned(_ended(text), TRUNCATED, why)
    return Cleaned(_ended(text), OK)


def strip_caption(text: str) -> str:
    """Strip markup, openings, hedges, small talk and repeated sentences. Idempotent.

    The last sentence keeps its missing full stop, so that a caller can see a cut.
    """
    for _ in range(12):  # an opening may hide another one; two passes are the rule
        before, text = text, _pass(text)
        if text == before:
            break
    return text


def split_sentences(text: str) -> list[str]:
    """Split at sentence ends; abbreviations and decimals do not end one."""
    parts: list[str] = []
    for piece in _SENTENCE_END.split(text.strip()):
        if parts and _ABBREVIATION.search(parts[-1]):
            parts[-1] += " " + piece
        elif piece:
            parts.append(piece)
    return parts


def cut_loop(text: str) -> str:
    """Cut a text where one to eight words start to repeat at least four times on end."""
    words = list(re.finditer(r"\S+", text))
    keys = [word.group().casefold().strip(".,;:!?") for word in words]
    for i in range(len(keys)):
        for n in range(1, 9):
            if i + 4 * n > len(keys):
                break
            unit = keys[i : i + n]
            if any(unit) and all(keys[i + k * n : i + (k + 1) * n] == unit for k in (1, 2, 3)):
                return text[: words[i + n - 1].end()].rstrip()
    return text


def other_language(text: str, wanted: str) -> str:
    """Name of the language or script when `text` is clearly not in `wanted`, else "".

    By script, then by function words; too little evidence counts as right. Only the languages
    in the table below can be told apart; for another `wanted` everything passes.
    """
    if wanted not in _FUNCTION_WORDS:
        return ""
    letters = [c for c in text if c.isalpha()]
    foreign = [c for c in letters if not unicodedata.name(c, "").startswith("LATIN")]
    if len(foreign) > 0.3 * len(letters):
        return unicodedata.name(foreign[0], "another script").split()[0].lower()
    words = re.findall(r"[^\W\d_]+", text.casefold())
    votes = {code: sum(w in bag for w in words) for code, bag in _FUNCTION_WORDS.items()}
    best = max(votes, key=lambda code: votes[code])
    if best != wanted and votes[best] >= 3 and votes[best] > 2 * votes[wanted]:
        return best
    return ""


# --- pieces ---------------------------------------------------------------------------------

_ENDS = ".!?。！？…"
_SENTENCE_END = re.compile(r"(?<=[.!?。！？…])[\"'”’)\]]*\s+")
_ABBREVIATION = re.compile(r"(?:^|\s)(?:Mr|Mrs|Ms|Dr|St|vs|etc|approx|e\.g|i\.e|No)\.$", re.I)

_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i am) (?:so |very |really )?(?:sorry|unable|not able)\b"
    r"|(?:sorry|apologies|i apologi[sz]e)\b[^.]{0,40}\bi\b"
    r"|as an? (?:ai|artificial|language|large)\b"
    r"|unfortunately,? i\b"
    r"|i (?:can['’]?t|cannot|can not|won['’]?t|am unable|do not|don['’]?t) (?:be able to )?"
    r"(?:assist|help|comply|provide|describe|identify|view|see|watch|process|analy[sz]e|have)\b"
    r"|(?:there (?:is|was|are|were) )?no (?:video|images?|frames?) (?:was|were|is|are|has|have)?"
    r" ?(?:been )?(?:provided|attached|given|visible|uploaded))",
    re.I,
)

_MEDIUM = (
    r"(?:(?:short|brief|silent|looping|provided|given|slow[- ]motion|close[- ]up|handheld|"
    r"vertical|animated) )*(?:video|clip|footage|sequence|recording|gif|"
    r"series of (?:frames|images|stills)|frames?|images?|scene|shot)(?: clip| sequence)?s?"
)
_SHOWS = (
    r"(?:shows?|depicts?|displays?|features?|captures?|presents?|portrays?|showcases?|"
    r"illustrates?|records?|contains?|consists? of|focus(?:es)? on|zooms? in on|"
    r"(?:begins?|starts?|opens?)(?: off)? (?:with|by showing)|is (?:of|about|showing)|"
    r"(?:is|are|was) (?:a )?(?:shows?|showing|depicting|capturing))"
)
_OPENINGS = [
    re.compile(pattern, re.I)
    for pattern in (
        r"^(?:(?:sure|certainly|of course|okay|ok|absolutely|great)\b[!,.:]?\s+)(?=\S)",
        r"^(?:here(?:['’]s| is| are)|below is|the following is) [^.:!?]{0,80}:\s*",
        r"^(?:(?:detailed |video |short |final )*(?:caption|description|prompt|answer|summary)"
        r"|subjects?|clothing|place|setting|location|actions?|camera|camera movement|background)\s*(?:\([^)]{0,30}\))?:\s*",
        rf"^(?:in|throughout|during|over the course of) (?:this|the|these) {_MEDIUM},?\s+"
        r"(?:(?:we|you|one|viewers?) (?:can )?(?:see|observe|notice)s?\s+|there (?:is|are)\s+)?",
        rf"^(?:the|this|these) {_MEDIUM}(?: (?:then|also|first|initially|primarily|mainly|"
        rf"clearly|vividly|simply))? {_SHOWS}\s+(?:us )?",
        rf"^an? {_MEDIUM} (?:of|showing|depicting|featuring|that shows|in which|where)\s+",
        r"^(?:we|you|one) (?:can )?(?:see|observe|notice)s?\s+",
        rf"^as the {_MEDIUM} (?:progresses|continues|goes on|unfolds|plays),?\s+",
        r"^(?:how|that)\s+(?=(?:an?|the|two|three|some|several|people|men|women)\s)",
        r"^(?:additionally|moreover|furthermore|in addition|notably|interestingly),?\s+(?=\S)",
    )
]
_HEDGES = [
    (re.compile(pattern, re.I), replacement)
    for pattern, replacement in (
        (
            r"^camera(?: movement)?:\s*(?:it )?(?:is )?"
            r"(?=(?:static|still|fixed|handheld|moving|panning|tracking|stationary|steady)\b)",
            "The camera is ",
        ),
        (r"\b(?:appears|seems) to be\b", "is"),
        (r"\b(?:appear|seem) to be\b", "are"),
        (r"\b(setting|background|scene|environment|location) suggests\b", r"\1 is"),
        (
            r",\s*(?:possibly|perhaps|probably|presumably|maybe|potentially|most likely|likely)"
            r"\s+[^,.;!?]*(?=[,.;!?]|$)",
            "",
        ),
        (
            r",\s*(?:suggesting|indicating|implying|hinting|conveying|evoking|signifying|"
            r"(?:creating|adding|giving|lending)[^,.;!?]*"
            r"(?:mood|atmosphere|feel|feeling|sense|vibe|tone|ambiance))\b[^.;!?]*(?=[.;!?]|$)",
            "",
        ),
        (
            r"\b(?:possibly|perhaps|probably|presumably|potentially|apparently|seemingly|"
            r"(?:most |very )?likely(?! to\b))\s+(?=\w)",
            "",
        ),
        (rf"\s+(?:in|throughout|during) (?:the|this) {_MEDIUM}(?=\s*(?:[,.;!?]|$))", ""),
        (r"\b(at the (?:beginning|start|end)) of the (?:video|clip|footage|recording)\b", r"\1"),
    )
]
_SMALL_TALK = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|absolutely|great)\W*$|overall\b|in summary\b|in conclusion\b|to summari[sz]e\b|please\b|let me know\b|"
    r"if you\b|i hope\b|feel free\b|note(?: that|:)|this (?:caption|description)\b|"
    r"it(?: is|['’]s) (?:unclear|not clear|difficult|hard|impossible|not possible|worth noting)\b|"
    r"the (?:overall|general) (?:mood|atmosphere|tone|impression|scene|feel|vibe)\b|"
    r"the (?:mood|atmosphere|tone|ambiance) \b|"
    r"there (?:is|are) no (?:indication|audio|sound|visible text|text|subtitles|other)\b|"
    r"without (?:more|further|additional) (?:context|information)\b)",
    re.I,
)


def _bag(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FUNCTION_WORDS = {
    "en": _bag("the and of is are with his her in a an on to at while their from then"),
    "de": _bag("der die das und ist ein eine einen mit auf von zu den dem im nicht"),
    "fr": _bag("le la les et est un une des avec dans sur du au il elle qui son sa"),
    "es": _bag("el la los las y es un una con en de que su por del se al lleva"),
    "pt": _bag("o os as e um uma com em de que seu sua por do da no na ao está"),
    "it": _bag("il lo gli e un una con di che su per del della nel è si sta al"),
    "nl": _bag("de het een en is van met op in zijn haar dat naar voor aan te"),
}


def _unwrap(raw: str) -> str:
    """The description inside thinking tags, special tokens, code fences or a JSON object."""
    text = unicodedata.normalize("NFC", raw)
    text = re.sub(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|$)", " ", text, flags=re.S | re.I)
    text = re.sub(r"<\|[^|>]*\|>", " ", text)
    text = re.sub(r"^\s*```[a-z]*\s*$", "", text, flags=re.M | re.I)
    text = "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else " " for c in text
    ).strip()
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except ValueError:
            return text
        for key in ("caption", "description", "prompt", "text"):
            if isinstance(document, dict) and isinstance(document.get(key), str):
                result: str = document[key].strip()
                return result
    return text


def _pass(text: str) -> str:
    lines = [_line(line) for line in text.splitlines()]
    kept: list[str] = []
    seen: set[str] = set()
    pieces = [s for line in _join_lines([x for x in lines if x]) for s in split_sentences(line)]
    for piece in pieces:
        sentence = _sentence(piece)
        key = re.sub(r"\W+", " ", sentence).strip().casefold()
        if not key or key in seen or _SMALL_TALK.match(sentence):
            continue
        seen.add(key)
        kept.append(sentence)
    return " ".join(kept)


def _line(line: str) -> str:
    """One line without markdown; a heading that only names what follows goes."""
    if re.match(r"\s*#{1,6}\s", line) and len(line.split()) < 7 and line.strip()[-1] not in _ENDS:
        return ""
    line = re.sub(r"<[^<>\n]{1,40}>", " ", line)
    line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)
    line = re.sub(r"^\s*(?:>+|#{1,6}|[-*+•–—]|\(?\d{1,2}[.)])\s+", "", line)
    line = re.sub(r"[*`|~#]+|(?<!\w)_+|_+(?!\w)", " ", line)
    line = re.sub(r"\s+", " ", line).strip().strip('"“”').strip()
    return "" if re.fullmatch(r"[-=\s]*|[^.!?]{1,40}:", line) else line


def _join_lines(lines: list[str]) -> list[str]:
    """Lines as running text; a line that ends without a mark, before another, gets its stop."""
    return [
        line if i == len(lines) - 1 or line[-1] in _ENDS + ",;:" else line + "."
        for i, line in enumerate(lines)
    ]


def _sentence(text: str) -> str:
    before = text
    for hedge, replacement in _HEDGES:
        text = hedge.sub(replacement, text)
    for opening in _OPENINGS:
        text = opening.sub("", text, count=1)
    text = re.sub(r"\s+([,.;!?])", r"\1", re.sub(r"\s+", " ", text))
    text = re.sub(r"([,;])(?:\s*[,;])+", r"\1", text).strip(" ,;:-")
    text = re.sub(r"[,;:]+([.!?])$", r"\1", text)
    if not any(c.isalnum() for c in text):
        return ""
    return text[0].upper() + text[1:] if text != before or text[0].islower() else text


def _whole_sentences(text: str) -> str:
    parts = split_sentences(text)
    if parts and parts[-1].rstrip("\"'”’)]")[-1:] not in tuple(_ENDS):
        parts = parts[:-1]
    return " ".join(parts)


def _ended(text: str) -> str:
    if not text or text.rstrip("\"'”’)]")[-1:] in tuple(_ENDS):
        return text
    return text.rstrip(" ,;:-") + "."
