"""`misgiving serve`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from misgiving.cli.options import Fields, File, OpinionOfRun, Values, check_options, command
from misgiving.cli.progress import Bar, progress_bars, say, say_skipped
from misgiving.cli.sources import named_places
from misgiving.serve.settings import ServiceSettings

if TYPE_CHECKING:
    from misgiving.bundle.bundle import Bundle
    from misgiving.serve.service import Service

SERVICE_OPTIONS = (
    *("max_bytes", "max_pixels", "formats", "max_files", "queue", "timeout", "threads"),
    *("keep_images", "keep_days", "audit_share", "shadow", "audit_days", "after_alarm"),
    *("look_again", "reviews", "class_names"),
)


@command
def serve(
    model: Path,
    /,
    *,
    settings: Annotated[Values, Fields(ServiceSettings, SERVICE_OPTIONS)],
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 8000,
    store: Annotated[str | None, Parameter(env_var="MISGIVING_STORE")] = None,
    second_opinion: OpinionOfRun = None,
    cases: File | None = None,
) -> None:
    """Serve a model: upload images to a page, get decisions, and review what was deferred.

    The API is described at /openapi.json. Without keys (see `misgiving keys`), only this machine
    can connect. Every image is stored as a case before its decision is returned. Not a medical
    device.

    Args:
        model: A folder that `train` or `export` wrote.
        host: Address to listen on; other machines can connect only once there are keys.
        port: Port to listen on; 0 for any free one.
        store: Database of cases: an SQLite file, or postgresql://USER@HOST/DATABASE.
            Default: RUN_OR_BUNDLE.cases.sqlite, beside the folder.
        cases: Decide on the images of a list that `data check` or `predict` wrote, and
            show them in its order.
    """
    from misgiving.hash_key import hashed
    from misgiving.serve.app import address, create_app, listen, run
    from misgiving.serve.database import shown
    from misgiving.serve.kept_images import KeptImages
    from misgiving.serve.listed_cases import add_listed_cases, read_review_list
    from misgiving.serve.store import Store
    from misgiving.training.allocator import return_freed_memory

    limits = ServiceSettings(**settings)
    if "DICOM" in limits.formats:
        hashed("any")  # makes the key, or fails, before the first patient
    rows = [] if cases is None else read_review_list(cases)
    whole = model.absolute()
    location = store or str(whole.with_name(f"{whole.name}.cases.sqlite"))
    with (
        listen(host, port, location=location) as listener,
        _bundle(model, second_opinion, limits.threads) as bundle,
    ):
        return_freed_memory()  # before there are threads
        if limits.keep_images is not None:
            KeptImages(limits.keep_images).check(1)
        app = create_app(bundle, Store.open(location), limits)
        if rows:
            with progress_bars() as progress:
                bar = Bar(progress, "deciding")
                say_skipped(add_listed_cases(app.state.service, rows, bar.at))
            say(f"{len(rows)} listed images: {address(listener)}/#order=listed")
        say(f"serving on {address(listener)}; Ctrl-C stops. Not a medical device")
        images = limits.keep_images or "memory until this stops (--keep-images keeps them)"
        say(f"cases are kept in {shown(location)}, images in {images}")
        _say_policy(app.state.service)
        try:
            run(app, listener)
        except KeyboardInterrupt:  # uvicorn has shut down in order, and passes the signal on
            say("stopped")


def _say_policy(service: "Service") -> None:
    """Say what decides, which share is audited, and what earlier policies left to be read."""
    policy = service.policy_fingerprint
    say(f"model {service.model.fingerprint[:12]}, policy {policy[:12] if policy else 'none'}")
    audits = service.store.audits()
    if service.settings.shadow:
        say("in shadow: everyone is told to defer, and every case is read blind")
    share = audits[policy].share if policy in audits and service.audit_draw else 0
    others = {name: row.share for name, row in audits.items() if name != policy}
    if (share or others) and not service.settings.shadow:
        last = "" if not others else f" ({[*others.values()][-1]:g} under the policy before)"
        say(f"audit share {share:g}{last}; --audit-share 0 turns audits off")
    for name, count in service.store.open_blind_by_policy().items():
        if name != policy:
            short = name[:12] if name else "none"
            say(f"policy {short}: {count} blind cases remain to be read, for its audit")


@contextmanager
def _bundle(model: Path, second_opinion: list[str] | None, threads: int) -> Iterator["Bundle"]:
    """Load a bundle; export a run as a temporary one."""
    from misgiving.bundle.bundle import Bundle, is_bundle

    with TemporaryDirectory(prefix="misgiving-") as folder:
        if is_bundle(model):
            check_options(f"for {model}, a bundle", unused=["second_opinion"])
        else:
            from misgiving.bundle.export_run import export_run

            run, model = model, Path(folder) / "bundle"
            export_run(run, model, opinions=named_places("second_opinion", second_opinion))
        bundle = Bundle.load(model, threads=threads)
        if bundle.policy is not None:  # the service decides on single images
            bundle.policy.check_batch(1)
        yield bundle
