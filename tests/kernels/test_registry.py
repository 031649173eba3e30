import pathlib
import subprocess
import sys
import textwrap

import pytest

from steepest.kernels import _elementwise, _exp, _llvm, _registry
from steepest.kernels._registry import Kernel, kernel, kernels, source_digest, specialize


def run(code, **environment):
    import os

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_nothing_compiles_at_import():
    assert (
        run("""
        import steepest.functional
        from steepest.kernels import kernels
        print(len(kernels()), sum(k.compiled for k in kernels().values()))
    """)[1]
        == "0"
    )


def test_machine_code_is_kept_on_disk_and_loaded_again(tmp_path):
    code = """
        import torch
        from steepest import functional
        from steepest.kernels import kernels
        functional.sigmoid(torch.ones(3))
        stats = kernels()["sigmoid_f32"].compile().stats
        print(sum(stats.cache_hits.values()), stats.cache_path)
    """
    hits, path = run(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert hits == "0"
    assert path.startswith(str(tmp_path))
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path))[0] == "1"


def test_digest_follows_what_a_template_is_bound_to():
    def bound_to(function, name):
        return specialize(_elementwise._unary, "void(intp, intp, intp, intp)", name, f=function).bound

    one, other = bound_to(_exp.exp_f32, "one_for_the_test"), bound_to(_exp.exp2_f32, "other_for_the_test")
    files = {_elementwise.__file__, _exp.__file__}
    assert source_digest(files, one) != source_digest(files, other)


def test_digest_follows_the_imports_and_their_contents(tmp_path, monkeypatch):
    files = {_elementwise.__file__, _exp.__file__}
    before = source_digest(files)
    changed = tmp_path / "_llvm.py"
    changed.write_text(pathlib.Path(_llvm.__file__).read_text() + "# one comment more\n")
    monkeypatch.setattr(_llvm, "__file__", str(changed))
    _registry._imported_files.cache_clear()
    try:
        assert source_digest(files) != before
    finally:
        monkeypatch.undo()
        _registry._imported_files.cache_clear()
    assert source_digest(files) == before


def test_names_are_unique():
    name = next(iter(kernels()))
    with pytest.raises(ValueError, match="unique"):
        Kernel(lambda: None, "void()", name, set())


factor = 1.0


def _template(a):
    return a * factor


def test_specialized_templates_do_not_share_code():
    two = specialize(_template, "float64(float64)", "twice_for_the_test", factor=2.0)
    three = specialize(_template, "float64(float64)", "thrice_for_the_test", factor=3.0)
    assert (two.run(5.0), three.run(5.0), factor) == (10.0, 15.0, 1.0)
    assert two.compiled
    assert "twice_for_the_test" in repr(two)


def test_decorator_registers_under_the_functions_name():
    @kernel("int64(int64)")
    def next_for_the_test(n):
        return n + 1

    assert kernels()["next_for_the_test"] is next_for_the_test
    assert not next_for_the_test.compiled
    assert next_for_the_test.run(1) == 2
