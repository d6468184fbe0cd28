"""launch/evaluate.py on small trained models: the report, its repetition, and wrong input."""

import json

import pytest

from tests import tiny
from tests.assertions import assert_mentions

FEW = ["--num_images=20", "--num_sets=2"]


def read_report(folder):
    """Return a report without the times, which differ."""
    report = json.loads((folder / "report.json").read_text())
    del report["seconds"]
    return report


@pytest.fixture(scope="module")
def report(trained, run, tmp_path_factory):
    """The folder of an evaluation of a model that was trained on prompts."""
    folder = tmp_path_factory.mktemp("evaluated") / "report"
    flags = [f"--workdir={trained('embedding')}", f"--output={folder}", *FEW]
    result = run("evaluate.py", flags)
    assert result.code == 0, result.stderr
    assert result.stdout.split() == [
        str(folder / name) for name in ("report.json", "report.html", "guess.html")
    ]
    return folder


def test_report_has_every_section(report):
    content = read_report(report)
    kid = content["distances"]["train"]["kid"]
    assert len(kid["values"]) == 2 and kid["spread"] > 0
    assert content["distances"]["train"]["kid_standard_error"]["value"] > 0
    # Eight held-out images are too few, and the reason takes the place of a number.
    assert content["distances"]["heldout"]["kid"]["value"] is None
    assert "at least 10" in content["distances"]["heldout"]["kid"]["reason"]
    assert 0 <= content["agreement"]["train"]["retrieval_at_1"]["value"] <= 1
    assert content["agreement"]["heldout"]["retrieval_at_1"]["value"] is None
    levels = content["generalisation"]["noise_levels"]
    assert len(content["generalisation"]["heldout"]) == len(levels)
    assert content["interpolation"]["prompts"]["largest_step"]["value"] >= 1
    assert len(content["memorisation"]["pixels"]["drawn"]) == 20
    assert content["run"]["step"] == 12 and content["run"]["weights"] == "average 0.1"
    assert content["settings"]["extractor"]["id"] == "embedded"


def test_page_needs_no_other_files(report):
    page = (report / "report.html").read_text()
    assert "KID" in page and "data:image/png;base64," in page
    for outside in ("http://", "https://", "src='", 'src="/'):
        assert outside not in page.replace("http://www.w3.org", ""), outside


def test_same_command_gives_the_same_report(report, trained, run, tmp_path):
    flags = [f"--workdir={trained('embedding')}", f"--output={tmp_path / 'again'}", *FEW]
    assert run("evaluate.py", flags).code == 0
    assert read_report(tmp_path / "again") == read_report(report)


def test_report_on_gs_equals_one_on_disk(gcs, bucket, report, trained, run, squares, tmp_path):
    """The workdir, the data set and the report are on gs://."""
    workdir = gcs.put_folder(trained("embedding"), f"{bucket}/run")
    data = gcs.put_folder(squares, f"{bucket}/data")
    flags = [f"--workdir={workdir}", f"--source=shards:{data}", *FEW]
    result = run("evaluate.py", flags, inside=gcs.inside)
    assert result.code == 0, result.stderr
    on_gs = read_report(gcs.get_folder(f"{workdir}/report", tmp_path / "fetched"))
    on_disk = read_report(report)
    for content in (on_gs, on_disk):
        del content["run"]["workdir"]
    assert on_gs == on_disk


@pytest.mark.slow
def test_engines_agree(report, trained, run, tmp_path):
    """The images differ by rounding."""
    flags = [f"--workdir={trained('embedding')}", f"--output={tmp_path}", "--engine=jax", *FEW]
    result = run("evaluate.py", flags)
    assert result.code == 0, result.stderr
    on_jax, on_tensorflow = read_report(tmp_path), read_report(report)
    values = [content["distances"]["train"]["kid"]["value"] for content in (on_jax, on_tensorflow)]
    assert values[0] == pytest.approx(values[1], rel=0.02, abs=1e-3)
    losses = [content["generalisation"]["heldout"] for content in (on_jax, on_tensorflow)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_answers_are_scored(report, run, trained, tmp_path):
    guess = read_report(report)["guess"]
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"sheet": guess["sheet"], "answers": guess["real"]}))
    flags = [f"--workdir={trained('embedding')}", f"--output={report}"]
    result = run("evaluate.py", [*flags, f"--score_sheet={answers}"])
    count = len(guess["real"])
    assert result.code == 0 and f"{count} of {count} answers are right" in result.stdout
    answers.write_text("{}")
    error = run("evaluate.py", [*flags, f"--score_sheet={answers}"]).error
    assert_mentions(error, ["answers", "guess.html"])


def test_model_with_labels_is_evaluated(trained, run, tmp_path):
    flags = [f"--workdir={trained('label')}", f"--output={tmp_path}", "--average=none", *FEW]
    result = run("evaluate.py", flags)
    assert result.code == 0, result.stderr
    content = read_report(tmp_path)
    assert content["run"]["weights"] == "trained weights"
    classes = content["agreement"]["train"]["classes"]
    assert set(classes) <= set(tiny.COLORS) and len(classes) > 1
    assert "prompts" not in content["interpolation"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--step=7"], ["no checkpoint of step 7", "it has 12"]),
        (["--average=0.3"], ["average=0.3", "0.1", "none"]),
        (["--extractor=nonsense"], ["nonsense", "embedded"]),
        (["--extractor=inception:/no/such.pth"], ["/no/such.pth"]),
        (["--extractor=fashion_mnist"], ["fashion_mnist", "gray"]),
        (["--source=embedded:emoji"], ["emoji is not the data set", "--source"]),
        (["--num_images=5"], ["--num_images=5"]),
        (["--sampler=dpmpp"], ["--sampler=dpmpp", "dpmpp_2m"]),
    ],
)
def test_wrong_flags_give_one_line(trained, run, tmp_path, flags, words):
    output = tmp_path / "report"
    flags = [f"--workdir={trained('embedding')}", f"--output={output}", *flags]
    result = run("evaluate.py", flags)
    assert_mentions(result.error, words)
    assert not output.exists()


def test_file_of_the_user_is_not_overwritten(trained, run, tmp_path):
    (tmp_path / "report.json").write_text("{}")
    flags = [f"--workdir={trained('embedding')}", f"--output={tmp_path}"]
    assert_mentions(run("evaluate.py", flags).error, ["report.json", "did not write it"])


def test_workdir_without_checkpoints(run, tmp_path, trained):
    for name in ("config.json", "manifest.json"):
        (tmp_path / name).write_bytes((trained("embedding") / name).read_bytes())
    error = run("evaluate.py", [f"--workdir={tmp_path}", *FEW]).error
    assert_mentions(error, ["holds no checkpoint"])
