"""The commands that ask a running server: ``infer`` and ``health``, with ``evaluate`` and ``bench`` registered too."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cascade_serve.cli import client_options as options
from cascade_serve.cli.client_load import bench, evaluate
from cascade_serve.cli.client_output import STANDARD_OUTPUT, print_table, write_json
from cascade_serve.core.cost import format_flops
from cascade_serve.load.traffic import Query, read_file, required
from cascade_serve.rpc.client import Client
from cascade_serve.rpc.info import ModelInfo
from cascade_serve.rpc.query import Prediction

_INFER_CHUNK = 16


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (infer, evaluate, bench, health):
        app.command(command.__name__)(command)


def infer(  # noqa: PLR0917 - typer reads the options from the parameters
    images: Annotated[
        list[Path],
        typer.Argument(help="JPEG or PNG files of any size.", exists=True, dir_okay=False, readable=True),
    ],
    model: options.ModelOption,
    url: options.UrlOption = options.DEFAULT_URL,
    version: options.VersionOption = "",
    confidence_threshold: options.ThresholdOption = None,
    max_flops: options.MaxFlopsOption = None,
    policy: options.PolicyOption = None,
    mode: options.ModeOption = None,
    timeout_s: options.TimeoutOption = 60.0,
    tls_authority: options.AuthorityOption = None,
    tls_certificate: options.CertificateOption = None,
    tls_key: options.KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all probabilities.")] = False,
) -> None:
    """Classify image files, and tell which stage answered and what it cost."""
    query = options.read_query(
        model=model,
        version=version,
        confidence_threshold=confidence_threshold,
        max_flops=max_flops,
        policy=policy,
        mode=mode,
    )
    tls = options.read_tls(tls_authority, tls_certificate, tls_key)
    with options.connect(url, timeout_s=timeout_s, tls=tls) as (client,):
        info = client.info(model, version)
        predictions = [(files, _predict(client, query, files)) for files in _chunks(images, info)]
    rows = [row for files, prediction in predictions for row in _rows(files, prediction, info)]
    first = predictions[0][1]
    if as_json:
        head = {"model": first.model_name, "version": first.model_version, "policy": first.policy}
        certified = all(prediction.certified for _, prediction in predictions)
        write_json({**head, "certified": certified, "terms": query.terms, "images": rows}, STANDARD_OUTPUT)
    else:
        _print_rows(rows)


def _chunks(images: Sequence[Path], info: ModelInfo) -> Iterator[Sequence[Path]]:
    size = min(_INFER_CHUNK, info.max_images)
    return (images[start : start + size] for start in range(0, len(images), size))


def _predict(client: Client, query: Query, files: Sequence[Path]) -> Prediction:
    return client.decode(client.raw_infer(query.encode([read_file(file) for file in files], outputs=())))


def _rows(files: Sequence[Path], prediction: Prediction, info: ModelInfo) -> Iterator[dict[str, Any]]:
    columns = zip(
        files,
        required(prediction.label, "label").tolist(),
        required(prediction.confidence, "confidence").tolist(),
        required(prediction.exit_stage, "exit_stage").tolist(),
        required(prediction.exit_reason, "exit_reason"),
        required(prediction.flops, "flops").tolist(),
        required(prediction.probabilities, "probabilities").tolist(),
        strict=True,
    )
    for file, label, confidence, stage, reason, flops, probabilities in columns:
        yield {
            "path": str(file),
            "label": label,
            "class": info.classes[label],
            "confidence": confidence,
            "exit_stage": stage,
            "exit_reason": reason.name,
            "flops": flops,
            "probabilities": dict(zip(info.classes, probabilities, strict=True)),
        }


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    head = ("path", "class", "confidence", "stage", "reason", "FLOPs")
    body = [
        (
            row["path"],
            row["class"],
            f"{row['confidence']:.4f}",
            str(row["exit_stage"]),
            row["exit_reason"],
            format_flops(row["flops"]),
        )
        for row in rows
    ]
    print_table([head, *body])


def health(  # noqa: PLR0917 - typer reads the options from the parameters
    url: options.UrlOption = options.DEFAULT_URL,
    model: Annotated[
        str, typer.Option("--model", metavar="CASCADE", help="One cascade.", show_default="the whole server")
    ] = "",
    wait_s: Annotated[
        float, typer.Option("--wait", metavar="S", min=0, max=86_400, help="Seconds to wait until it serves.")
    ] = 0.0,
    timeout_s: options.TimeoutOption = 5.0,
    tls_authority: options.AuthorityOption = None,
    tls_certificate: options.CertificateOption = None,
    tls_key: options.KeyOption = None,
) -> None:
    """Ask the standard health service: prints the status, and exits with 0 if SERVING, else with 1."""
    tls = options.read_tls(tls_authority, tls_certificate, tls_key)
    with options.connect(url, timeout_s=timeout_s, tls=tls) as (client,):
        if wait_s > 0:
            client.wait_until_serving(model, timeout_s=wait_s)
        status = client.health(model)
    typer.echo(status)
    if status != "SERVING":
        raise typer.Exit(1)
