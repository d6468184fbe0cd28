"""What Beam's options may be; launching with them is in tests/launch/test_prepare_data.py."""

import pytest

from t2i_tpu.errors import UserError

pytestmark = pytest.mark.beam


@pytest.fixture
def make_pipeline():
    from t2i_tpu.data.prepare import beam  # whose import needs apache-beam

    return beam.make_pipeline


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--projct=x"], "Beam has no option --projct; did you mean 'project'"),
        (["--direct_num_workers=x"], "argument --direct_num_workers: invalid int value: 'x'"),
        (["--runner=Nonsense"], "Unexpected pipeline runner: Nonsense"),
        (["--runner=DataflowRunner"], "Missing required option: project. .*region"),
    ],
)
def test_a_wrong_option_is_one_line(make_pipeline, options, told, capsys):
    with pytest.raises(UserError, match=told) as error:
        make_pipeline(options, "folder:gs://bucket/photos", "gs://bucket/data")
    assert "\n" not in str(error.value) and not capsys.readouterr().err


@pytest.mark.parametrize("runner", ["DataflowRunner", "dataflow", "TestDataflowRunner"])
@pytest.mark.parametrize(
    ("source", "output", "told"),
    [
        ("folder:photos", "gs://bucket/data", "--source=folder:photos is on this machine"),
        ("tfds:mnist", "gs://bucket/data", "--source=tfds:mnist is on this machine"),
        ("folder:gs://bucket/photos", "data", "--output=data is on this machine"),
    ],
)
def test_what_dataflow_does_not_see(make_pipeline, runner, source, output, told):
    with pytest.raises(UserError, match=told):
        make_pipeline([f"--runner={runner}", "--project=p"], source, output)


def test_options_reach_the_pipeline(make_pipeline):
    from apache_beam.options.pipeline_options import DirectOptions

    options = make_pipeline(["--direct_num_workers", "3"], "folder:photos", "data").options
    assert options.view_as(DirectOptions).direct_num_workers == 3
