"""Recipes: each gives a whole, sound configuration; users' own are found in files and modules."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_recipe

from model_zoo.registry import build_model
from training.config import RunConfig
from training.errors import RecipeError
from training.recipes.finding import find_recipe, make_config, recipe_names
from training.settings import from_json, to_json

CHANNELS = {"digits": 1, "mnist": 1, "smallnorb": 1}


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_recipe_gives_a_sound_configuration(name: str, device: str) -> None:
    config = make_config(find_recipe(name), name, device=device, seed=5)
    assert from_json(RunConfig, to_json(config)) == config
    assert (config.device, config.seed, config.task) == (device, 5, name)
    assert len(config.members) >= 3
    assert {config.splits.seed, *(member.loop.seed for member in config.members)} == {5}
    assert config.selection is not None
    assert config.selection.core_set.seed == 5
    assert config.policy_search is not None
    assert config.policy_search.seed == 5


@pytest.mark.parametrize("name", recipe_names())
def test_members_grow(name: str) -> None:
    config = make_config(find_recipe(name), name, device="cpu", seed=0)
    sizes = []
    for member in config.members:
        built = build_model(member.architecture, classes=10, channels=CHANNELS.get(name, 3), arguments=member.arguments)
        sizes.append(sum(parameter.numel() for parameter in built.module.parameters()))
    assert all(small * 2 < large for small, large in pairwise(sizes))


def test_a_gpu_gets_the_large_sizes() -> None:
    large, small = (make_config(find_recipe("cifar10"), "", device=device, seed=0) for device in ("cuda:0", "cpu"))
    assert large.members[-1].arguments == {"width": 64}
    assert small.members[-1].arguments == {"width": 16}


def test_a_file_of_ones_own() -> None:
    text = f"{tiny_recipe.__file__}:tiny"
    config = make_config(find_recipe(text), text, device="cpu", seed=4)
    assert [member.name for member in config.members] == ["xs", "s"]
    assert config.seed == 4


@pytest.mark.parametrize("text", ["{folder}/mine_beside.py:mine", "mine_beside:mine"])
def test_a_recipe_of_ones_own_may_have_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "set_beside.py").write_text("from training.recipes.digits import digits\n")
    # One import at once, and one only when the recipe is called.
    (tmp_path / "mine_beside.py").write_text(
        "import set_beside\ndef mine(**words):\n    from set_beside import digits\n    return digits(**words)\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine_beside", "set_beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    config = make_config(find_recipe(text.format(folder=tmp_path)), "mine", device="cpu", seed=0)
    assert config.task == "digits"


def test_a_module_of_ones_own() -> None:
    assert find_recipe("tiny_recipe:tiny") is tiny_recipe.tiny


def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "stripes.py"
    file.write_text(
        "from dataclasses import dataclass, replace\n"
        "from typing import Literal\n"
        "import numpy as np\n"
        "from training.data.data_set import DataSet, number_images\n"
        "from training.data.sources import register_source\n"
        "from training.recipes.digits import digits\n"
        "@register_source\n"
        "@dataclass(frozen=True, kw_only=True, slots=True)\n"
        "class Stripes:\n"
        "    kind: Literal['stripes'] = 'stripes'\n"
        "    rows: int = 40\n"
        "    def load(self, root=None, *, progress=None):\n"
        "        images = np.random.default_rng(0).integers(0, 255, (self.rows, 8, 8), dtype=np.uint8)\n"
        "        return DataSet(train=number_images(images, np.arange(self.rows) % 2, classes=('thin', 'wide')))\n"
        "def stripes(device, seed):\n"
        "    return replace(digits(device=device, seed=seed), task='stripes', source=Stripes(rows=30))\n"
    )
    config = make_config(find_recipe(f"{file}:stripes"), "stripes", device="cpu", seed=0)
    assert to_json(config.source) == {"kind": "stripes", "rows": 30}
    assert from_json(RunConfig, to_json(config)) == config
    assert len(config.source.load().train) == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cifar11", r"recipe: got 'cifar11', which is unknown; close: cifar10, cifar100; or give path/to/file\.py:fun"),
        ("zebra", r"which is unknown; known: digits, cifar10, .*; or give"),
        ("nowhere.py:f", r"recipe: nowhere\.py: no such file"),
        ("no_such_module:f", r"recipe: no_such_module can't be loaded: ModuleNotFoundError"),
        ("tiny_recipe:tinny", r"tiny_recipe has no function 'tinny'; it has: tiny"),
        ("tiny_recipe:", "which is unknown"),
    ],
)
def test_recipes_that_are_not_there(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        find_recipe(text)


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("def f(:\n")
    with pytest.raises(RecipeError, match=r"broken\.py can't be loaded: SyntaxError"):
        find_recipe(f"{file}:f")


def test_the_functions_that_a_file_has_are_named_and_not_what_it_imports(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from training.recipes.digits import digits\nclass Thin: ...\ndef birds(**words): ...\n")
    with pytest.raises(RecipeError, match=r"mine\.py has no function 'zebra'; it has: birds$"):
        find_recipe(f"{file}:zebra")


def test_a_function_that_is_no_recipe() -> None:
    with pytest.raises(RecipeError, match=r"recipe 'x': .*unexpected keyword argument"):
        make_config(lambda: None, "x", device="cpu", seed=0)  # type: ignore[arg-type,return-value]
    with pytest.raises(RecipeError, match=r"recipe 'x': got dict; must give a training\.config\.RunConfig"):
        make_config(lambda **_: {}, "x", device="cpu", seed=0)  # type: ignore[arg-type]


def test_a_recipe_with_a_wrong_value(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from training.loop_config import LoopConfig\ndef f(device, seed):\n    return LoopConfig(epochs=0)\n"
    )
    with pytest.raises(RecipeError, match=r"recipe 'f': epochs: got 0; must be at least 1"):
        make_config(find_recipe(f"{file}:f"), "f", device="cpu", seed=0)
