import pytest
import torch
from torch import nn

from steepest.geometry import ColumnNorm, RowNorm, Schatten, Spectral, exact_polar
from steepest.optim import MultiNormalized, Muon, SinkGD, Steepest
from steepest.optim.catalogue import catalogue, settings_of
from steepest.optim.spec import Spec, optimizers


def params() -> list[nn.Parameter]:
    return [nn.Parameter(torch.eye(3))]


@pytest.mark.parametrize(
    ("text", "kind", "settings", "options"),
    [
        ("muon", Muon, {}, {}),
        ("sinkgd lr=0.03 alpha=0.1", SinkGD, {"lr": 0.03, "alpha": 0.1}, {}),
        ("Steepest:norm=schatten4:lr=1e-2", Steepest, {"norm": Schatten(4.0), "lr": 0.01}, {}),
        ("steepest norm=RowNorm(rms=true)", Steepest, {"norm": RowNorm(rms=True)}, {}),
        (
            "multinormalized norms=rownorm(rms=true)+columnnorm(rms=True) steps=3",
            MultiNormalized,
            {"norms": (RowNorm(rms=True), ColumnNorm(rms=True)), "steps": 3},
            {},
        ),
        ("muon polar=svd nesterov=false", Muon, {"polar": exact_polar, "nesterov": False}, {}),
        ("muon state_dtype=8bit cautious=true", Muon, {}, {"state_dtype": "8bit", "cautious": True}),
    ],
)
def test_text_becomes_the_optimizer(text, kind, settings, options):
    spec = Spec.parse(text)
    assert (spec.kind, spec.settings, spec.options) == (kind, settings, options)
    optimizer = spec.build(params())
    assert type(optimizer) is kind
    for key, value in {**settings, **options}.items():
        if key in optimizer.param_groups[0]:
            assert optimizer.param_groups[0][key] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mion", "did you mean muon"),
        ("muon momentun=0.9", "did you mean momentum"),
        ("muon 0.9", "setting=value"),
        ("steepest norm=spectrl", "did you mean spectral"),
        ("steepest norm=rownorm(rows=3)", "rows"),
        ("muon polar=magic", "magic"),
        ("", "no optimizer"),
    ],
)
def test_mistakes_are_refused_with_what_there_is(text, message):
    with pytest.raises(ValueError, match=message):
        Spec.parse(text)


@pytest.mark.parametrize(
    ("text", "message"), [("steepest", "needs norm"), ("muon lr=-1", "lr"), ("muon clip=-1", "clip")]
)
def test_bad_values_are_refused_when_it_is_built(text, message):
    with pytest.raises(ValueError, match=message):
        Spec.parse(text).build(params())


def test_a_norm_by_number():
    assert Spec.parse("steepest norm=schatten(2.5)").settings["norm"] == Schatten(2.5)
    assert Spec.parse("steepest norm=spectral").settings["norm"] == Spectral()


def test_every_optimizer_is_in_the_catalogue_and_shows_its_settings():
    table = catalogue()
    for name, kind in optimizers().items():
        assert name in table
        assert "lr" in settings_of(name)
        assert kind.__doc__
    with pytest.raises(ValueError, match="mion"):
        settings_of("mion")


@pytest.mark.parametrize(
    "text", ["adamw lr=0.1,", "adamw betas=3", "adamw betas=0.9", "adamw betas=a,b", "sgd lr=1" + "0" * 400]
)
def test_values_of_another_kind_are_refused_in_words(text):
    with pytest.raises(ValueError, match="expected"):
        Spec.parse(text).build([torch.nn.Parameter(torch.zeros(2, 2))])
