"""The config: a wrong value gives one line that names the field, and recipes fill in the rest."""

import dataclasses
import importlib.util
import json
import pathlib

import pytest

from t2i_tpu import config as config_lib
from t2i_tpu.config import (
    Config,
    ModelConfig,
    differences,
    from_dict,
    from_json,
    resolve,
    to_json,
)
from t2i_tpu.data.conditions import CONDITIONINGS, get_conditioning
from t2i_tpu.diffusion.losses import LOSS_WEIGHTS, LOSSES
from t2i_tpu.diffusion.noise_levels import NOISE_LEVELS
from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.diffusion.prediction import PREDICTIONS
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.schedules import LEVELS
from t2i_tpu.errors import UserError
from t2i_tpu.models.conditioning import BASELINE_CONDITIONERS, CONDITIONERS
from t2i_tpu.options import get_choices
from t2i_tpu.recipes import RECIPES
from t2i_tpu.run import evaluations
from tools.describe_config import describe_config

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def resolve_with(name, value, recipe="modern"):
    values = dataclasses.asdict(Config(recipe=recipe))
    group, _, field = name.rpartition(".")
    (values[group] if group else values)[field] = value
    return resolve(from_dict(values))


def get_rejection(name, value, recipe="modern"):
    with pytest.raises(UserError) as caught:
        resolve_with(name, value, recipe)
    message = str(caught.value)
    assert "\n" not in message
    assert f"config.{name}" in message
    return message


def load_module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHOICES = {name: get_choices(field) for name, field in config_lib.fields().items()}
CHOICES = {name: choices for name, choices in CHOICES.items() if choices}
# The implementations of the choices, by the field that selects them.
TABLES = {
    "recipe": RECIPES,
    "diffusion.path": PATHS,
    "diffusion.prediction_type": PREDICTIONS,
    "diffusion.noise_levels": NOISE_LEVELS,
    "diffusion.loss": LOSSES,
    "diffusion.loss_weight": LOSS_WEIGHTS,
    "sample.sampler": SAMPLERS,
    "sample.levels": LEVELS,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_choice_has_an_implementation(name):
    assert set(CHOICES[name]) == TABLES[name].keys()


def test_every_kind_of_condition_has_a_layer():
    assert CONDITIONINGS.keys() == CONDITIONERS.keys()
    assert BASELINE_CONDITIONERS.keys() < CONDITIONERS.keys()
    assert ModelConfig().conditioning in CONDITIONINGS


@pytest.mark.parametrize("name", CHOICES)
def test_value_that_is_not_a_choice_is_rejected(name):
    message = get_rejection(name, "nothing like it")
    for choice in CHOICES[name]:
        assert choice in message


def test_nearest_choice_is_suggested():
    assert "did you mean 'velocity'?" in get_rejection("diffusion.prediction_type", "velocty")
    with pytest.raises(UserError, match="config.model.conditioning is 'lable'.*mean 'label'"):
        get_conditioning("lable")


def test_every_field_is_explained_in_full_sentences():
    for name, field in config_lib.fields().items():
        assert field.metadata["help"].endswith("."), name


def test_docs_list_every_field():
    """docs/config.md is up to date; `make docs` writes it."""
    is_current = (ROOT / "docs/config.md").read_text("utf-8") == describe_config()
    assert is_current, "run make docs"


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
        ("train.keep_best", -1),
        ("train.evaluate_every", -1),
        ("train.evaluate_images", 1),
        ("train.best_metric", "kid"),  # without evaluations
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
def test_value_out_of_bounds_is_rejected(name, value):
    get_rejection(name, value)


def test_every_checkpoint_must_be_evaluated_to_compare_it():
    config = Config()
    config.train.best_metric, config.train.evaluate_every = "heldout_loss", 100
    config.train.checkpoint_every = 150
    with pytest.raises(UserError, match="checkpoint_every is 150; it must be a multiple of .*=100"):
        resolve(config)
    config.train.checkpoint_every = 200
    assert resolve(config).train.best_metric == "heldout_loss"
    # Nothing is compared.
    config.train.best_metric, config.train.checkpoint_every = "loss", 150
    resolve(config)


def test_every_figure_is_described():
    assert set(CHOICES["train.best_metric"]) <= {"loss", *evaluations.FIGURES}


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
def test_value_of_another_type_is_rejected(name, value, kind):
    assert f"must be of type {kind}" in get_rejection(name, value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_value_that_is_not_finite_is_rejected(value):
    assert "finite" in get_rejection("train.learning_rate", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.patch_size", 2),
        ("model.widths", (4, 8, 16)),
    ],
)
def test_baseline_blocks_reject_other_models(name, value):
    assert "baseline" in get_rejection(name, value, recipe="baseline")


def test_baseline_blocks_need_two_widths():
    config = Config(recipe="baseline")
    config.model.widths, config.model.attention_levels = (64,), (True,)
    with pytest.raises(UserError, match="config.model.widths"):
        resolve(config)


def test_nearest_key_is_suggested_for_an_unknown_one():
    with pytest.raises(UserError, match=r"config\.train\.total_step; did you mean 'total_steps'\?"):
        from_dict({"train": {"total_step": 3}})
    with pytest.raises(UserError, match=r"config\.trian; did you mean 'train'\?"):
        from_dict({"trian": {}})
    with pytest.raises(UserError, match="config.train is 3; it must be a group"):
        from_dict({"train": 3})


def test_misspelled_key_of_a_config_file_is_rejected():
    """A dataclass accepts any attribute, but `resolve` must not ignore it."""
    config = Config()
    config.train.total_step = 3
    with pytest.raises(UserError, match=r"config\.train\.total_step; did you mean 'total_steps'\?"):
        resolve(config)


@pytest.mark.parametrize("recipe", ["modern", "baseline"])
def test_recipe_fills_in_every_field(recipe):
    resolved = resolve(Config(recipe=recipe))
    assert not [n for n in config_lib.fields() if config_lib.get(resolved, n) is None]


def test_recipe_changes_no_field_that_has_a_value():
    config = Config(recipe="baseline")
    config.train.learning_rate, config.model.widths = 1, [16, 32, 48]
    resolved = resolve(config)
    assert resolved.train.learning_rate == 1.0
    assert isinstance(resolved.train.learning_rate, float)
    assert resolved.model.widths == (16, 32, 48)
    assert config.model.blocks is None
    assert resolve(resolved) == resolved


@pytest.mark.parametrize("recipe", ["modern", "baseline"])
def test_json_restores_the_config(recipe):
    config = resolve(Config(recipe=recipe, seed=2**32 - 1))
    text = to_json(config)
    assert json.loads(text)["train"]["ema_stds"] == list(config.train.ema_stds)
    assert from_json(text) == config


def test_differences_name_the_field_and_both_values():
    first, second = resolve(Config()), resolve(Config())
    assert differences(first, second) == []
    second.train.total_steps, second.seed = 7, 3
    assert differences(first, second) == [
        "config.seed: 0 != 3",
        "config.train.total_steps: 10000 != 7",
    ]


def test_documented_configs_exist():
    names = {"emoji32", "fashion_mnist", "mnist", "cifar10", "cifar100", "clip64"}
    assert names <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_resolves(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    module = load_module(path)
    config = resolve(module.get_config())
    assert config.data.source.partition(":")[0] in ("embedded", "shards", "idx", "tfds")
    # Its docstring gives the command that runs it.
    assert f"--config=configs/{path.name}" in module.__doc__
