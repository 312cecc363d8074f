"""`/cases/{id}/...`: thumbnail, image file and saliency map of a case."""

import io
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus

import numpy as np
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from jaxtyping import Float
from PIL import Image
from pydantic import BaseModel, Field

from misgiving.data.decoding import FORMATS
from misgiving.serve.image_store import ModelInput, ModelInputs
from misgiving.serve.problems import ProblemError, content, documented
from misgiving.serve.routes import CaseDep, ServiceDep, slot_of
from misgiving.serve.routes.cases import NO_CASE
from misgiving.serve.schemas import Case
from misgiving.serve.service import Model, Service

router = APIRouter(tags=["images"])

CACHED = {"Cache-Control": "private, max-age=86400"}  # the input of one model never changes
BINARY = {"type": "string", "format": "binary"}
SHOWABLE = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp", "image/tiff"}
UNKNOWN = "application/octet-stream"
NO_IMAGE = (
    "this instance does not have the image: it has left the memory, or another instance received "
    "it, and image files are not kept (option keep_images)"
)
CELLS = 8  # along each side: 64 predictions for an image
GREY = 128
MAX_SALIENCY = 2  # maps that are computed at once

_saliency_slots = threading.BoundedSemaphore(MAX_SALIENCY)


class Saliency(BaseModel):
    """Occlusion map of the predicted class."""

    predicted_class: str
    probability: float = Field(description="Of the predicted class, for the whole image.")
    drops: list[list[float]] = Field(
        description="Row by row: the drop in probability when this cell is covered."
    )


@router.get(
    "/cases/{id}/thumbnail",
    responses={**content("image/jpeg", BINARY), **NO_CASE},
    response_class=Response,
)
async def get_thumbnail(service: ServiceDep, case: CaseDep) -> Response:
    """Get the image as the model saw it, if the case is recent or files are kept.

    The image of another model's case is as this model sees it, and must not be cached.
    """
    file = io.BytesIO()
    Image.fromarray(await _model_input(service, case)).save(file, "JPEG", quality=85)
    headers = CACHED if case.model_fingerprint == service.model.fingerprint else None
    return Response(file.getvalue(), media_type="image/jpeg", headers=headers)


@router.get(
    "/cases/{id}/image",
    responses={**content("image/*", BINARY), **NO_CASE},
    response_class=Response,
)
def get_image(service: ServiceDep, case: CaseDep) -> Response:
    """Get the file as it was sent, if files are kept."""
    data = service.image(case)
    if data is None:
        detail = "the file was not kept; the option keep_images keeps files that are sent later"
        raise ProblemError(HTTPStatus.NOT_FOUND, detail)
    kind = _media_type(data)
    disposition = "attachment" if kind == UNKNOWN else "inline"
    return Response(data, media_type=kind, headers={**CACHED, "Content-Disposition": disposition})


async def _model_input(service: Service, case: Case) -> ModelInput:
    model_input = await service.model_input(case)
    if model_input is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, NO_IMAGE)
    return model_input


def _media_type(data: bytes) -> str:
    """The type as which a browser may show a file; it ignores the sender's claims."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            media_type = image.get_format_mimetype()
    except Exception:  # Pillow raises almost anything
        return UNKNOWN
    return media_type if media_type in SHOWABLE else UNKNOWN


@router.get(
    "/cases/{id}/saliency",
    responses={
        **NO_CASE,
        **documented(
            HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS
        ),
    },
)
async def get_saliency(service: ServiceDep, case: CaseDep) -> Saliency:
    """Compute the parts of the image that the predicted class depends on."""
    if case.model_fingerprint != service.model.fingerprint:
        detail = "this case was decided by another model; send the image again"
        raise ProblemError(HTTPStatus.CONFLICT, detail)
    model_input = await _model_input(service, case)
    with slot_of(_saliency_slots, "saliency maps"):
        return await run_in_threadpool(_saliency, service.model, case.predicted_class, model_input)


def _saliency(model: Model, name: str, model_input: ModelInput) -> Saliency:
    def probabilities_of(inputs: ModelInputs) -> Sequence[float]:
        return [decision.probabilities[name] for decision in model.decide_inputs(inputs)]

    (whole,) = probabilities_of(model_input[None])
    drops = occlusion(model_input, whole, probabilities_of)
    if not math.isfinite(float(drops.sum())):
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "the probability of the class is not finite"
        )
    return Saliency(predicted_class=name, probability=whole, drops=drops.tolist())


def occlusion(
    model_input: ModelInput,
    whole: float,
    probabilities_of: Callable[[ModelInputs], Sequence[float]],
    *,
    cells: int = CELLS,
    batch_size: int = 16,
) -> Float[np.ndarray, "cells cells"]:
    """Drop in the probability of a class where a grey patch covers each cell.

    The patch is twice as wide as a cell, so that patches overlap and borders are covered (Zeiler
    and Fergus, 2014). Negative where the class becomes more probable.

    Args:
        model_input: An image as the model sees it.
        whole: The probability of the class for it.
        probabilities_of: The probability of the class for each of some model inputs.
        cells: Number of cells along each side.
        batch_size: Maximum number of model inputs at once.
    """
    spans = [_span(cell, cells, len(model_input)) for cell in range(cells)]
    inputs = np.repeat(model_input[None], cells**2, axis=0)
    for covered, (rows, columns) in zip(inputs, itertools.product(spans, spans), strict=True):
        covered[rows, columns] = GREY
    batches = [inputs[start : start + batch_size] for start in range(0, cells**2, batch_size)]
    probabilities = np.concatenate([probabilities_of(batch) for batch in batches])
    return whole - probabilities.reshape(cells, cells)


def _span(cell: int, cells: int, size: int) -> slice:
    """Pixels of a cell and half a cell on both sides.

    >>> _span(0, 8, 64), _span(3, 8, 64)
    (slice(0, 12, None), slice(20, 36, None))
    """
    start, end = (cell - 0.5) * size / cells, (cell + 1.5) * size / cells
    return slice(max(0, round(start)), round(end))
