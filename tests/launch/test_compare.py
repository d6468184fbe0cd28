"""launch/compare.py compares the configs, curves, figures and previews of runs."""

import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.run import workdir as workdir_lib
from tests import tiny
from tests.assertions import assert_mentions
from tests.evaluate.report import fake


def make_run(folder, squares, kid=0.02, report_seed=0, **changes):
    """Write the files of a run that launch/compare.py reads, and return its workdir."""
    config = tiny.make_config(squares, **changes)
    workdir_lib.write(str(folder), config, read_manifest(str(squares)), str(squares))
    with tf.summary.create_file_writer(str(folder / "logs")).as_default():
        for step in (5, 10, 20):
            tf.summary.scalar("loss", 3 / step, step=step)
            tf.summary.scalar("evaluation/kid", kid + 1 / step, step=step)
            tf.summary.scalar("evaluation/kid_standard_error", 0.001, step=step)
    if report_seed is not None:
        (folder / "report").mkdir()
        report = json.dumps(fake.make_report(kid, report_seed))
        (folder / "report" / "report.json").write_text(report)
    (folder / "previews").mkdir()
    for step in (5, 20):
        picture = Image.fromarray(np.full((8, 8, 3), step, np.uint8))
        picture.save(folder / "previews" / f"step_{step:08d}.png")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, squares):
    """Three runs; the third has another config and a higher KID, and the second only another seed."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(folder / "first", squares),
        make_run(folder / "same", squares, report_seed=1, seed=1),
        make_run(folder / "worse", squares, kid=0.04, report_seed=2, train__learning_rate=0.5),
    ]


def parse_table(text, title):
    """Return the cells of each row of a table by its first cell."""
    lines = text.split(f"{title}\n")[1].split("\n\n")[0].splitlines()
    rows = [re.split(r"  +", line.strip()) for line in lines if line.startswith("  ")]
    return {row[0]: row[1:] for row in rows}


def test_page_and_tables(runs, run, tmp_path):
    output = tmp_path / "out.html"
    result = run("compare.py", [*runs, f"--output={output}", "--price_per_hour=1,2,3"])
    assert result.code == 0, result
    configs = parse_table(result.stdout, "Configs")
    assert configs["config.seed"] == ["0", "1", "0"]
    assert configs["config.train.learning_rate"][2] == "0.5"
    assert len(configs) == 3  # with the header
    training = parse_table(result.stdout, "Training")
    assert training["steps"] == ["20 of 20"] * 3 and training["images seen"] == ["160"] * 3
    assert training["training loss, last 10% of the log"] == ["0.15"] * 3
    figures = parse_table(result.stdout, "Figures of the reports")
    kid = figures["KID, held-out split (lower is better)"]
    values = json.loads((runs[2] / "report" / "report.json").read_text())
    values = values["distances"]["heldout"]["kid"]["values"]
    assert kid[2].startswith(f"{np.mean(values):.3f}")
    assert kid[3].startswith("no clear difference") and kid[4].startswith("worse (p")
    assert "coverage, held-out split" not in str(figures).lower()  # it has no value
    groups = parse_table(result.stdout, "Figures of runs with different seeds")
    assert groups["KID, held-out split (lower is better)"][2] == "unknown: only one value"

    page = output.read_text()
    assert_mentions(page, ["Welch", "first, step 20", "worse, step 20", "estimated cost ($)"])
    # Training loss and KID against four axes, and the figures of the reports.
    assert page.count("data:image/svg") >= 8 + 5 and page.count("data:image/png") == 3
    assert not re.search("https?:", page)
    again = tmp_path / "again.html"
    assert run("compare.py", [*runs, f"--output={again}", "--price_per_hour=1,2,3"]).code == 0
    assert again.read_text() == page


def test_runs_without_reports_or_previews_are_compared(runs, run, squares, tmp_path):
    workdir = make_run(tmp_path / "new", squares, report_seed=None)
    shutil.rmtree(workdir / "previews")
    result = run("compare.py", [runs[0], workdir, f"--output={tmp_path / 'out.html'}"])
    assert result.code == 0, result
    assert "There is no report of new" in result.stdout
    assert "The configs of the runs are equal" in result.stdout
    assert "Estimated cost" not in (tmp_path / "out.html").read_text()


def test_reports_with_other_settings_are_not_compared(runs, run, squares, tmp_path):
    workdir = make_run(tmp_path / "few", squares)
    path = workdir / "report" / "report.json"
    report = json.loads(path.read_text())
    report["settings"]["num_images"]["train"] = 20
    path.write_text(json.dumps(report))
    result = run("compare.py", [runs[0], workdir, f"--output={tmp_path / 'out.html'}"])
    assert result.code == 0, result
    assert re.search(
        r"cannot be compared, because .*\(num_images", result.stdout.replace("\n", " ")
    )
    assert "KID, held-out" not in result.stdout


def test_bad_input_is_one_line(runs, run, squares, tmp_path):
    first, second = runs[:2]
    other_data = tmp_path / "other"
    tiny.write_squares(other_data, count=8)
    other = make_run(tmp_path / "run", other_data)
    unlogged = make_run(tmp_path / "unlogged", squares)
    shutil.rmtree(unlogged / "logs")
    damaged = make_run(tmp_path / "damaged", squares)
    (damaged / "report" / "report.json").write_text('{"run": 3}')
    foreign = tmp_path / "foreign.html"
    foreign.write_text("<html>")
    output = tmp_path / "out.html"
    for arguments, words in [
        ([], "RUN... is missing"),
        ([first], "give two or more runs"),
        ([first, first], "is given twice"),
        ([first, tmp_path / "absent"], "holds no run"),
        ([first, squares], "holds no run"),
        ([first, other], "different data sets"),
        ([first, unlogged], "has no logs"),
        ([first, damaged], "is not a report"),
        ([first, second, f"--output={foreign}"], "t2i_tpu did not write it"),
        ([first, second, "--output=x.png"], "must end in .html"),
        ([first, second, "--price_per_hour=1,2,3"], "one price for all runs, or 2"),
        ([first, second, "--price_per_hour=much"], "--price_per_hour=much: it must be a number"),
        ([first, second, "--price_per_hour=-1"], "at least 0"),
        ([first, second, "--price_per_hour=nan"], "--price_per_hour"),
    ]:
        flags = [] if any("--output" in str(a) for a in arguments) else [f"--output={output}"]
        error = run("compare.py", [*arguments, *flags]).error
        assert words in error, (words, error)
    assert not output.exists()


def test_trained_run_can_be_compared(trained, run, tmp_path):
    workdir = trained("embedding")
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    result = run("compare.py", [workdir, copy, f"--output={tmp_path / 'out.html'}"])
    assert result.code == 0, result
    assert parse_table(result.stdout, "Training")["steps"] == ["12 of 12"] * 2


def test_runs_on_gs_are_compared_as_on_disk(gcs, bucket, runs, run, tmp_path):
    remote = [gcs.put_folder(workdir, f"{bucket}/{workdir.name}") for workdir in runs]
    result = run("compare.py", [*remote, f"--output={bucket}/out.html"], inside=gcs.inside)
    assert result.code == 0, result
    local = tmp_path / "out.html"
    assert run("compare.py", [*runs, f"--output={local}"]).code == 0
    page = gcs.files(bucket)["out.html"].decode()
    folder = str(runs[0].parent)
    assert page.replace(bucket, folder) == local.read_text()
