"""Digests of the package's code, by which units of older code are recognised."""

import ast
from functools import cache
from importlib.resources import files
from pathlib import Path

from misgiving.files import sha256_of, sha256_of_json


def code_digest(module: str) -> str:
    """SHA-256 of the code of a module, and of all modules of the package that it imports.

    Comments and docstrings are left out.
    """
    return _code_digest(Path(str(files("misgiving"))), module)


@cache
def _code_digest(root: Path, module: str) -> str:
    digests: dict[str, str] = {}
    modules = [module]
    while modules:
        name = modules.pop()
        if name not in digests and (path := _path(root, name)):
            digests[name], imports = _digest_and_imports(path)
            modules += imports
    return sha256_of_json(digests)


def _path(root: Path, name: str) -> Path | None:
    """The file of a module of this package; None for another name."""
    package, *parts = name.split(".")
    place = root.joinpath(*parts)
    paths = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((path for path in paths if package == "misgiving" and path.is_file()), None)


@cache
def _digest_and_imports(path: Path) -> tuple[str, tuple[str, ...]]:
    """The digest of a file, and names that it imports, some of which are modules."""
    tree = ast.parse(path.read_bytes())
    imports: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sha256_of(ast.dump(_WithoutText().visit(tree)).encode()), tuple(imports)


class _WithoutText(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node
