"""Waiting threads sleep soon where other programs want the processors, and only there."""

import os
import sys

import psutil
import pytest

from steepest.cli._sharing import ROUNDS, SETTINGS, share_processors


@pytest.fixture
def before_torch(monkeypatch):
    """Four processors, two of them ours; nothing is set yet."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 1.0, 1.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "cpu_percent", lambda _: 75.0)
    yield monkeypatch
    os.environ.pop(SETTINGS[0], None)


def test_a_busy_machine_shortens_the_spinning(before_torch):
    share_processors()
    assert os.environ[SETTINGS[0]] == ROUNDS


def test_enough_free_processors_change_nothing(before_torch):
    before_torch.setattr(psutil, "cpu_percent", lambda _: 50.0)
    share_processors()
    assert SETTINGS[0] not in os.environ


def test_a_quiet_minute_is_not_looked_into(before_torch):
    before_torch.setattr(os, "getloadavg", lambda: (0.1, 1.0, 1.0))
    before_torch.setattr(psutil, "cpu_percent", lambda _: pytest.fail("looked"))
    share_processors()
    assert SETTINGS[0] not in os.environ


@pytest.mark.parametrize("name", SETTINGS)
def test_the_users_setting_stands(before_torch, name):
    before_torch.setenv(name, "active")
    share_processors()
    assert [os.environ.get(one) for one in SETTINGS] == ["active" if one == name else None for one in SETTINGS]


def test_too_late_once_torch_is_loaded(before_torch):
    before_torch.setitem(sys.modules, "torch", object())
    share_processors()
    assert SETTINGS[0] not in os.environ
