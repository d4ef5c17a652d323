"""The commands ``zoo add``, ``zoo list`` and ``zoo show``, as a shell sees them."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from image_folders import write_folder
from typer.testing import CliRunner

from cascade_serve.cli import zoo as zoo_commands
from cascade_serve.errors import ConfigError
from model_zoo.errors import CardError


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    zoo_commands.register(app)

    @app.callback()
    def root() -> None:
        """Hold the group."""

    return app


def run(app: typer.Typer, *arguments: str | Path) -> str:
    return CliRunner().invoke(app, ["zoo", *map(str, arguments)], catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "shades")


@pytest.fixture(scope="module")
def zoo(app: typer.Typer, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = tmp_path_factory.mktemp("zoo")
    for size in ("s", "xs"):
        run(app, "add", size, "--task", "shades", "--zoo", zoo, "--data", data, "--arch", f"digits_cnn_{size}")
    return zoo


def test_list_shows_members_from_cheap_to_dear(app: typer.Typer, zoo: Path) -> None:
    for place in (zoo, zoo / "shades"):
        shown = run(app, "list", place)
        assert shown.index("shades/xs") < shown.index("shades/s ")
        assert "FLOPs: two a multiply-add" in shown


def test_list_as_json_holds_the_cards(app: typer.Typer, zoo: Path) -> None:
    cards = json.loads(run(app, "list", zoo, "--json"))
    assert [card["member"] for card in cards] == ["shades/xs", "shades/s"]
    assert cards[0]["cost"]["flops"] == 2 * cards[0]["cost"]["macs"]


def test_show_tells_the_card_and_verifies_files(app: typer.Typer, zoo: Path) -> None:
    shown = run(app, "show", zoo / "shades" / "xs")
    assert "digits_cnn_xs" in shown
    assert "model.onnx" in shown
    assert json.loads(run(app, "show", zoo / "shades" / "xs", "--json"))["name"] == "xs"


def test_names_that_look_like_markup_are_shown_as_they_are(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "class_1").rename(tmp_path / "data" / "[red] grün")
    options: list[str | Path] = ["--data", tmp_path / "data", "--arch", "digits_cnn_xs"]
    run(app, "add", "odd", "--task", "shades", "--zoo", tmp_path, *options)
    assert "[red] grün, class_0, class_2" in run(app, "show", tmp_path / "shades" / "odd")


def test_show_of_a_changed_member_fails(app: typer.Typer, zoo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "xs"
    shutil.copytree(zoo / "shades" / "xs", copy)
    (copy / "model.onnx").write_bytes(b"changed")
    with pytest.raises(CardError, match=r"model.onnx: sha256: got"):
        run(app, "show", copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --arch or --onnx"),
        (["--arch", "resnet20", "--onnx", "m.onnx"], "give either --arch or --onnx"),
        (["--arch", "resnet20", "--weights", "w.pt", "--pretrained"], "give either --weights or --pretrained"),
        (["--arch", "resnet20", "--layout", "nchw"], "--layout does not go with --arch"),
        (["--arch", "resnet20", "--scale", "1"], "--scale does not go with --arch"),
        (["--arch", "resnet20", "--channel-order", "bgr"], "--channel-order does not go with --arch"),
        (["--onnx", "m.onnx", "--pretrained"], "--pretrained does not go with --onnx"),
        (["--onnx", "m.onnx", "--seed", "1"], "--seed does not go with --onnx"),
        (["--arch", "resnet20", "--mean", "a,b"], "--mean: got 'a,b'; must be numbers such as"),
        (["--arch", "resnet20", "--arguments", "[1]"], r"--arguments: got '\[1\]'; must be a JSON object such as"),
        (["--arch", "resnet20", "--arguments", "{"], "--arguments: got '{'; must be a JSON object: "),
    ],
)
def test_options_that_contradict_are_refused(
    app: typer.Typer, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(app, "add", "x", "--task", "t", "--zoo", tmp_path, "--data", tmp_path, *options)


@pytest.mark.parametrize("command", ["add", "list", "show"])
def test_every_command_has_help(app: typer.Typer, command: str) -> None:
    assert "Usage" in run(app, command, "--help")
