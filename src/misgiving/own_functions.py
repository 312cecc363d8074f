"""Functions of the user's own, which an option names as `module:function`."""

import sys
from functools import wraps
from importlib import import_module
from inspect import getsource
from pathlib import Path
from typing import Any

from misgiving.errors import UsageError, reason_of


def own_function(name: str) -> Any:
    """The user's own `module:function`, of a file in the current folder or of a package.

    Raises:
        UsageError: There is none; or, when it is called, it fails.
    """
    module, _, function = name.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        own = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{name!r} cannot be imported ({reason_of(error)}); write MODULE:FUNCTION, of a file "
            "MODULE.py in this folder"
        ) from error

    @wraps(own)
    def call(*values: Any) -> Any:
        try:
            return own(*values)
        except Exception as error:
            raise UsageError(f"{name!r} fails: {type(error).__name__}: {error}") from error

    return call


def own_source(name: str) -> str:
    """Code of the user's own `module:function`; empty for another name."""
    return getsource(own_function(name)) if ":" in name else ""
