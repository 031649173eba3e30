from typer.testing import CliRunner

from steepest.cli import build_app
from tests.train.report.run_folder import make_run


def run(*arguments):
    return CliRunner().invoke(build_app(), ["report", *map(str, arguments)])


def test_one_run_gets_its_picture_and_page(tmp_path):
    folder = make_run(tmp_path / "run")
    done = run(folder)
    assert done.exit_code == 0
    assert done.output.split() == [str(folder / "loss.png"), str(folder / "report.html")]
    assert (folder / "report.html").stat().st_size > 1 << 20


def test_several_runs_give_one_page(tmp_path):
    folders = [make_run(tmp_path / name) for name in ("a", "b", "c")]
    done = run(*folders, "--out", tmp_path / "all.html")
    assert done.exit_code == 0
    assert "3 runs compared" in (tmp_path / "all.html").read_text()
    assert not (folders[0] / "report.html").exists()


def test_a_folder_that_is_no_run_raises_what_the_command_line_prints_in_one_line(tmp_path):
    done = run(tmp_path)
    assert isinstance(done.exception, FileNotFoundError)
    assert "Not a run folder" in str(done.exception)
