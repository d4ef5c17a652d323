"""Recipes by name, or from a user's own file or module."""

import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from types import MappingProxyType, ModuleType

from training.config import RunConfig
from training.errors import RecipeError

Recipe = Callable[..., RunConfig]
"""Called with ``device`` (such as ``cpu`` or ``cuda``) and ``seed``; gives the full configuration of a run."""

_HOME = "training.recipes"
_RECIPES: Mapping[str, str] = MappingProxyType(
    {
        "digits": "digits",
        "cifar10": "cifar",
        "cifar100": "cifar",
        "svhn": "written",
        "mnist": "written",
        "smallnorb": "smallnorb",
        "folder": "folder",
    }
)
"""Our own recipes, each a function of that name in a module of this package."""
_FORMS = "path/to/file.py:function or module:function"


def recipe_names() -> tuple[str, ...]:
    """Name our own recipes."""
    return tuple(_RECIPES)


def find_recipe(text: str) -> Recipe:
    """Look up a recipe.

    Args:
        text: one of :func:`recipe_names`, ``path/to/file.py:function`` or ``module:function``. A file is run, so it
            must be one that you trust; it may import its neighbours. A module may lie in the working directory.

    Raises:
        RecipeError: there is none, or its file or module can't be loaded.
    """
    if text in _RECIPES:
        recipe: Recipe = getattr(import_module(f"{_HOME}.{_RECIPES[text]}"), text)
        return recipe
    home, colon, name = text.rpartition(":")
    if not colon or not home or not name:
        close = difflib.get_close_matches(text, _RECIPES)
        hint = f"close: {', '.join(close)}" if close else f"known: {', '.join(_RECIPES)}"
        raise RecipeError(f"recipe: got {text!r}, which is unknown; {hint}; or give {_FORMS}")
    module = _load_file(Path(home)) if home.endswith(".py") else _load_module(home)
    found: Recipe | None = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if _is_own(value, module) and not key.startswith("_")]
        close = difflib.get_close_matches(name, functions) or functions[:5]
        known = f"it has: {', '.join(close) or 'none'}"
        raise RecipeError(f"recipe: got {text!r}; {home} has no function {name!r}; {known}")
    return found


def make_config(recipe: Recipe, text: str, *, device: str, seed: int) -> RunConfig:
    """Ask a recipe for its configuration.

    Args:
        recipe: a function of ``device`` and ``seed``.
        text: how the user called it, for messages.
        device: where the run will train.
        seed: of the run.

    Raises:
        RecipeError: it takes other arguments, gives something else than a configuration, or gives a wrong one.
    """
    try:
        config = recipe(device=device, seed=seed)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe {text!r}: {error}") from error
    if not isinstance(config, RunConfig):
        raise RecipeError(f"recipe {text!r}: got {type(config).__name__}; must give a training.config.RunConfig")
    return config


def _is_own(value: object, module: ModuleType) -> bool:
    """Tell a module's functions from what it imports."""
    return isfunction(value) and value.__module__ == module.__name__


def _load_file(path: Path) -> ModuleType:
    name = f"cascade_train_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise RecipeError(f"recipe: {path}: no such file")
    module = importlib.util.module_from_spec(spec)
    _import_from_too(path.parent)
    # Dataclasses look their module up by name.
    sys.modules[name] = module
    with _telling(str(path)):
        spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    _import_from_too(Path())
    with _telling(name):
        return import_module(name)


def _import_from_too(folder: Path) -> None:
    """Import from a folder what is found nowhere else, for good: a recipe may import when it is called, too."""
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.append(entry)


@contextmanager
def _telling(where: str) -> Iterator[None]:
    """Say what can't be loaded; a mistake inside the user's code keeps its traceback, which says where it is."""
    try:
        yield
    except (ImportError, SyntaxError, OSError) as error:
        raise RecipeError(f"recipe: {where} can't be loaded: {type(error).__name__}: {error}") from error
