"""Tests that pictures are written to and read from gs:// as on a disk."""

import numpy as np

from t2i_tpu.errors import UserError
from t2i_tpu.sample.image_folder import ImageFolder, name_file
from t2i_tpu.sample.images import Images
from t2i_tpu.sample.inputs import read_image
from t2i_tpu.sample.picture_files import read_bytes, read_records

RECORDS = [{"prompt": "red heart", "seed": seed} for seed in range(40)]


def use_pictures(bucket):
    """Return what was read back."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    images = Images(pixels, RECORDS)
    for _ in range(2):
        images.save(f"{bucket}/new/grid.png")
        images[:3].save(f"{bucket}/new/walk.mp4")
    images[:1].save(f"{bucket}/one.webp")
    wanted = [(name_file(0, i), RECORDS[i]) for i in range(40)]
    with ImageFolder(f"{bucket}/drawn") as folder:
        for index in range(20):
            folder.write(wanted[index][0], pixels[index], RECORDS[index])
        folder.flush()
        complete = folder.find_complete(wanted)
    try:
        read_bytes(f"{bucket}/missing.png")
    except UserError as error:
        message = str(error)
    return {
        "grid": read_records(f"{bucket}/new/grid.png"),
        "walk": read_records(f"{bucket}/new/walk.mp4"),
        "same": np.array_equal(read_image(f"{bucket}/one.webp", 8), pixels[0]),
        "complete": complete == {name for name, _ in wanted[:20]},
        "message": message,
    }


def test_pictures_on_gs(gcs, bucket):
    result = gcs.call(use_pictures, bucket)
    assert result["grid"] == RECORDS and result["walk"] == RECORDS[:3]
    assert result["same"] and result["complete"]
    assert result["message"].startswith(f"cannot read {bucket}/missing.png: ")
    assert "\n" not in result["message"]
