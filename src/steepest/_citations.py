# SPDX-License-Identifier: Apache-2.0
"""BibTeX for whatever of the library was used, read from the `References` sections of docstrings."""

import ast
import dataclasses
import functools
import inspect
import re
import sys
import types
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_SECTION = re.compile(r"^References:\n((?:[ \t]+\S.*(?:\n|$)|[ \t]*\n)+)", re.MULTILINE)
_NAME = r"[^\W\d_a-z][\w'’-]+"
_START = re.compile(rf"(?P<authors>{_NAME}(?:(?:, and |, | and ){_NAME})*(?: et al\.)?) \((?P<year>\d{{4}})\)")
_ARXIV = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})")
_PLACE = re.compile(r", (?:proposition|chapter|sections?|eq\.|equation|algorithm|appendix|tables?|theorem)\b.*$")
_SEE = re.compile(r"\bSee `(\w+)`")


@dataclasses.dataclass(frozen=True)
class Reference:
    """One work.

    Attributes:
        authors: Family names in order; "others" stands for the rest.
        year: Of publication.
        title: Empty where only another docstring has it.
        arxiv: Identifier at arXiv, or empty.
    """

    authors: tuple[str, ...]
    year: int
    title: str = ""
    arxiv: str = ""

    @property
    def work(self) -> str:
        """What two references to one work have in common."""
        return self.arxiv or f"{self.authors[0]} {self.year}"

    @property
    def key(self) -> str:
        """Of the BibTeX entry: first author, year, first long word of the title."""
        words = [word for word in re.findall(r"[a-z0-9]+", _ascii(self.title).lower()) if len(word) > 3]
        return re.sub(r"[^a-z0-9]", "", _ascii(self.authors[0]).lower()) + str(self.year) + (words or [""])[0]

    def bibtex(self) -> str:
        """Return the entry."""
        fields = {"author": " and ".join(self.authors), "title": f"{{{_escaped(self.title)}}}", "year": str(self.year)}
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archiveprefix": "arXiv", "url": f"https://arxiv.org/abs/{self.arxiv}"}
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@misc{{{self.key},", *lines, "}"])


def cite(*objects: Any) -> str:
    """Return BibTeX entries for what the given objects are built on.

    Args:
        *objects: Optimizers or their classes, rules, norms, models, functions, modules, or studies; what they consist
            of counts as well, such as the rules of an optimizer's groups.

    Returns:
        One entry for each work, in the order of their keys.

    Raises:
        ValueError: If an object names no reference.

    Example:
        >>> import steepest
        >>> from steepest.optim import optimal_momentum
        >>> print(steepest.cite(optimal_momentum).splitlines()[0])
        @misc{lessard2016analysis,
    """
    found: dict[str, Reference] = {}
    for one in objects:
        own = [whole(reference) for reference in _references(one, set())]
        if not own:
            name = getattr(one, "__qualname__", None) or getattr(one, "__name__", None) or type(one).__qualname__
            raise ValueError(
                f"{name} names no references: expected an object of steepest whose docstring has a References section; "
                "give the optimizer, rule or function that does the work"
            )
        found |= {reference.work: reference for reference in own}
    return "\n\n".join(reference.bibtex() for reference in sorted(found.values(), key=lambda r: r.key))


def parse(docstring: str) -> list[Reference]:
    """Return the works that a docstring's `References` section names.

    Args:
        docstring: Whole, with any indentation.
    """
    return _parse_section(section(docstring))


def section(docstring: str) -> str:
    """Return the text of the `References` section in one line, without what deviates from the works."""
    match = _SECTION.search(inspect.cleandoc(docstring))
    text = " ".join(match[1].split()) if match else ""
    return re.split(r"\bDeviations?: ", text)[0]


def _parse_section(text: str) -> list[Reference]:
    starts = list(_START.finditer(text))
    ends = [*(match.start() for match in starts[1:]), len(text)][: len(starts)]
    return [_parse_one(match, text[match.end() : end]) for match, end in zip(starts, ends, strict=True)]


def _parse_one(match: re.Match[str], rest: str) -> Reference:
    authors = re.split(r", and |, | and ", match["authors"].removesuffix(" et al."))
    if match["authors"].endswith("et al."):
        authors.append("others")
    identifier = _ARXIV.search(rest)
    title = rest[: identifier.start()] if identifier else re.split(r"[.;] |[.;]$|$", rest)[0]
    if not title.startswith(", "):
        title = ""  # a reference in passing
    title = re.sub(r" \([^()]*\)$|, \"[^\"]*\"\.?$", "", _PLACE.sub("", title).strip(" ,.;"))
    return Reference(tuple(authors), int(match["year"]), title.strip(" ,.;"), identifier[1] if identifier else "")


def whole(reference: Reference) -> Reference:
    """Return a reference with the title and the authors that other docstrings know of the same work."""
    same = _known_works().get(reference.work, [])
    if not reference.arxiv and len({one.arxiv for one in same if one.arxiv}) > 1:
        same = [one for one in same if not one.arxiv]  # several works of that author and year
    title = max([reference.title, *(one.title for one in same)], key=len)
    complete = [one.authors for one in same if "others" not in one.authors]
    authors = max(complete, key=len, default=reference.authors) if "others" in reference.authors else reference.authors
    arxiv = reference.arxiv or next((one.arxiv for one in same if one.arxiv), "")
    return dataclasses.replace(reference, title=title, authors=authors, arxiv=arxiv)


@functools.cache
def _known_works() -> dict[str, list[Reference]]:
    """All references of the package by work, read from its text, so that nothing is imported."""
    works: dict[str, list[Reference]] = {}
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "References:" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for reference in parse(ast.get_docstring(node) or ""):
                    for name in {reference.work, f"{reference.authors[0]} {reference.year}"}:
                        works.setdefault(name, []).append(reference)
    return works


def _references(obj: Any, seen: set[int]) -> Iterator[Reference]:
    if id(obj) in seen:
        return
    seen.add(id(obj))
    paper = getattr(obj, "paper", None)
    if paper is not None and hasattr(paper, "arxiv"):
        yield Reference(tuple(paper.authors.split(", ")), paper.year, paper.title, paper.arxiv)
        return
    named = obj if isinstance(obj, type | types.ModuleType) or inspect.isroutine(obj) else type(obj)
    text = section(getattr(named, "__doc__", None) or "") if _is_ours(named) else ""
    yield from _parse_section(text)
    home = sys.modules.get(getattr(named, "__module__", ""), None)
    for other in _SEE.findall(text):
        yield from _references(getattr(home, other), seen)
    for part in _parts(obj):
        yield from _references(part, seen)


def _is_ours(obj: Any) -> bool:
    name = obj.__name__ if isinstance(obj, types.ModuleType) else getattr(obj, "__module__", None) or ""
    return name.split(".")[0] == "steepest"


def _parts(obj: Any) -> Iterable[Any]:
    """What an object consists of that may have references of its own."""
    if isinstance(obj, types.ModuleType):
        public = getattr(obj, "__all__", None) or [name for name in vars(obj) if not name.startswith("_")]
        members = [getattr(obj, name) for name in public]
        own = [m for m in members if isinstance(m, type) or inspect.isroutine(m)]
        return [m for m in own if _is_ours(m) and (hasattr(obj, "__path__") or m.__module__ == obj.__name__)]
    if isinstance(obj, type) or not _is_ours(type(obj)):
        return []
    if hasattr(obj, "rule_of"):
        return [obj.rule_of(index) for index in range(len(obj.param_groups))]
    if dataclasses.is_dataclass(obj):
        values = [getattr(obj, field.name) for field in dataclasses.fields(obj)]
        return [value for value in values if _is_ours(value if inspect.isroutine(value) else type(value))]
    return []


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _escaped(text: str) -> str:
    return re.sub(r"([&%#_])", r"\\\1", text)
