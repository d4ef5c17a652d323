import re
from typing import Any

import pytest

from training.loop_config import LoopConfig
from training.lr import Cosine
from training.policy_search.config import PolicySearchConfig, RayConfig
from training.settings import from_json, to_json


def test_defaults_are_the_papers() -> None:
    config = PolicySearchConfig()
    assert (config.population, config.perturbation_interval, config.train_images) == (16, 3, 4000)
    assert (config.quantile, config.resample_probability) == (0.25, 0.2)
    assert config.architecture == "wrn40_2"
    loop = config.loop
    assert (loop.epochs, loop.batch_size, loop.lr) == (200, 128, Cosine(peak_lr=0.1))
    assert (loop.optim.weight_decay, loop.gradient_clip) == (5e-4, 5.0)
    assert (loop.augment.pad_px, loop.augment.cutout_px) == (4, 16)


def test_the_last_interval_may_be_shorter() -> None:
    config = PolicySearchConfig()
    assert config.num_intervals == 67
    assert [config.interval_epochs(start) for start in (0, 195, 198)] == [3, 3, 2]
    assert PolicySearchConfig(loop=LoopConfig(epochs=6)).num_intervals == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"population": 0}, "population: got 0; must be at least 1"),
        ({"perturbation_interval": 0}, "perturbation_interval: got 0; must be at least 1"),
        ({"train_images": 0}, "train_images: got 0; must be at least 1"),
        ({"seed": -1}, "seed: got -1; must be at least 0"),
        ({"checkpoint_interval_s": float("nan")}, "checkpoint_interval_s: got nan; must be at least 0"),
        ({"quantile": 0.6}, "quantile: got 0.6; must be above 0 and at most 0.5"),
        ({"quantile": 0}, "quantile: got 0; must be above 0 and at most 0.5"),
        ({"resample_probability": 1.1}, "resample_probability: got 1.1; must lie in 0..1"),
    ],
)
def test_a_bad_search_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PolicySearchConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cpus_per_trial": 0}, "cpus_per_trial: got 0; must be above 0"),
        ({"gpus_per_trial": -1}, "gpus_per_trial: got -1; must be at least 0"),
        ({"max_failures": -2}, "max_failures: got -2; must be at least -1"),
        ({"keep_checkpoints": 2}, "keep_checkpoints: got 2; must be at least 3"),
        ({"num_cpus": 1, "cpus_per_trial": 2}, "num_cpus: got 1; must be at least cpus_per_trial, which is 2"),
        ({"object_store_bytes": 1}, "object_store_bytes: got 1; must be at least 78643200"),
    ],
)
def test_a_bad_cluster_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        RayConfig(**fields)


def test_survives_json() -> None:
    config = PolicySearchConfig(arguments={"width": 32}, ray=RayConfig(address="auto"))
    assert from_json(PolicySearchConfig, to_json(config)) == config
