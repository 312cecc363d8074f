"""The pipeline from a file to a stored case: decoding, model, image file, store."""

import asyncio
import hashlib
import io
import itertools
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import sqlalchemy as sa
from fastapi import Depends, Query, Request
from PIL import Image
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from misgiving.bundle.bundle import Bundle, SquareInputs
from misgiving.data.decoding import READ_ONLY
from misgiving.deferral.decisions import Decision
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.hash_key import hashed
from misgiving.serve.audits import audit_of
from misgiving.serve.batcher import Batcher, Repetition
from misgiving.serve.case import ANY_READER, CASES, READER_NAME, Case, StorableText, zulu
from misgiving.serve.decoders import INSTANCE, Decoders
from misgiving.serve.deletion import check_folder, delete_cases
from misgiving.serve.found_wrong import FoundWrongRecord
from misgiving.serve.kept_images import KeptImages, image_failures
from misgiving.serve.keys import Key
from misgiving.serve.middleware import KEY_SCOPE
from misgiving.serve.monitor import Monitor, audit_draw
from misgiving.serve.problems import Metrics, problem_of
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store
from misgiving.serve.store_check import check_store

log = logging.getLogger("misgiving.serve")

COMMIT_SIZE = 256  # cases in one transaction
IDLE_SECONDS, UPDATE_SECONDS = 20.0, 2.0  # between updates: without new cases, and with
DELETION_SECONDS = 3600.0  # between deletions
CHECK_SECONDS = 15.0  # longer than one image can keep that of a check waiting
ANSWER_SECONDS = 0.8  # for which a request waits for the check
CHECK_STORE_SECONDS = 5.0
PAUSE_SECONDS = 3.0  # between two checks of the store
CHECKED = Decision.model_construct(
    **dict.fromkeys(Decision.model_fields)
    | {"predicted_class": "", "probabilities": {}, "decision": "defer", "reason": ""}
)
CHECK_VALID_SECONDS = 3.0  # for which a good result holds, because anyone may ask
CLOSING_SECONDS = 30.0  # in which all threads end, even on a busy machine, unless one hangs

AnyDecision = TypeVar("AnyDecision", bound=Decision)


def _call(works: Sequence[Callable[[], Any]]) -> Sequence[Any]:
    return [work() for work in works]


class Service:
    """The model, the store, and the threads between them."""

    def __init__(self, model: Bundle, store: Store, settings: ServiceSettings) -> None:
        self.model, self.store, self.settings = model, store, settings
        if unknown := [*settings.class_names.keys() - {*model.classes}]:
            raise UsageError(
                Parameter("class_names"),
                f" has {unknown[0]!r}, which is no class of the model: {', '.join(model.classes)}",
            )
        self.metrics, self.found_wrong = Metrics(), FoundWrongRecord(store)
        self.policy_fingerprint, self.monitor = None, None
        self.audits = audit_of(store, model.policy, settings)
        self.audit_draw = audit_draw(store, self.audits, settings)
        if model.policy is not None:
            self.policy_fingerprint = model.policy.fingerprint
            self.monitor = Monitor(store, model.policy, settings, self.audits)
        if self.audit_draw is None and settings.look_again:
            needed = Parameter("audit_share")
            raise UsageError(Parameter("look_again"), " needs audits: give ", needed, ", too")
        self.recent: OrderedDict[str, SquareInputs] = OrderedDict()  # by the id of the case
        self.files = None if settings.keep_images is None else KeptImages(settings.keep_images)
        self._repetitions = list[Repetition]()
        if self.monitor is not None:
            pauses = IDLE_SECONDS, UPDATE_SECONDS
            self._repeat("monitor", self.monitor.update, self.monitor.has_new, *pauses)
        if settings.keep_days is not None:
            check_folder(store, self.files, sa.true())
            self._repeat("retention", self._delete_old, threading.Event(), DELETION_SECONDS)
        self._numbers = itertools.count()
        self.decoders = Decoders(model.preprocessings, settings)
        self._file_threads = Batcher("files", _call, threads=settings.threads)
        self._model_batches = Batcher("model", self._decide, size=settings.batch_size)
        add = partial(store.add, draw=self.audit_draw.draw) if self.audit_draw else store.add
        self._store_batches = Batcher("store", add, size=COMMIT_SIZE, not_retried=OperationalError)
        self._check_thread = Batcher("health", _call)
        self._check: asyncio.Task[None] | None = None
        self._checked_at = self._check_began = 0.0

    async def decide(
        self,
        name: str,
        data: bytes,
        *,
        client: str = "",
        group: str | None = None,
        value: str | None = None,
        metadata: dict[str, Any] | None = None,
        sent_by: str | None = None,
        place: int | None = None,
        remark: str | None = None,
    ) -> tuple[Case, bool]:
        """Decide about one file, and commit the case before it is returned.

        Args:
            name: As given by the sender; of a DICOM file, its UID is taken.
            data: The content of the file.
            client: The sender, with whom others share the processes that decode.
            group: Lesion or patient that the image shows; of a DICOM file, else the hash of a tag.
            value: Of the policy's column, which chooses the threshold.
            metadata: Shown beside it.
            sent_by: Name of the key of the sender.
            place: In a list of images, from 1; None for a file that a client sends.
            remark: Text of the list on the image.

        Returns:
            The case, and True if the file was decided before: it is then its earlier case.

        Raises:
            DataError: The file cannot be read.
            ImageNotStoredError: Its image cannot be stored.
            SQLAlchemyError: The case cannot be stored.
        """
        if len(data) > self.settings.max_bytes:
            raise DataError(f"{name}: more than {self.settings.max_bytes} bytes; scale it down")
        self.store.check_available()  # else its image would be kept without a case
        inputs, sha256, copy, tags = await self.decoders.decode(name, data, client)
        name = tags.pop(INSTANCE, "") or name
        group = group or hashed(tags.pop(self.model.preprocessing.group_tag, "")) or None
        metadata = {**tags, **(metadata or {})} or None
        pixels = hashlib.sha256(b"".join(map(bytes, inputs))).hexdigest()
        decision = await self._model_batches.result((inputs, value))
        given = {"group": group, "value": value, "metadata": metadata, "sent_by": sent_by}
        listed = {"place": place, "remark": remark, "image_kept": self.files is not None}
        case = self._case(name, decision, sha256, pixels=pixels, **given, **listed)
        if self.files is not None:
            await self._file_threads.result(partial(self.files.write, sha256, copy))
        stored = await self._store_batches.result(case)
        if self.files is not None and not self.files.path(sha256).exists():
            # another case of this file was deleted in between
            await self._file_threads.result(partial(self.files.write, sha256, copy))
        self._keep_recent(stored.id, inputs)
        is_earlier = stored.id != case.id
        if place is None and not is_earlier:
            self.metrics.decisions.labels(case.decision).inc()
            if self.monitor is not None:
                self.monitor.has_new.set()
        told = stored.as_told()  # an earlier case of the same batch is as it was decided
        return self._after_alarm(told) if is_earlier else told, is_earlier

    def _case(self, name: str, decision: Decision, sha256: str, **values: Any) -> Case:
        return Case(
            id=self._new_id(),
            received=datetime.now(UTC),
            name=name,
            **vars(decision),
            sha256=sha256,
            model_fingerprint=self.model.fingerprint,
            policy_fingerprint=self.policy_fingerprint,
            shadow=self.settings.shadow,
            **values,
        )

    def _keep_recent(self, id: str, inputs: SquareInputs) -> None:
        """Keep model inputs, always of the same sizes, and drop the oldest beyond the limit."""
        self.recent[id] = inputs
        self.recent.move_to_end(id)  # the same file, sent again
        size = sum(square.nbytes for square in inputs)
        while len(self.recent) * size > self.settings.recent_bytes:
            self.recent.popitem(last=False)

    async def model_inputs(self, case: Case, client: str) -> SquareInputs | None:
        """The image of a case as the models see it, if it is still available."""
        recent, path = self.recent.get(case.id), self.image(case)
        if recent is not None or path is None:
            return recent
        inputs, *_ = await self.decoders.decode(case.name, path, client)
        self._keep_recent(case.id, inputs)
        return inputs

    def image(self, case: Case) -> Path | None:
        """The file of a case, if it was kept and is still there."""
        if self.files is None or not case.image_kept:
            return None
        path = self.files.path(case.sha256)
        return path if path.is_file() else None

    async def check(self) -> Literal["ok", "busy"]:
        """Check that an image could be decided and stored now, once for all who ask.

        It is `busy` while the image of the check waits for those of others.

        Raises:
            DataError: The image of the check cannot be decoded.
            ImageNotStoredError: There is no room for an image file.
            SQLAlchemyError: The database stores nothing.
            TimeoutError: One of them does not respond any more.
        """
        now = time.monotonic()
        is_old = now > self._checked_at + CHECK_VALID_SECONDS
        if self._check is None or (self._check.done() and is_old):
            self._check, self._check_began = asyncio.create_task(self._check_all()), now
        if (await asyncio.wait([self._check], timeout=ANSWER_SECONDS))[0]:
            self._check.result()
            return "ok"
        if time.monotonic() > self._check_began + CHECK_SECONDS:
            raise TimeoutError
        return "busy"

    async def _check_all(self) -> None:
        await self._check_store()
        if self.files is not None:
            with image_failures():
                room = partial(self.files.check, self.settings.max_bytes)
                await self._check_thread.result(room)
        writable = min(self.settings.formats, key=READ_ONLY.__contains__)
        Image.new("RGB", (8, 8)).save(image := io.BytesIO(), writable)
        inputs, *_ = await self.decoders.decode("check", image.getvalue(), "")
        await self._model_batches.result((inputs, None))
        self._checked_at = time.monotonic()

    async def _check_store(self) -> None:
        """Check the store, which accepts nothing from a failure until a check succeeds."""
        case = self._case("check", CHECKED, "", image_kept=False, place=1)
        try:
            async with asyncio.timeout(CHECK_STORE_SECONDS):
                await self._check_thread.result(partial(check_store, self.store, case))
            self.store.failure = None
        except Exception as failure:
            is_sql = isinstance(failure, SQLAlchemyError)
            self.store.failure = failure if is_sql else OperationalError("check", None, failure)
            raise

    async def watch_store(self) -> None:
        """Check the store every few seconds, until this is cancelled."""
        while True:
            try:
                await self._check_store()
            except Exception as failure:
                problem_of(self.store.failure or failure, self.metrics, path="store")
            await asyncio.sleep(PAUSE_SECONDS)

    def close(self) -> None:
        """Finish the work that has started, then close the store that it uses."""
        deadline = time.monotonic() + CLOSING_SECONDS
        batchers = self._model_batches, self._file_threads, self._store_batches, self._check_thread
        threads: list[Repetition | Batcher[Any, Any]] = [*self._repetitions, *batchers]
        for each in threads:
            each.close(max(0.0, deadline - time.monotonic()))
        self.store.close()

    def _repeat(self, name: str, work: Callable[[], object], *rests: Any) -> None:
        failed = partial(problem_of, metrics=self.metrics, path=name)
        self._repetitions.append(Repetition(name, work, failed, *rests))

    def _delete_old(self) -> None:
        """Delete the cases whose days are over, but those that somebody must still look at."""
        days = timedelta(days=self.settings.keep_days or 0.0)
        is_old = CASES.c.received < zulu(datetime.now(UTC) - days)
        done = delete_cases(self.store, self.files, is_old, sparing=True)
        log.info("deletion", extra={"fields": done._asdict()})
        self.metrics.kept_too_long.labels("blind").set(done.blind)
        self.metrics.kept_too_long.labels("untold").set(done.untold)

    @property
    def column(self) -> str:
        """The column of which each value has a threshold; empty: the sender need give none."""
        policy = self.model.policy
        return "" if policy is None else policy.certificate.targets.given_column

    def _decide(self, items: Sequence[tuple[SquareInputs, str | None]]) -> Sequence[Decision]:
        self.metrics.batch_sizes.observe(len(items))
        squares = map(np.stack, zip(*(inputs for inputs, _ in items), strict=True))
        columns = {self.column: [value or "" for _, value in items]}
        decisions = self.model.decide_inputs(*squares, columns=columns)
        return [self._after_alarm(decision) for decision in decisions]

    def _after_alarm(self, decision: AnyDecision) -> AnyDecision:
        """The decision, old or new, deferred if all must be."""
        changed = {} if self.monitor is None else self.monitor.changed_by_alarm()
        return decision.model_copy(update=changed) if changed else decision

    def _new_id(self) -> str:
        """An id that increases with time, even within a clock tick, and cannot be guessed."""
        microseconds = time.time_ns() // 1000
        return f"{microseconds:014x}{next(self._numbers) % 2**16:04x}{secrets.token_hex(7)}"


def client_of(request: Request) -> str:
    """The client that shares with others: a key, or without keys an address."""
    if key := key_of(request):
        return f"key {key.number}"
    return request.client.host if request.client else ""


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def key_of(request: Request) -> Key | None:
    """The key that was sent; None where there are no keys."""
    return request.scope.get(KEY_SCOPE)


def reader_of(
    request: Request,
    reader: Annotated[StorableText, Query(max_length=200, description=READER_NAME)] = "",
) -> str:
    """The reader whose key was sent, or without keys the name that was given.

    Whoever has another key and gives no name sees what any reader has answered.
    """
    key = key_of(request)
    if key is None:
        return reader.strip()
    return key.name if key.role == "read" else reader.strip() or ANY_READER


ServiceDep = Annotated[Service, Depends(_service_of)]
"""The service as a parameter of a route."""
ReaderDep = Annotated[str, Depends(reader_of)]
