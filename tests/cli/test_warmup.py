import subprocess
import sys


def test_warmup_compiles_every_kernel():
    done = subprocess.run(
        [sys.executable, "-m", "steepest", "warmup", "--quiet"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "kernels ready" in done.stdout
