"""Tests of Beam's options. tests/launch/test_prepare_data.py tests preparation with Beam."""

import pytest

from t2i_tpu.errors import UserError

pytestmark = pytest.mark.beam


@pytest.fixture
def make_pipeline():
    from t2i_tpu.data.prepare import beam  # needs apache-beam

    return beam.make_pipeline


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--projct=x"], "Beam has no option --projct; did you mean 'project'"),
        (["--direct_num_workers=x"], "argument --direct_num_workers: invalid int value: 'x'"),
        (["--runner=Nonsense"], "Unexpected pipeline runner: Nonsense"),
        (["--runner=DataflowRunner"], "Missing required option: project. .*region"),
    ],
)
def test_wrong_option_is_a_one_line_error(make_pipeline, options, message, capsys):
    with pytest.raises(UserError, match=message) as error:
        make_pipeline(options, "folder:gs://bucket/photos", "gs://bucket/data")
    assert "\n" not in str(error.value)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("runner", ["DataflowRunner", "dataflow", "TestDataflowRunner"])
@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("folder:photos", "gs://bucket/data", "--source=folder:photos is on this machine"),
        ("tfds:mnist", "gs://bucket/data", "--source=tfds:mnist is on this machine"),
        ("folder:gs://bucket/photos", "data", "--output=data is on this machine"),
    ],
)
def test_dataflow_rejects_local_paths(make_pipeline, runner, source, output, message):
    with pytest.raises(UserError, match=message):
        make_pipeline([f"--runner={runner}", "--project=p"], source, output)


def test_options_reach_the_pipeline(make_pipeline):
    from apache_beam.options.pipeline_options import DirectOptions

    options = make_pipeline(["--direct_num_workers", "3"], "folder:photos", "data").options
    assert options.view_as(DirectOptions).direct_num_workers == 3
