"""A bare endpoint for the graph of a bundle, which `service.py` compares with the service.

python benchmarks/bare_endpoint.py BUNDLE: prints its address.
"""

import hashlib
import io
import socket
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from misgiving.predictions.network import GRAPH

app = FastAPI()
session = onnxruntime.InferenceSession(Path(sys.argv[1]) / GRAPH)
name, side = session.get_inputs()[0].name, session.get_inputs()[0].shape[-1]


def _probabilities(data: bytes) -> list[float]:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB").resize((side, side)), dtype=np.float32) / 255
    logits = session.run(None, {name: pixels.transpose(2, 0, 1)[None]})[0][0]
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum()).tolist()


@app.post("/decisions")
async def decide(request: Request) -> dict[str, object]:
    """The probabilities of one image."""
    data = await request.body()
    probabilities = await run_in_threadpool(_probabilities, data)
    case = {"sha256": hashlib.sha256(data).hexdigest(), "probabilities": probabilities}
    return {"results": [{"case": case}]}


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
