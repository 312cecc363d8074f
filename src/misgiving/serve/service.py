"""From an uploaded file to a case on the disk: decoding, the model, and the store, in a row."""

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, cast

import numpy as np
from sqlalchemy.exc import OperationalError

from misgiving.deferral import DeferralPolicy
from misgiving.errors import DataError, UsageError
from misgiving.manifests import sha256_of
from misgiving.serve.admission import Admission
from misgiving.serve.batching import Batcher, singly_after_failure
from misgiving.serve.failures import NotKeptError, note
from misgiving.serve.images import KeptImages, RecentSquares, Square, bytes_wanted
from misgiving.serve.jpeg_guard import refuse_laborious
from misgiving.serve.memory import Budget, bytes_to_open
from misgiving.serve.model import Answer, Model, policy_fingerprint
from misgiving.serve.monitoring import Monitoring
from misgiving.serve.reading import Readers
from misgiving.serve.records import Case, Outcome
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store
from misgiving.serve.uploads import Upload
from misgiving.serve.watch import Watch

COMMITTED_AT_ONCE = 256
LONGEST = 30.0  # seconds in which any image within the limits is decoded, and many times over


class Read(NamedTuple):
    """A file that could be read."""

    square: Square
    sha256: str


class Service:
    """All that answers: the model, the store, and the threads between them."""

    def __init__(self, model: Model, store: Store, settings: Settings) -> None:
        self.model, self.store, self.settings = model, store, settings
        self.policy_fingerprint = policy_fingerprint(model.policy)
        self.watch = _watch(model, store, self.policy_fingerprint)
        self.monitoring = Monitoring()
        self.admission = Admission(settings)
        self.recent = RecentSquares(settings.recent_bytes)
        self.kept = None if settings.keep_images is None else KeptImages(settings.keep_images)
        self._ids = _Ids()
        self._decoding = Budget(settings.max_decoded_bytes)
        self.readers = Readers(settings.threads, overdue=max(LONGEST, settings.timeout))
        self._answering = Batcher(
            "answering",
            singly_after_failure(self._answer),
            size=settings.batch_size,
            linger=settings.linger,
        )
        self._storing = Batcher(
            "storing",
            singly_after_failure(store.add, together=OperationalError),
            size=COMMITTED_AT_ONCE,
        )

    async def decide(self, upload: Upload) -> Case:
        """Answer one file, and keep the case before anyone hears of it.

        Raises:
            DataError: The file cannot be read.
            NotKeptError: Its image cannot be kept.
            SQLAlchemyError: The case cannot be kept.
        """
        if upload.data is None:
            raise DataError(
                f"{upload.name}: more than {self.settings.max_bytes} bytes; scale it down"
            )
        read = await self.readers.run(partial(self._read, upload.name), upload.data)
        answer = await asyncio.wrap_future(self._answering.submit(read.square))
        case = self._case(upload.name, read, answer)
        if self.kept is not None:
            await self.readers.run(partial(self._keep, self.kept, read), upload.data)
        await asyncio.wrap_future(self._storing.submit(case))
        self.recent.put(case.id, read.square)
        self.monitoring.decisions.labels(case.decision).inc()
        return case

    async def square(self, case: Case) -> Square | None:
        """The image of a case as the model saw it, where it is still at hand."""
        recent = self.recent.get(case.id)
        if recent is not None:
            return recent
        # By the readers, so that no more images are open at once.
        return await self.readers.run(partial(self._read_again, case))

    def _read_again(self, case: Case) -> Square | None:
        data = self.image(case)
        return None if data is None else self._square(case.name, data)

    def image(self, case: Case) -> bytes | None:
        """The file of a case, where files are kept."""
        if self.kept is None or not case.image_kept:
            return None
        try:
            return self.kept.read(case.sha256)
        except (OSError, ValueError) as failure:  # as one that is not there
            reason = getattr(failure, "strerror", None) or str(failure)
            note("images", self.monitoring, sha256=case.sha256, reason=reason)
            return None

    @property
    def alive(self) -> bool:
        """Whether images can be answered."""
        return self._answering.alive and self._storing.alive and self.readers.alive

    def close(self) -> None:
        """Finish what has begun, and close the store."""
        self.readers.close()
        self._answering.close()
        self._storing.close()
        self.store.close()

    def _read(self, name: str, data: bytes) -> Read:
        return Read(self._square(name, data), sha256_of(data))

    def _square(self, name: str, data: bytes) -> Square:
        """Decoded when there is memory for it."""
        refuse_laborious(data, name)
        with self._decoding.share(bytes_to_open(data)):
            wanted = bytes_wanted(data, name, self.settings.max_pixels)
        with self._decoding.share(wanted):
            return self.model.square(data, name)

    def _answer(self, squares: Sequence[Square]) -> Sequence[Answer]:
        self.monitoring.batch_sizes.observe(len(squares))
        return self.model.answer_squares(np.stack(squares))

    def _keep(self, images: KeptImages, read: Read, data: bytes) -> None:
        try:
            images.keep(read.sha256, data)
        except (OSError, UsageError) as failure:
            raise NotKeptError from failure

    def _case(self, name: str, read: Read, answer: Answer) -> Case:
        classes = zip(self.model.classes, answer.probabilities, strict=True)
        return Case(
            id=self._ids.next(),
            received=datetime.now(UTC),
            name=name,
            predicted_class=answer.predicted_class,
            probability=_finite(answer.probability),
            probabilities={label: _finite(share) for label, share in classes},
            error_probability=_finite(answer.error_probability),
            expected_loss=_finite(answer.expected_loss),
            predicted_loss=_finite(answer.predicted_loss),
            ood_p_value=_finite(answer.ood_p_value),
            decision=cast(Outcome, answer.decision),
            reason=answer.reason,
            score=_finite(answer.score),
            ood_score=_finite(answer.ood_score),
            sha256=read.sha256,
            model_fingerprint=self.model.fingerprint,
            policy_fingerprint=self.policy_fingerprint,
            image_kept=self.kept is not None,
        )


def _watch(model: Model, store: Store, policy_fingerprint: str | None) -> Watch | None:
    """Tests for drift, where there is a policy that was calibrated."""
    policy = model.policy
    if not isinstance(policy, DeferralPolicy) or policy_fingerprint is None:
        return None
    return Watch(policy, store, policy_fingerprint)


class _Ids:
    """Ids that increase with time, also within the clock's tick, and that nobody can guess."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def next(self) -> str:
        microseconds = time.time_ns() // 1000
        return f"{microseconds:014x}{next(self._count) % 2**16:04x}{secrets.token_hex(7)}"


def _finite(value: float | None) -> float | None:
    """A number that JSON has, or None."""
    return None if value is None or not math.isfinite(value) else float(value)
