import subprocess
import sys

import torch

from steepest.train import machine, machine_speed


def test_measure_gives_every_number(tmp_path):
    found = machine_speed.measure(tmp_path, seconds=0.01)
    assert set(found["matmul_gflops"]) == {"float32", "bfloat16"}
    for by_threads in found["matmul_gflops"].values():
        assert set(by_threads) == {str(count) for count in {1, machine.cores()}}
        assert all(value > 0 for value in by_threads.values())
    assert found["copy_gb_per_second"] > 0
    assert found["write_mb_per_second"] > 0
    assert found["others"]["cores"] >= 0
    assert list(tmp_path.iterdir()) == []


def test_threads_are_put_back_after_an_error():
    try:
        with machine_speed.torch_threads(2):
            assert torch.get_num_threads() == 2
            raise KeyError
    except KeyError:
        pass
    assert torch.get_num_threads() == 1


def test_a_folder_that_refuses_files_has_no_write_speed(tmp_path):
    assert machine_speed.write_speed(tmp_path / "missing") is None


def test_a_busy_neighbour_is_seen_and_named():
    busy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        used = machine_speed._processor_times()
        assert any(pid == busy.pid for pid, _ in used)
        seen = machine_speed.load_of_others(0.5)
    finally:
        busy.kill()
        busy.communicate()
    assert seen["process"] is not None
    assert seen["cores"] > 0.1
