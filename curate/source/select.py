"""Which of the films that were found are taken: filters with reasons, then turns for balance."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from realdpo import licences
from realdpo.curate import actions
from realdpo.curate.source.config import SourceConfig
from realdpo.curate.source.film import SourceFilm
from realdpo.curate.source.rights import Rights, read_rights


@dataclass(frozen=True)
class Group:
    """Films wanted together: an action of the taxonomy, or words of the user's own."""

    name: str
    queries: tuple[str, ...]
    stems: tuple[str, ...] = ()  # of the user's words; empty for an action

    def is_named_in(self, film: SourceFilm) -> bool:
        """Whether the film's own words speak of it; a search also finds what is near to it."""
        said = [film.title, *film.keywords, film.description]
        if not self.stems:
            return self.name in actions.tag_actions(said)
        spoken = {actions.stem_word(word) for text in said for word in text.lower().split()}
        return all(stem in spoken for stem in self.stems)


@dataclass(frozen=True)
class FilmCandidate:
    """A film for a group: the search that found it, its place there, whether it is spoken of."""

    film: SourceFilm
    rights: Rights
    group: str
    query: str
    rank: int
    named: bool


def list_groups(config: SourceConfig) -> list[Group]:
    """What is looked for, in the order of the taxonomy, then of the words.

    Raises UserError for an action that the taxonomy does not have.
    """
    from realdpo.errors import UserError

    known = {action.name: action for action in actions.read_taxonomy()}
    if strange := [name for name in config.actions if name not in known]:
        import difflib

        close = difflib.get_close_matches(strange[0], known, n=1)
        raise UserError(
            f"there is no action {strange[0]!r}",
            f"did you mean {close[0]!r}?"
            if close
            else f"choose one such as {', '.join([*known][:6])}, or search for your own with --words",
        )
    chosen = config.actions or (() if config.words else tuple(known))
    result = [
        Group(name, tuple(dict.fromkeys([name.replace("_", " "), *known[name].words])))
        for name in known
        if name in chosen
    ]
    for words in dict.fromkeys(words.strip() for words in config.words):
        if words:
            stems = tuple(actions.stem_word(word) for word in words.lower().split())
            result.append(Group(words, (words,), stems))
    return result


def rights_of(film: SourceFilm, config: SourceConfig) -> Rights:
    """The film's licence, or the one that the user vouches for where none is stated."""
    if not film.licences and config.default_license:
        return read_rights([config.default_license])
    return read_rights(film.licences, choice=film.choice)


def reason_against(film: SourceFilm, rights: Rights, config: SourceConfig) -> str | None:
    """Why a film is left out, or None. What its provider does not state is not judged."""
    if rights.problem and not config.private:
        return f"licence: {rights.problem}"
    if config.licenses and licences.licence_reason(rights.license, allowed=config.licenses):
        return f"license={rights.license or 'none'} is not among the licences that you accept"
    if not film.url:
        return "no downloadable file"
    side, mb = film.short_side, (film.bytes or 0) / (1 << 20)
    if config.min_height and side is not None and side < config.min_height:
        return f"height below {config.min_height}"
    if film.seconds is not None and film.seconds < config.min_seconds:
        return f"shorter than {config.min_seconds:g} s"
    if config.max_seconds and film.seconds is not None and film.seconds > config.max_seconds:
        return f"longer than {config.max_seconds:g} s"
    if config.max_mb and mb > config.max_mb:
        return f"more than {config.max_mb} MB"
    return None


def same_as(film: SourceFilm) -> list[str]:
    """Keys of which two films share one when they are the same: bytes, address, title and length."""
    keys = [f"{film.provider}:{film.id}", f"url:{film.url}"]
    keys += [f"sha1:{film.sha1.lower()}"] if film.sha1 else []
    keys += [f"sha256:{film.sha256.lower()}"] if film.sha256 else []
    if film.seconds and len(film.title) > 7:
        keys.append(f"title:{film.title.casefold()}|{film.seconds:.1f}")
    return keys


def choose_films(
    candidates: Iterable[FilmCandidate],
    order: Sequence[str],
    limits: Mapping[str, int],
    hours: float,
) -> list[FilmCandidate]:
    """Take films in turns: one for every group, until each has its number or `hours` are full.

    In its turn a group takes, among films whose own words name it before those that only the
    search found, one of the author with the fewest films so far, then of the provider with the
    fewest in the group, then the best placed. No film is taken twice. limits: of each group, 0
    for none.
    """
    waiting: dict[str, list[tuple[tuple[bool, int, int, int], int, FilmCandidate]]] = {
        name: [] for name in order
    }
    authors: Counter[str] = Counter()
    providers: Counter[tuple[str, str]] = Counter()
    taken: set[str] = set()
    count: Counter[str] = Counter()
    result: list[FilmCandidate] = []
    seconds, most = 0.0, hours * 3600

    def key(candidate: FilmCandidate) -> tuple[bool, int, int, int]:
        film = candidate.film
        owner = authors[_owner(film)]
        return not candidate.named, owner, providers[candidate.group, film.provider], candidate.rank

    for number, candidate in enumerate(candidates):
        waiting[candidate.group].append((key(candidate), number, candidate))
    for heap in waiting.values():
        heapq.heapify(heap)
    active = [name for name in order if waiting[name]]
    while active:
        for name in list(active):
            found = None
            while waiting[name] and found is None:
                old, number, candidate = heapq.heappop(waiting[name])
                if any(same in taken for same in same_as(candidate.film)):
                    continue
                if most and seconds + (candidate.film.seconds or 0.0) > most:
                    continue
                # Counts only grow, so a place in the heap may be too good and never too bad.
                if (now := key(candidate)) != old:
                    heapq.heappush(waiting[name], (now, number, candidate))
                    continue
                found = candidate
            if found is None:
                active.remove(name)
                continue
            result.append(found)
            taken.update(same_as(found.film))
            authors[_owner(found.film)] += 1
            providers[name, found.film.provider] += 1
            count[name] += 1
            seconds += found.film.seconds or 0.0
            if count[name] == limits.get(name, 0):
                active.remove(name)
    return result


def _owner(film: SourceFilm) -> str:
    """Films without an author are each their own, so that none stands back for the others."""
    author = film.author.casefold()
    return f"{film.provider}:{film.id}" if author in _NOBODY else author


_NOBODY = ("", "unknown", "unknown author", "anonymous", "various", "n/a")
