"""The pipeline from an uploaded file to a stored case: decoding, model, image file, store."""

import asyncio
import itertools
import math
import os
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, Request
from jaxtyping import UInt8
from sqlalchemy.exc import OperationalError

from misgiving.bundle.bundle import Bundle
from misgiving.deferral.decisions import Decision
from misgiving.errors import DataError, UsageError
from misgiving.files import force_to_disk, whole_file
from misgiving.manifests import sha256_of
from misgiving.serve.decode_limits import MemoryBudget
from misgiving.serve.drift_tracker import DriftTracker
from misgiving.serve.problems import ImageNotStoredError, Metrics, problem_of
from misgiving.serve.schemas import Case
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store
from misgiving.serve.uploads import Admission
from misgiving.serve.workers import Batcher, WorkerPool

ModelInput = UInt8[np.ndarray, "size size 3"]

COMMIT_SIZE = 256  # cases in one transaction
CHECK_SECONDS = 5.0
CHECK_VALID_SECONDS = 1.0  # for which a good result holds, because anyone may ask
CLOSING_SECONDS = 10.0  # in which each thread ends, unless it hangs
MAX_DECODING_SECONDS = 30.0  # many times what any image within the limits takes


@contextmanager
def _image_failures() -> Iterator[None]:
    """Raise ImageNotStoredError from failures of the disk."""
    try:
        yield
    except (OSError, UsageError) as failure:
        raise ImageNotStoredError from failure


class ImageFiles:
    """Image files named by the hash of their content, never by the name that the sender gave."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @_image_failures()
    def write(self, sha256: str, data: bytes) -> None:
        """Store a file durably; equal files are stored once.

        Raises:
            ImageNotStoredError: There is no room for it, or no permission.
        """
        path = self._path(sha256)
        for folder in (self._folder, path.parent):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                force_to_disk(folder.parent)
        if not path.exists():
            with whole_file(path, mode=0o600) as partial:
                partial.write_bytes(data)
                force_to_disk(partial)
        force_to_disk(path.parent)

    def check(self, size: int) -> None:
        """Raise OSError where there is no room for a file of this size."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=self._folder) as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))
                file.flush()

    def read(self, sha256: str) -> bytes | None:
        """The content of a file, or None if there is none."""
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


class Service:
    """The model, the store, and the threads between them."""

    def __init__(self, model: Bundle, store: Store, settings: Settings) -> None:
        self.model, self.store, self.settings = model, store, settings
        self.metrics = Metrics()
        self.policy_fingerprint, self.drift = None, None
        if model.deferral is not None:
            self.policy_fingerprint = model.deferral.fingerprint
            self.drift = DriftTracker(model.deferral, store)
            self.drift.start(partial(problem_of, metrics=self.metrics, path="/drift"))
        self.admission = Admission(settings)
        self.recent: OrderedDict[str, ModelInput] = OrderedDict()  # by the id of the case
        self.files = None if settings.keep_images is None else ImageFiles(settings.keep_images)
        self._numbers = itertools.count()
        self._memory = MemoryBudget(settings.max_decoded_bytes)
        overdue = max(MAX_DECODING_SECONDS, settings.timeout)
        self.workers = WorkerPool(settings.threads, overdue=overdue)
        self._model_batches = Batcher(
            "model", self._predict, size=settings.batch_size, linger=settings.linger
        )
        self._store_batches = Batcher(
            "store", store.add, size=COMMIT_SIZE, not_retried=OperationalError
        )
        self._checked_at = -math.inf
        self._checks = Batcher("health", self._check, size=COMMIT_SIZE, not_retried=Exception)
        self.metrics.waiting.set_function(lambda: self.admission.images)
        self.metrics.held_bytes.set_function(lambda: self.admission.held_bytes)
        self.metrics.hung_threads.set_function(lambda: self.workers.hung)

    async def decide(
        self, name: str, data: bytes | None, *, place: int | None = None, remark: str | None = None
    ) -> tuple[Case, bool]:
        """Decide about one file, and commit the case before it is returned.

        Args:
            name: As given by the sender.
            data: The content of the file; None if it exceeds the limit for one file.
            place: In a list of images, from 1; None for a file that a client sends.
            remark: Text of the list on the image.

        Returns:
            The case, and True if the file was decided before: it is then its earlier case.

        Raises:
            DataError: The file cannot be read.
            ImageNotStoredError: Its image cannot be stored.
            SQLAlchemyError: The case cannot be stored.
        """
        if data is None or len(data) > self.settings.max_bytes:
            raise DataError(f"{name}: more than {self.settings.max_bytes} bytes; scale it down")
        model_input, sha256 = await self.workers.run(
            lambda data: (self._model_input(name, data), sha256_of(data)), data
        )
        decision = await self._model_batches.result(model_input)
        case = self._case(decision, name=name, sha256=sha256, place=place, remark=remark)
        if self.files is not None:
            await self.workers.run(partial(self.files.write, sha256), data)
        stored = await self._store_batches.result(case)
        self._keep_recent(stored.id, model_input)
        is_earlier = stored.id != case.id
        if place is None and not is_earlier:
            self.metrics.decisions.labels(case.decision).inc()
            if self.drift is not None:
                self.drift.notice()
        return stored, is_earlier

    def _keep_recent(self, id: str, model_input: ModelInput) -> None:
        """Keep a model input, all of which have one size, and drop the oldest beyond the limit."""
        self.recent[id] = model_input
        self.recent.move_to_end(id)  # the same file, sent again
        while len(self.recent) * model_input.nbytes > self.settings.recent_bytes:
            self.recent.popitem(last=False)

    async def model_input(self, case: Case) -> ModelInput | None:
        """The image of a case as this model sees it, if it is still available."""
        recent = self.recent.get(case.id)
        if recent is not None:
            return recent

        def decode() -> ModelInput | None:
            data = self.image(case)
            return None if data is None else self._model_input(case.name, data)

        return await self.workers.run(decode)  # in the pool, which bounds the open images

    def image(self, case: Case) -> bytes | None:
        """The file of a case, if files are kept."""
        return self.files.read(case.sha256) if self.files and case.image_kept else None

    async def check(self) -> None:
        """Check that a case could be stored, in a thread of its own, once for all who wait.

        Raises:
            ImageNotStoredError: There is no room for an image file.
            SQLAlchemyError: The database stores nothing.
            TimeoutError: It does not respond in time.
        """
        async with asyncio.timeout(CHECK_SECONDS):
            await self._checks.result(None)

    def _check(self, waiting: Sequence[None]) -> Sequence[None]:
        if time.monotonic() > self._checked_at + CHECK_VALID_SECONDS:
            self.store.ping()
            if self.files is not None:
                with _image_failures():
                    self.files.check(self.settings.max_bytes)
            self._checked_at = time.monotonic()
        return waiting

    @property
    def alive(self) -> bool:
        """True while all threads can work."""
        return self._model_batches.alive and self._store_batches.alive and self.workers.alive

    def close(self) -> None:
        """Finish the work that has started, and close the store."""
        if self.drift is not None:
            self.drift.close(CLOSING_SECONDS)
        for threads in (self.workers, self._model_batches, self._store_batches, self._checks):
            threads.close(CLOSING_SECONDS)
        self.store.close()

    def _model_input(self, name: str, data: bytes) -> ModelInput:
        with self._memory.reserve_decoding(data, name, self.settings.max_pixels):
            return self.model.model_input(data, name)

    def _predict(self, inputs: Sequence[ModelInput]) -> Sequence[Decision]:
        self.metrics.batch_sizes.observe(len(inputs))
        return self.model.decide_inputs(np.stack(inputs))

    def _case(self, decision: Decision, **of_file: Any) -> Case:
        return Case.model_validate(
            {
                **decision._asdict(),
                **of_file,
                "probability": decision.probability,
                "id": self._new_id(),
                "received": datetime.now(UTC),
                "model_fingerprint": self.model.fingerprint,
                "policy_fingerprint": self.policy_fingerprint,
                "image_kept": self.files is not None,
            }
        )

    def _new_id(self) -> str:
        """An id that increases with time, even within a clock tick, and cannot be guessed."""
        microseconds = time.time_ns() // 1000
        return f"{microseconds:014x}{next(self._numbers) % 2**16:04x}{secrets.token_hex(7)}"


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service_of)]
"""The service as a parameter of a route."""
