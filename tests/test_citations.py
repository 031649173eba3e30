"""Every References section of the library becomes valid BibTeX."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import steepest
from steepest import functional, geometry, optim, studies
from steepest._citations import Reference, parse, section, whole
from steepest.geometry import Entropy, Simplex
from steepest.optim import Engine, Muon, Optimistic, OptimisticMirrorDescent, Steepest, optimal_momentum
from steepest.optim.adam_rule import AdamRule

ROOT = Path(steepest.__file__).parent
NODES = [
    (f"{path.relative_to(ROOT)}:{getattr(node, 'name', '')}", ast.get_docstring(node) or "")
    for path in sorted(ROOT.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
]
WITH = {name: text for name, text in NODES if section(text)}


def entries(text: str) -> dict[str, dict[str, str]]:
    """Read BibTeX strictly: nothing but entries, balanced braces, every field in braces."""
    found: dict[str, dict[str, str]] = {}
    place = 0
    while place < len(text):
        head = re.compile(r"\s*@misc\{([a-z][a-z0-9]*),\n").match(text, place)
        assert head, text[place : place + 60]
        place, fields = head.end(), {}
        while not text.startswith("}", place):
            field = re.compile(r"  ([a-z]+) = \{").match(text, place)
            assert field, text[place : place + 60]
            start = place = field.end()
            depth = 1
            while depth:
                depth += {"{": 1, "}": -1}.get(text[place], 0)
                place += 1
            fields[field[1]] = text[start : place - 1]
            assert text.startswith(",\n", place)
            place += 2
        assert head[1] not in found
        found[head[1]], place = fields, place + 1
        place = len(text) if not text[place:].strip() else place
    return found


def test_there_are_sections_to_read():
    assert len(WITH) > 130


@pytest.mark.parametrize("name", WITH)
def test_a_section_names_works_with_authors_year_and_title(name):
    found = [whole(reference) for reference in parse(WITH[name])]
    assert found or "See `" in section(WITH[name])
    for reference in found:
        assert 1600 < reference.year < 2030
        assert len(reference.title) > 3, f"{reference}: give the title in one docstring at least"
        assert all(reference.authors)
        (fields,) = entries(reference.bibtex()).values()
        assert fields["year"] == str(reference.year)
        assert fields["author"].split(" and ") == list(reference.authors)
        assert ("eprint" in fields) == bool(reference.arxiv)


def test_every_identifier_of_a_section_is_found():
    for name, text in WITH.items():
        told = section(text)
        written = set(re.findall(r"\d{4}\.\d{4,5}", re.sub(r"\([^()]*\d{4}, arXiv [\d.]+\)", "", told)))
        assert {r.arxiv for r in parse(text) if r.arxiv} == written, name


@pytest.mark.parametrize(
    "name", [n for n in optim.__all__ if isinstance(getattr(optim, n), type) and issubclass(getattr(optim, n), Engine)]
)
def test_every_optimizer_is_citable(name):
    if name == "Engine":
        return
    assert entries(steepest.cite(getattr(optim, name)))


def test_what_was_used_counts_not_only_the_name():
    p = [nn.Parameter(torch.full((2, 2), 0.5))]
    keys = set(entries(steepest.cite(Optimistic(p, AdamRule()))))
    assert {"rakhlin2013online", "kingma2015adam"} <= keys
    placed = OptimisticMirrorDescent(p, mirror=Entropy(), domain=Simplex())
    assert {"kivinen1997exponentiated", "held1974validation", "chen2023optimistic"} <= set(
        entries(steepest.cite(placed))
    )
    both = entries(steepest.cite(Muon(nn.Linear(3, 3)), Steepest(p, geometry.Spectral())))
    assert {"jordan2024muon", "bernstein2024optimizer"} <= set(both)


def test_functions_modules_norms_and_studies():
    text = steepest.cite(optimal_momentum)
    assert entries(text)["lessard2016analysis"] == {
        "author": "Lessard and Recht and Packard",
        "title": "{Analysis and design of optimization algorithms via integral quadratic constraints}",
        "year": "2016",
        "eprint": "1408.3595",
        "archiveprefix": "arXiv",
        "url": "https://arxiv.org/abs/1408.3595",
    }
    assert "hendrycks2016gaussian" in entries(steepest.cite(functional.gelu))
    assert "golub1961chebyshev" in entries(steepest.cite(optim))
    assert "large2024scalable" in entries(steepest.cite(geometry))
    assert len(entries(steepest.cite(geometry))) > 20
    study = studies.get("last_iterate")
    assert entries(steepest.cite(study))["defazio2023optimal"]["author"].startswith("Defazio and Cutkosky")
    one = steepest.cite(geometry.RMSToRMS())
    assert one == steepest.cite(geometry.RMSToRMS, geometry.RMSToRMS())  # each work once


def test_a_reference_is_read_however_it_is_written():
    text = """Do it.

    References:
        Sutskever et al. (2013) for the change of variables. Ng, Jordan and Weiss (2001), On spectral clustering,
        section 3. Loshchilov et al. (2024), nGPT, arXiv:2410.01131, section 2.6 (without it).
        Deviation: what Nobody (1999) did.
    """
    assert parse(text) == [
        Reference(("Sutskever", "others"), 2013),
        Reference(("Ng", "Jordan", "Weiss"), 2001, "On spectral clustering"),
        Reference(("Loshchilov", "others"), 2024, "nGPT", "2410.01131"),
    ]
    assert Reference(("Hägele",), 2024, "50% & more_").bibtex().startswith("@misc{hagele2024more,")
    assert r"50\% \& more\_" in Reference(("Hägele",), 2024, "50% & more_").bibtex()


@pytest.mark.parametrize("nothing", [torch.nn.Linear, "text", optim.param_groups, 3, len])
def test_what_names_nothing_is_refused(nothing):
    with pytest.raises(ValueError, match="names no references"):
        steepest.cite(nothing)
