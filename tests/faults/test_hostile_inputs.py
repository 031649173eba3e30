"""Files of somebody who means harm, or of a broken disk: taken or refused in words; no crash, no hang, no way out."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from steepest.train import files
from tests.faults.fuzz import TARGETS, fuzz, is_clear, shards, written_checkpoint

# A single process writes shards without a process group; torch says so each time.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is.*:UserWarning")


@pytest.mark.parametrize("name", TARGETS)
def test_changed_files_are_taken_or_refused_in_words(name):
    found = fuzz(name, 60, seed=1)
    assert not found["unclear"], found["examples"]
    assert found["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_hundred_thousand_changed_files(name):
    """In a process of bounded memory."""
    command = [sys.executable, "-m", "tests.faults.fuzz", name, "100000", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert not found["unclear"], found["examples"]
    assert found["taken"] + found["refused"] == 100_000


@pytest.mark.parametrize("content", [b"[" * 200_000 + b"\n", b"9" * 10_000 + b"\n"], ids=["nesting", "digits"])
@pytest.mark.parametrize("name", TARGETS)
def test_nesting_and_numbers_without_end_are_taken_or_refused_in_words(name, content, tmp_path):
    target = TARGETS[name](tmp_path)
    before = target.original
    target.path.write_bytes(content + before)
    error = None
    try:
        target.read()
    except Exception as caught:
        error = caught
    assert error is None or is_clear(error), repr(error)


def test_every_flipped_bit_and_every_cut_of_a_checkpoint_is_found(tmp_path):
    """One bit, or the end, of each of its files: the checkpoint is damaged, or holds what it held."""
    generator = torch.Generator().manual_seed(0)
    written_checkpoint(tmp_path)
    path = tmp_path / "step"
    assert files.damage(path) is None
    before = load_file(path / "optimizer.safetensors")
    found = 0
    for file in sorted(path.iterdir()):
        original = file.read_bytes()
        for _ in range(60):
            content = bytearray(original)
            at = int(torch.randint(len(content), (), generator=generator))
            if torch.rand((), generator=generator) < 0.3:
                content = content[:at]
            else:
                content[at] ^= 1 << int(torch.randint(8, (), generator=generator))
            file.write_bytes(content)
            reason = files.damage(path)
            found += reason is not None
            if reason is None:  # a blank of the manifest
                assert file.name == files.MANIFEST
                after = load_file(path / "optimizer.safetensors")
                assert all(torch.equal(before[key], value) for key, value in after.items())
        file.write_bytes(original)
    assert found >= 0.95 * 60 * len(list(path.iterdir()))


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path):
    (tmp_path / "secret").write_text("secret")
    inner = tmp_path / "step_00000001"
    for name in ("../secret", str(tmp_path / "secret")):
        shutil.rmtree(inner, ignore_errors=True)
        inner.mkdir()
        (inner / files.MANIFEST).write_text(json.dumps({"files": {name: {"bytes": 6, "sha256": "0"}}}))
        assert files.damage(inner) == "manifest.json names a file outside"


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


class Asks:
    def __init__(self, *of: object) -> None:
        self.of = of

    def __reduce__(self):
        return getattr, self.of


def test_an_index_may_name_members_of_its_enumeration_and_no_other_attribute(tmp_path, monkeypatch):
    """Python 3.11.0 to 3.11.3 wrote members of enumerations as attributes of their class."""
    from torch.distributed.checkpoint import metadata

    formats = metadata._MEM_FORMAT_ENCODING
    monkeypatch.setattr(formats, "__reduce_ex__", lambda self, protocol: (getattr, (type(self), self.name)))
    target = shards(tmp_path)
    assert b"getattr" in target.path.read_bytes()
    target.read()
    for of in ((metadata.Metadata, "__init__"), (formats, "__class__"), ("text", "join"), (formats, 3)):
        target.path.write_bytes(pickle.dumps(Asks(*of)))
        with pytest.raises(ValueError, match="it asks for"):
            target.read()


def test_no_checkpoint_executes_code(tmp_path):
    """The index and the values of a sharded checkpoint are pickles: nothing in them runs."""
    from torch.distributed import checkpoint as sharded

    from steepest.train.sharded_reading import read_shards

    trap = tmp_path / "executed"
    target = shards(tmp_path)
    target.read()
    target.path.write_bytes(pickle.dumps(Runs(str(trap))))
    with pytest.raises(ValueError, match=r"names posix\.mkdir"):
        target.read()
    assert not trap.exists()
    value = {"step": Runs(str(trap))}
    sharded.save(value, checkpoint_id=tmp_path / "value")
    with pytest.raises(ValueError, match="Weights only load failed"):
        read_shards(tmp_path / "value", {"step": 0})
    assert not trap.exists()
    index = pickle.loads(target.original)
    for place in index.storage_data.values():
        place.relative_path = "../../secret"
    target.path.write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match="out of its folder"):
        target.read()


def test_nothing_in_the_library_unpickles_freely():
    """`pickle.load` and `torch.load` without `weights_only=True` stand nowhere but where they are explained."""
    from pathlib import Path

    import steepest

    found = []
    for path in Path(steepest.__file__).parent.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            loads = "pickle.load" in line or ("torch.load(" in line and "weights_only=True" not in line)
            code = line.strip() and not line.strip().startswith(("#", '"""', "torch reads"))
            if loads and code and "`" not in line:
                found.append(f"{path.name}:{number}")
    assert not found


def test_a_page_shows_hostile_names_as_text(settings, tmp_path):
    """Markup in a run's name, configuration, sample and machine is text on the page."""
    from steepest.train.report import write_html_report
    from steepest.train.session import start
    from tests.train.runs import configured

    evil = "<img src=x onerror=alert(1)>"
    run = tmp_path / f"run {evil}".replace("/", "")
    start(configured(settings), out=run, quiet=True, pages=False)
    config = files.read_json(run / "config.json")
    config["data"]["paths"] = [evil]
    config["optim"]["name"] = evil
    config[evil] = {evil: evil}
    files.write_json(run / "config.json", config)
    environment = files.read_json(run / "environment.json")
    files.write_json(run / "environment.json", {**environment, evil: {evil: "</script><script>alert(1)"}})
    summary = files.read_json(run / "summary.json")
    files.write_json(run / "summary.json", {**summary, "status": evil, "baselines": {evil: 1.0}})
    files.write_text(run / "sample.txt", f"{evil}</pre></script><script>alert(1)</script>")
    page = write_html_report(run).read_text()
    assert "<img src=x" not in page
    assert "<script>alert(1)" not in page
    assert "&lt;img src=x" in page


def test_numbers_out_of_range_in_a_checkpoint_are_refused(tmp_path):
    read = written_checkpoint(tmp_path)
    read()
    state = files.read_json(tmp_path / "step" / "state.json")
    state["optimizers"][0]["groups"][0]["lr"] = -1.0
    files.write_json(tmp_path / "step" / "state.json", state)
    with pytest.raises(ValueError, match="lr"):
        read()


def test_a_panic_of_the_tokenizer_library_is_a_refusal_in_words(tmp_path, capfd):
    """A prefix that is longer than the tokens that are merged: the library panics, which is no `Exception`."""
    target = TARGETS["tokenizer_bpe"](tmp_path)
    content = json.loads(target.original)
    assert content["model"]["merges"]
    content["model"]["continuing_subword_prefix"] = "x" * 40
    target.path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected a tokenizer"):
        target.read()
    capfd.readouterr()
