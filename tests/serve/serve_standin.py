"""Serve the stand-in: `python serve_standin.py STORE [SETTING=VALUE ...]`; prints its URL."""

import json
import sys
from pathlib import Path

from standin import NO_TIMEOUT, Standin

from misgiving.serve import middleware, server
from misgiving.serve.app import create_app
from misgiving.serve.server import address, listen, run
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store

CONSTANTS = {
    server: ("HEAD_SECONDS", "UNREAD_SECONDS", "MAX_CONNECTIONS", "CLOSED_TOGETHER"),
    middleware: ("IDLE_SECONDS",),
}


def main(place, *options):
    given = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in options)}
    if "keep_images" in given:
        given["keep_images"] = Path(given["keep_images"])
    for module, constants in CONSTANTS.items():
        for constant in constants:
            setattr(module, constant, given.pop(constant.lower(), getattr(module, constant)))
    settings = Settings(**{"threads": 1, "timeout": NO_TIMEOUT} | given)
    listener = listen("127.0.0.1", 0, has_key=False)
    app = create_app(Standin(), Store.open(place), settings)
    print(address(listener), flush=True)
    run(app, listener, settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
