"""The pipeline from an uploaded file to a stored case: decoding, model, store."""

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from sqlalchemy.exc import OperationalError

from misgiving.deferral.decisions import Decision
from misgiving.deferral.deferral import Deferral
from misgiving.errors import DataError
from misgiving.manifests import sha256_of
from misgiving.serve.case_images import (
    ImageFiles,
    ModelInput,
    ModelInputs,
    RecentImages,
    image_failures,
)
from misgiving.serve.decode_limits import MemoryBudget
from misgiving.serve.drift_tracker import DriftTracker
from misgiving.serve.problems import Metrics, problem_of
from misgiving.serve.schemas import Case
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store
from misgiving.serve.uploads import Admission, Upload
from misgiving.serve.workers import Batcher, WorkerPool

COMMIT_SIZE = 256  # cases in one transaction
CHECK_SECONDS = 5.0
CHECK_VALID_SECONDS = 1.0  # for which a good result holds, because anyone may ask
CLOSING_SECONDS = 10.0  # in which each thread ends, unless it hangs
MAX_DECODING_SECONDS = 30.0  # many times what any image within the limits takes


@runtime_checkable
class Model(Protocol):
    """A thread-safe model, such as `misgiving.bundle.bundle.Bundle`."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def deferral(self) -> Deferral | None: ...
    @property
    def card(self) -> Mapping[str, Any]: ...
    @property
    def fingerprint(self) -> str: ...

    def model_input(self, data: bytes, name: str) -> ModelInput:
        """Decode and preprocess a file; raises DataError if it cannot be read."""

    def decide_inputs(self, inputs: ModelInputs) -> Sequence[Decision]:
        """One decision for each image."""


class Service:
    """The model, the store, and the threads between them."""

    def __init__(self, model: Model, store: Store, settings: Settings) -> None:
        self.model, self.store, self.settings = model, store, settings
        self.metrics = Metrics()
        self.policy_fingerprint, self.drift = None, None
        if model.deferral is not None:
            self.policy_fingerprint = model.deferral.fingerprint
            self.drift = DriftTracker(model.deferral, store)
            self.drift.start(partial(problem_of, metrics=self.metrics, path="/drift"))
        self.admission = Admission(settings)
        self.recent = RecentImages(settings.recent_bytes)
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

    async def decide(self, upload: Upload) -> tuple[Case, bool]:
        """Decide about one file, and commit the case before it is returned.

        Returns:
            The case, and True if the file was decided before: it is then its earlier case.

        Raises:
            DataError: The file cannot be read.
            ImageNotStoredError: Its image cannot be stored.
            SQLAlchemyError: The case cannot be stored.
        """
        if upload.data is None:
            raise DataError(
                f"{upload.name}: more than {self.settings.max_bytes} bytes; scale it down"
            )
        model_input, sha256 = await self.workers.run(
            lambda data: (self._model_input(upload.name, data), sha256_of(data)), upload.data
        )
        decision = await self._model_batches.result(model_input)
        case = self._case(upload, sha256, decision)
        if self.files is not None:
            await self.workers.run(partial(self.files.write, sha256), upload.data)
        stored = await self._store_batches.result(case)
        self.recent.put(stored.id, model_input)
        is_earlier = stored.id != case.id
        if upload.place is None and not is_earlier:
            self.metrics.decisions.labels(case.decision).inc()
            if self.drift is not None:
                self.drift.notice()
        return stored, is_earlier

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
                with image_failures():
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

    def _case(self, upload: Upload, sha256: str, decision: Decision) -> Case:
        return Case.model_validate(
            {
                **decision._asdict(),
                "probability": decision.probability,
                "id": self._new_id(),
                "received": datetime.now(UTC),
                "name": upload.name,
                "sha256": sha256,
                "model_fingerprint": self.model.fingerprint,
                "policy_fingerprint": self.policy_fingerprint,
                "image_kept": self.files is not None,
                "place": upload.place,
                "remark": upload.remark,
            }
        )

    def _new_id(self) -> str:
        """An id that increases with time, even within a clock tick, and cannot be guessed."""
        microseconds = time.time_ns() // 1000
        return f"{microseconds:014x}{next(self._numbers) % 2**16:04x}{secrets.token_hex(7)}"
