"""The commands that load a running server: ``evaluate`` on labelled images, and ``bench``."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cascade_serve.cli import client_options as options
from cascade_serve.cli.client_output import STANDARD_OUTPUT, print_evaluation, print_load, show_progress, write_json
from cascade_serve.core.interval import INTERVAL_LEVEL
from cascade_serve.errors import CascadeError
from cascade_serve.load import evaluation as evaluating
from cascade_serve.load.generator import LoadConfig, run_load
from cascade_serve.load.report import LoadReport
from cascade_serve.load.traffic import RepeatingCaller, encode_requests, read_bench_images
from model_zoo.image_folder import scan_image_folder

_LOAD = LoadConfig()


def evaluate(  # noqa: PLR0917 - typer reads the options from the parameters
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Labelled images, <class>/<file>.", exists=True, file_okay=False),
    ],
    model: options.ModelOption,
    url: options.UrlOption = options.DEFAULT_URL,
    version: options.VersionOption = "",
    confidence_threshold: options.ThresholdOption = None,
    max_flops: options.MaxFlopsOption = None,
    policy: options.PolicyOption = None,
    mode: options.ModeOption = None,
    images_per_request: options.ImagesPerRequestOption = 16,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="Requests at the same time.")] = 2,
    connections: options.ConnectionsOption = None,
    encoded: options.EncodedOption = False,
    timeout_s: options.TimeoutOption = 60.0,
    tls_authority: options.AuthorityOption = None,
    tls_certificate: options.CertificateOption = None,
    tls_key: options.KeyOption = None,
    json_file: options.JsonOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one line an image as CSV, to compare two runs in pairs."),
    ] = None,
) -> None:
    """Send every image of a labelled folder once: accuracy, FLOPs, exits, latency.

    Classes are matched with the cascade's by name.

    Latency is from sending to the answer, in a closed loop; throughput includes reading and decoding the files here.
    """
    query = options.read_query(
        model=model,
        version=version,
        confidence_threshold=confidence_threshold,
        max_flops=max_flops,
        policy=policy,
        mode=mode,
    )
    images = scan_image_folder(folder)
    tls = options.read_tls(tls_authority, tls_certificate, tls_key)
    num_connections = options.num_connections(connections, concurrency)
    with options.connect(url, timeout_s=timeout_s, tls=tls, connections=num_connections) as clients:
        info = clients[0].info(model, version)
        with show_progress("evaluating", requests=math.ceil(len(images) / images_per_request)) as progress:
            result = evaluating.evaluate(
                options.spread(clients, concurrency),
                query,
                images,
                info,
                images_per_request=images_per_request,
                encoded=encoded,
                progress=progress,
            )
    setting = {"url": url, "data": str(folder), "images_per_request": images_per_request, "encoded": encoded}
    _tell(result, {"model": model, "version": str(info.version), "terms": query.terms, **setting}, json_file)
    if predictions is not None:
        evaluating.write_predictions(predictions, images, info.classes, result.predictions)


def _tell(result: evaluating.Evaluation, setting: dict[str, Any], json_file: Path | None) -> None:
    # Printed first: a file that can't be written must not cost the result.
    if json_file != STANDARD_OUTPUT:
        print_evaluation(result)
    if json_file is not None:
        write_json({**setting, **_evaluation_facts(result)}, json_file)


def _evaluation_facts(result: evaluating.Evaluation) -> dict[str, Any]:
    return {
        "n": result.n,
        "accuracy": result.accuracy,
        "accuracy_interval": result.accuracy_interval,
        "interval_level": INTERVAL_LEVEL,
        "certified_share": result.certified_share,
        "per_class": {name: asdict(accuracy) for name, accuracy in result.per_class.items()},
        **asdict(result.load),
    }


def bench(  # noqa: PLR0917 - typer reads the options from the parameters
    model: options.ModelOption,
    url: options.UrlOption = options.DEFAULT_URL,
    version: options.VersionOption = "",
    confidence_threshold: options.ThresholdOption = None,
    max_flops: options.MaxFlopsOption = None,
    policy: options.PolicyOption = None,
    mode: options.ModeOption = None,
    images_per_request: options.ImagesPerRequestOption = 1,
    concurrency: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Callers; with --rate, the bound on requests in flight, so give it plenty."
        ),
    ] = 8,
    connections: options.ConnectionsOption = None,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds to measure.", show_default="10; no bound where --count is given"),
    ] = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", help="Requests to measure.", show_default="no bound")
    ] = None,
    warm_up_s: Annotated[
        float, typer.Option("--warm-up", metavar="S", help="Seconds to send before measuring.")
    ] = _LOAD.warm_up_s,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            help="Open loop: requests a second, as a Poisson process, each timed from when it was due.",
            show_default="closed loop: each caller sends when its last answer is there",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Take images from this folder, <class>/<file>. Random pixels exit elsewhere than real images do.",
            exists=True,
            file_okay=False,
            show_default="random pixels",
        ),
    ] = None,
    encoded: options.EncodedOption = False,
    seed: Annotated[int, typer.Option(help="Of random pixels, the choice of files, and arrivals.", min=0)] = _LOAD.seed,
    allow_failures: Annotated[
        bool, typer.Option("--allow-failures", help="Exit with 0 though requests failed, as in an overload test.")
    ] = False,
    timeout_s: options.TimeoutOption = 60.0,
    tls_authority: options.AuthorityOption = None,
    tls_certificate: options.CertificateOption = None,
    tls_key: options.KeyOption = None,
    json_file: options.JsonOption = None,
) -> None:
    """Load a cascade and measure latency, throughput, exits and FLOPs.

    In a closed loop a slow server slows its callers down: learn by --rate what users see who come regardless.

    Client and server on one machine share its cores.
    """
    query = options.read_query(
        model=model,
        version=version,
        confidence_threshold=confidence_threshold,
        max_flops=max_flops,
        policy=policy,
        mode=mode,
    )
    if encoded and data is None:
        raise typer.BadParameter("needs --data: random pixels have no file", param_hint="--encoded")
    config = _load_config(seconds=seconds, count=count, warm_up_s=warm_up_s, rate=rate, seed=seed)
    tls = options.read_tls(tls_authority, tls_certificate, tls_key)
    num_connections = options.num_connections(connections, concurrency)
    with options.connect(url, timeout_s=timeout_s, tls=tls, connections=num_connections) as clients:
        info = clients[0].info(model, version)
        images = read_bench_images(data, info.image_shape, images_per_request, encoded=encoded, seed=seed)
        requests = encode_requests(query, images, images_per_request)
        # What every request would be refused for is told at once, and connections are open before the clock runs.
        for client in clients:
            client.raw_infer(requests[0])
        callers = [RepeatingCaller(client, requests) for client in options.spread(clients, concurrency)]
        duration_s = None if config.seconds is None else config.warm_up_s + config.seconds
        with show_progress("loading", requests=count, seconds=duration_s) as progress:
            report = run_load(callers, config, progress=progress)
    setting = {
        "url": url,
        "model": model,
        "version": str(info.version),
        "terms": query.terms,
        "data": "random" if data is None else str(data),
        "encoded": encoded,
        "images_per_request": images_per_request,
        "connections": num_connections,
        **asdict(config),
    }
    _tell_load(report, setting, json_file, allow_failures=allow_failures)


def _load_config(
    *, seconds: float | None, count: int | None, warm_up_s: float, rate: float | None, seed: int
) -> LoadConfig:
    if seconds is None and count is None:
        seconds = _LOAD.seconds
    try:
        return LoadConfig(seconds=seconds, count=count, warm_up_s=warm_up_s, rate=rate, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _tell_load(report: LoadReport, setting: dict[str, Any], json_file: Path | None, *, allow_failures: bool) -> None:
    if json_file != STANDARD_OUTPUT:
        print_load(report)
    if json_file is not None:
        write_json({**setting, **asdict(report)}, json_file)
    if report.failed and not allow_failures:
        total = report.requests + report.failed
        raise CascadeError(f"{report.failed} of {total} requests failed; the first: {report.first_error}")
