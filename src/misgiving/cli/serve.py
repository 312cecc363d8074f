"""`misgiving serve`: a trained model behind a web page and an API."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from misgiving.cli.options import command
from misgiving.cli.progress import say

if TYPE_CHECKING:
    from misgiving.bundle.bundle import Bundle
    from misgiving.serve import Settings

KEY = "MISGIVING_API_KEY"
LIMITS = "Limits"


@command
def serve(
    model: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_BUNDLE", help="A folder that `train` or `export` wrote."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than this machine's needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            envvar="MISGIVING_STORE",
            help="Where cases are kept: an SQLite file, or postgresql://USER@HOST/DATABASE. "
            "Default: RUN_OR_BUNDLE.cases.sqlite, beside the folder.",
        ),
    ] = None,
    keep_images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep image files there. Default: they are not kept."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Holds the key that clients must send. Or set {KEY}."),
    ] = None,
    max_bytes: Annotated[
        int, typer.Option(help="Of one file.", rich_help_panel=LIMITS)
    ] = 20_000_000,
    max_pixels: Annotated[
        int,
        typer.Option(
            help="Of one image. Decoding takes up to 30 bytes for each; images wait for memory.",
            rich_help_panel=LIMITS,
        ),
    ] = 50_000_000,
    max_files: Annotated[int, typer.Option(help="In one request.", rich_help_panel=LIMITS)] = 100,
    queue: Annotated[
        int, typer.Option(help="Images that may wait for their answer.", rich_help_panel=LIMITS)
    ] = 256,
    timeout: Annotated[
        float, typer.Option(help="Seconds for one request.", rich_help_panel=LIMITS)
    ] = 30.0,
    threads: Annotated[
        int | None,
        typer.Option(
            help="That decode images, and of the model. Default: one for each core.",
            rich_help_panel="Machine",
        ),
    ] = None,
    log_names: Annotated[
        bool, typer.Option("--log-names", help="Log what files are called, too.")
    ] = False,
) -> None:
    """Serve a model: drop images on a page, get decisions, and work through what was deferred.

    The API is described at /openapi.json. Without a key only this machine is answered. Every
    answered image is a case in the store before its answer goes out. Not a medical device.
    """
    from misgiving.serve import Settings
    from misgiving.serve.server import listen, read_key

    settings = Settings(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_files=max_files,
        queue=queue,
        timeout=timeout,
        threads=os.cpu_count() or 1 if threads is None else threads,
        keep_images=keep_images,
        api_key=read_key(api_key_file, os.environ.get(KEY)),
        log_names=log_names,
    )
    with (
        listen(host, port, has_key=settings.api_key is not None) as listener,
        _bundle(model, settings.threads) as bundle,
    ):
        _serve(bundle, store or _beside(model), settings, listener)


@contextmanager
def _bundle(model: Path, threads: int) -> Iterator["Bundle"]:
    """The bundle; that of a run is made for as long as it is served."""
    from misgiving.bundle.bundle import Bundle, is_bundle_not_run

    with TemporaryDirectory(prefix="misgiving-") as folder:
        if is_bundle_not_run(model):
            yield Bundle.load(model, threads=threads)
            return
        from misgiving.workflows.export import export_run

        export_run(model, Path(folder) / "bundle", overwrite=False)
        yield Bundle.load(Path(folder) / "bundle", threads=threads)


def _beside(model: Path) -> str:
    whole = model.absolute()
    return str(whole.with_name(f"{whole.name}.cases.sqlite"))


def _what_is_kept(place: str, images: Path | None) -> str:
    """Nothing of a database's address is told, which may hold a password."""
    cases = "the database" if "://" in place else place
    if images is None:
        return f"cases are kept in {cases}; images only until this stops (--keep-images keeps them)"
    return f"cases are kept in {cases}, images in {images}"


def _serve(bundle: "Bundle", place: str, settings: "Settings", listener: socket) -> None:
    from misgiving.serve import Store, create_app
    from misgiving.serve.server import address, run

    app = create_app(bundle, Store.open(place), settings)
    say(f"serving on {address(listener)}; Ctrl-C stops. Not a medical device")
    say(_what_is_kept(place, settings.keep_images))
    try:
        run(app, listener, settings)
    except KeyboardInterrupt:  # uvicorn has stopped in order, and passes the signal on
        say("stopped")
