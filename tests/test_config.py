"""The config: what a user can get wrong is one line that names the field; what recipes fill in."""

import dataclasses
import importlib.util
import json
import pathlib

import pytest

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config, differences, from_dict, from_json, resolve, to_json
from t2i_tpu.errors import UserError

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def resolved_with(name, value, recipe="modern"):
    values = dataclasses.asdict(Config(recipe=recipe))
    group, _, field = name.rpartition(".")
    (values[group] if group else values)[field] = value
    return resolve(from_dict(values))


def refusal(name, value, recipe="modern"):
    with pytest.raises(UserError) as caught:
        resolved_with(name, value, recipe)
    message = str(caught.value)
    assert "\n" not in message
    assert f"config.{name}" in message
    return message


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHOICES = {
    "recipe": "baseline modern",
    "data.on_damage": "raise skip",
    "model.conditioning": "embedding sequence label tokens",
    "model.blocks": "modern baseline",
    "diffusion.path": "linear cosine",
    "diffusion.prediction_type": "denoised noise v velocity",
    "diffusion.noise_levels": "half_normal uniform logit_normal shifted",
    "diffusion.loss": "absolute squared",
    "diffusion.loss_weight": "uniform min_snr velocity",
    "sample.sampler": "ddim dpmpp_2m",
    "sample.levels": "baseline uniform shifted",
    "train.decay": "constant cosine",
    "train.dtype_policy": "auto float32 mixed_bfloat16 mixed_float16",
    "train.jit_compile": "auto on off",
}


def test_every_choice_is_listed_here():
    assert {name: " ".join(choices) for name, choices in config_lib.CHOICES.items()} == CHOICES


@pytest.mark.parametrize("name", CHOICES)
def test_a_value_that_is_no_choice(name):
    message = refusal(name, "nothing like it")
    for choice in CHOICES[name].split():
        assert choice in message


def test_a_value_near_a_choice_is_told_so():
    assert "did you mean 'velocity'?" in refusal("diffusion.prediction_type", "velocty")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.image_size", 3),
        ("model.block_depth", 0),
        ("model.patch_size", 0),
        ("model.embedding_dim", 0),
        ("diffusion.cond_dropout_rate", -0.1),
        ("diffusion.cond_dropout_rate", 1.0),
        ("sample.steps", 1),
        ("sample.guidance_scale", -1.0),
        ("sample.threshold_percentile", -1.0),
        ("sample.threshold_percentile", 100.0),
        ("train.total_steps", 0),
        ("train.global_batch_size", 0),
        ("train.steps_per_loop", 0),
        ("train.log_every", 0),
        ("train.preview_every", 0),
        ("train.checkpoint_every", 0),
        ("train.keep_checkpoints", 0),
        ("train.learning_rate", -1e-3),
        ("train.warmup_steps", -1),
        ("train.weight_decay", -0.1),
        ("train.beta_2", -0.1),
        ("train.beta_2", 1.0),
        ("train.clip_norm", -1.0),
        ("train.ema_stds", (0.1, 0.3)),
        ("train.ema_stds", (0.0,)),
        ("preview.num_train", 0),
        ("preview.num_heldout", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("model.widths", ()),
        ("model.widths", (8, 0, 8)),
        ("model.attention_levels", (True,)),
        ("data.image_size", 30),  # patch size 2 and three widths: a multiple of 8
    ],
)
def test_a_value_out_of_bounds(name, value):
    refusal(name, value)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("seed", 1.5, "int"),
        ("seed", True, "int"),
        ("train.total_steps", "100", "int"),
        ("train.total_steps", None, "int"),
        ("train.learning_rate", "1e-3", "float"),
        ("train.learning_rate", True, "float"),
        ("data.source", 3, "str"),
        ("data.horizontal_flip", 1, "bool"),
        ("model.widths", 64, "tuple"),
        ("model.widths", (64, "128"), "int"),
        ("model.attention_levels", (0, 1, 1), "bool"),
        ("preview.captions", "red heart", "tuple"),
    ],
)
def test_a_value_of_another_type(name, value, kind):
    assert f"must be of type {kind}" in refusal(name, value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite(value):
    assert "finite" in refusal("train.learning_rate", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.patch_size", 2),
        ("model.widths", (4, 8, 16)),
    ],
)
def test_what_the_baselines_blocks_have_no_place_for(name, value):
    assert "baseline" in refusal(name, value, recipe="baseline")


def test_the_baselines_blocks_need_two_widths():
    config = Config(recipe="baseline")
    config.model.widths, config.model.attention_levels = (64,), (True,)
    with pytest.raises(UserError, match="config.model.widths"):
        resolve(config)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UserError, match=r"config\.train\.total_step; did you mean 'total_steps'\?"):
        from_dict({"train": {"total_step": 3}})
    with pytest.raises(UserError, match=r"config\.trian; did you mean 'train'\?"):
        from_dict({"trian": {}})
    with pytest.raises(UserError, match="config.train is 3; it must be a group"):
        from_dict({"train": 3})


def test_a_key_that_a_config_file_misspells_is_unknown_too():
    """A dataclass takes any attribute: what is set beside the fields must not be passed over."""
    config = Config()
    config.train.total_step = 3
    with pytest.raises(UserError, match=r"config\.train\.total_step; did you mean 'total_steps'\?"):
        resolve(config)


@pytest.mark.parametrize("recipe", ["modern", "baseline"])
def test_a_recipe_fills_what_is_left_open(recipe):
    resolved = resolve(Config(recipe=recipe))
    assert not [n for n in config_lib.field_names() if config_lib.get(resolved, n) is None]


def test_what_is_set_stays_and_the_config_given_is_left_alone():
    config = Config(recipe="baseline")
    config.train.learning_rate, config.model.widths = 1, [16, 32, 48]
    resolved = resolve(config)
    assert resolved.train.learning_rate == 1.0
    assert isinstance(resolved.train.learning_rate, float)
    assert resolved.model.widths == (16, 32, 48)
    assert config.model.blocks is None
    assert resolve(resolved) == resolved


def test_the_baselines_recipe_is_that_of_the_design():
    config = resolve(Config(recipe="baseline"))
    assert dataclasses.asdict(config.diffusion) == {
        "path": "linear",
        "prediction_type": "denoised",
        "noise_levels": "half_normal",
        "loss": "absolute",
        "loss_weight": "uniform",
        "cond_dropout_rate": 0.15,
    }
    assert (config.sample.sampler, config.sample.levels) == ("ddim", "baseline")
    assert config.sample.threshold_percentile == 99.5
    model, train = config.model, config.train
    assert (model.blocks, model.widths, model.patch_size) == ("baseline", (64, 128, 192), 1)
    assert (train.learning_rate, train.global_batch_size, train.ema_stds) == (3e-4, 64, ())
    assert (train.decay, train.warmup_steps, train.clip_norm) == ("constant", 0, 0.0)
    assert (train.weight_decay, train.beta_2) == (0.0, 0.999)


@pytest.mark.parametrize("recipe", ["modern", "baseline"])
def test_json_and_back(recipe):
    config = resolve(Config(recipe=recipe, seed=2**32 - 1))
    text = to_json(config)
    assert json.loads(text)["train"]["ema_stds"] == list(config.train.ema_stds)
    assert from_json(text) == config


def test_differences_name_the_field_and_both_values():
    one, other = resolve(Config()), resolve(Config())
    assert differences(one, other) == []
    other.train.total_steps, other.seed = 7, 3
    assert differences(one, other) == [
        "config.seed: 0 != 3",
        "config.train.total_steps: 10000 != 7",
    ]


def test_there_are_configs():
    names = {"emoji32", "fashion_mnist", "mnist", "cifar10", "cifar100", "clip64"}
    assert names <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_resolves(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    module = load(path)
    config = resolve(module.get_config())
    assert config.data.source.partition(":")[0] in ("embedded", "shards", "idx", "tfds")
    # Its docstring gives the command that runs it.
    assert f"--config=configs/{path.name}" in module.__doc__
