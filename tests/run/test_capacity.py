"""The estimates of disk and memory, compared with a real checkpoint and a lower bound."""

import re

from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.run import capacity
from tests import tiny


def test_estimated_checkpoint_size_equals_its_size_on_disk(tmp_path, squares):
    config, manifest = tiny.make_config(squares, model__widths=(64,)), read_manifest(str(squares))
    findings = capacity.check_capacity(config, str(tmp_path / "run"), manifest)
    disk = next(finding for finding in findings if finding.subject == "disk")
    megabytes = int(re.match(r"(\d+) MB per checkpoint", disk.text)[1])
    tiny.Run(config).save(tmp_path)
    files = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert abs(megabytes - sum(path.stat().st_size for path in files) / 1e6) < 1


def test_memory_of_a_forward_pass_grows_with_every_image(squares):
    config, manifest = tiny.make_config(squares), read_manifest(str(squares))
    spec = get_conditioning(config.model.conditioning).make_spec(manifest)
    denoiser = build_denoiser(config, manifest.channels, spec, "float32")
    small, large = (capacity.count_forward_bytes(denoiser, batch) for batch in (16, 48))
    # The part that does not depend on the batch, such as the casts of the weights.
    constant = (3 * small - large) / 2
    assert 0 <= constant < small
    # Each image has at least 16 float32 channels at 16x16 after the stem and after the last block.
    assert small - constant > 16 * 2 * 16 * 16 * 16 * 4
