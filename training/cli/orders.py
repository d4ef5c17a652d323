"""From the words of a command line to an order for the pipeline, and what is printed at its end."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from training.cli.options import RUNS
from training.cluster import ray_config
from training.config import RunConfig, SelectionConfig
from training.data.folder import FolderSource
from training.data_schedule.config import parse_data_schedule
from training.errors import RecipeError, SettingsError
from training.pipeline.listening import Listener
from training.pipeline.order import Order, check_device
from training.policy_search.config import Backend, PolicySearchConfig
from training.recipes.finding import find_recipe, make_config
from training.selection.active_learning import ActiveLearningConfig
from training.settings import apply_settings


def make_order(
    recipe: str,
    *,
    data: Path | None,
    out: Path | None,
    device: str,
    seed: int,
    settings: Sequence[str] | None,
    address: str | None = None,
    zoo: Path | None = None,
) -> Order:
    """Look up the recipe, apply the settings, and check what can be checked before any work.

    Raises:
        RecipeError, SettingsError, DeviceError: the user's words are at fault.
    """
    check_device(device)
    typed = tuple(settings or ())
    config = apply_settings(make_config(find_recipe(recipe), recipe, device=device, seed=seed), typed)
    check_device(config.device)
    if address is not None:
        config = _on_address(config, address)
    folder = out or RUNS / recipe.rpartition(":")[2]
    if isinstance(config.source, FolderSource):
        _check_apart(folder, data)
    return Order(
        recipe=recipe,
        config=config,
        settings=typed,
        data=data,
        out=folder,
        address=address,
        should_export=zoo is not None,
    )


def _check_apart(run_dir: Path, data: Path | None) -> None:
    """Refuse a run inside the images, where it would be taken for one of the classes.

    Raises:
        SettingsError: it lies there.
    """
    if data is not None and run_dir.resolve().is_relative_to(data.resolve()):
        raise SettingsError(f"--out: got {run_dir}; must be outside --data {data}, whose folders are the classes")


def with_data_schedule(order: Order, text: str) -> Order:
    """Train every member under a data schedule.

    Raises:
        SettingsError: the text is none.
    """
    try:
        schedule = parse_data_schedule(text)
    except ValueError as error:
        raise SettingsError(f"--data-schedule: {error}") from error
    members = [replace(member, loop=replace(member.loop, data_schedule=schedule)) for member in order.config.members]
    return replace(order, config=replace(order.config, members=tuple(members)))


def with_selection(order: Order, *, score: str | None, fraction: float | None, active_learning: bool) -> Order:
    """Select as the options say, and as the recipe does where they say nothing.

    Raises:
        RecipeError: the recipe has no proxy to select by.
        SettingsError: a value is at fault.
    """
    selection = order.config.selection
    if selection is None:
        raise RecipeError(f"recipe {order.recipe!r}: its selection is null; must name a proxy to select by")
    try:
        selection = (
            _with_active_learning(selection, order.config.seed, score, fraction)
            if active_learning
            else _with_core_set(selection, score, fraction)
        )
    except ValueError as error:
        raise SettingsError(f"--fraction: {error}") from error
    _check_score(selection)
    return replace(order, config=replace(order.config, selection=selection, should_select=True))


def _check_score(selection: SelectionConfig) -> None:
    """Look the score up, which refuses what is unknown before any work."""
    chosen = selection.active_learning or selection.core_set
    _ = chosen.method


def _with_core_set(selection: SelectionConfig, score: str | None, fraction: float | None) -> SelectionConfig:
    core_set = selection.core_set
    core_set = replace(
        core_set,
        score=core_set.score if score is None else score,
        fraction=core_set.fraction if fraction is None else fraction,
    )
    # Options that speak of a core-set mean one, whatever the recipe does.
    if score is None and fraction is None:
        return selection
    return replace(selection, core_set=core_set, active_learning=None)


def _with_active_learning(
    selection: SelectionConfig, seed: int, score: str | None, fraction: float | None
) -> SelectionConfig:
    config = selection.active_learning or ActiveLearningConfig(seed=seed)
    shares = config.shares
    if fraction is not None:
        shares = (*(share for share in config.shares if share < fraction), fraction)
        if len(shares) == 1:
            # Without a round the proxy would have no say, whatever the subset's file called it.
            raise ValueError(f"got {fraction}; must be above {config.shares[0]}, which is labelled at random at first")
    return replace(
        selection, active_learning=replace(config, score=config.score if score is None else score, shares=shares)
    )


def with_policy_search(
    order: Order, *, population: int | None, train_images: int | None, backend: str | None, address: str | None
) -> Order:
    """Search as the options say, and as the recipe does where they say nothing.

    Raises:
        RecipeError: the recipe does not say how to search.
        SettingsError: a value is at fault.
    """
    search = order.config.policy_search
    if search is None:
        raise RecipeError(f"recipe {order.recipe!r}: its policy_search is null; must say how to search")
    if address is not None and backend == Backend.LOCAL:
        raise SettingsError(f"--address: got {address!r} with --backend local; must be left out, or --backend ray")
    try:
        search = replace(
            search,
            population=search.population if population is None else population,
            train_images=search.train_images if train_images is None else train_images,
        )
        return replace(order, config=_searching(order.config, _on_cluster(search, backend, address)))
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _on_address(config: RunConfig, address: str) -> RunConfig:
    """Let a search that is to run on Ray run on this cluster too."""
    search = config.policy_search
    if search is None or search.backend is not Backend.RAY:
        return config
    return replace(config, policy_search=replace(search, ray=ray_config(address, search.ray)))


def _on_cluster(search: PolicySearchConfig, backend: str | None, address: str | None) -> PolicySearchConfig:
    if address is not None:
        return replace(search, backend=Backend.RAY, ray=ray_config(address, search.ray))
    return search if backend is None else replace(search, backend=Backend(backend))


def _searching(config: RunConfig, search: PolicySearchConfig) -> RunConfig:
    return replace(config, policy_search=search, should_search=True)


def check_target(order: Order, zoo: Path | None) -> None:
    """Refuse a zoo that won't take the members, before they are trained.

    Raises:
        ZooError: it won't.
    """
    from training.export import check_zoo

    if zoo is not None:
        check_zoo(order.out, zoo, order.config.task, [member.name for member in order.config.members])


def finish(order: Order, zoo: Path | None, listener: Listener) -> None:
    """Export to the zoo, where one is given, and say what to type next."""
    if zoo is not None:
        export_and_say(order.out, zoo, listener)
    else:
        listener.tell(f"run:    {order.out}")
        listener.tell(f"next:   cascade-train export {quote(str(order.out))} --zoo zoo")


def export_and_say(run_dir: Path, zoo: Path, listener: Listener) -> None:
    """Export a run's members, and say what to type next.

    Raises:
        TrainingError, ZooError: the run has no members, or the zoo does not take them.
    """
    from training.export import export_run

    task_path = export_run(run_dir, zoo, listener)
    bundle = Path("repository") / task_path.name / "1"
    listener.tell(f"zoo:    {task_path}")
    listener.tell(f"next:   cascade-serve plan {quote(str(task_path))} --out {bundle}")
    listener.tell(f"        cascade-serve serve {bundle.parent.parent}")
