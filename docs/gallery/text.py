"""Can a text classifier say when it does not know?

Which library is a sentence of documentation from? Many sentences could be from any of them.
"""

# %% The sentences are the first ones of the docstrings in four libraries that are installed.
import ast
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from misgiving import SelectiveClassifier

NODES = (ast.FunctionDef, ast.ClassDef)


def sentences(library):
    """First sentences of docstrings, each once."""
    found = set()
    for path in sorted(Path(find_spec(library).origin).parent.rglob("*.py"))[:60]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            docstring = ast.get_docstring(node) if isinstance(node, NODES) else None
            if docstring:
                found.add(re.sub(r"\s+", " ", re.split(r"\n\n|\.\s", docstring)[0]))
    return sorted(found)


libraries = {name: sentences(name) for name in ("matplotlib", "pandas", "scipy", "sklearn")}
texts = np.array([text for found in libraries.values() for text in found])
labels = np.repeat([*libraries], [len(found) for found in libraries.values()])

# %% `fit` keeps a third of the sentences apart to certify; `predict` answers, or says "defer".
seen, new, y_seen, y_new = train_test_split(texts, labels, test_size=0.3, random_state=0)
inner = make_pipeline(TfidfVectorizer(), LogisticRegression(C=5))
classifier = SelectiveClassifier(inner, max_error=0.1, random_state=0).fit(seen, y_seen)
print(classifier.deferral_.certificate_)
for text in ("Draw a circle on the axes.", "Return the index of each column.", "Check the input."):
    print(f"{text:35} {classifier.predict([text])[0]}")

# %%
decisions = classifier.decide(new)
accepted, wrong = decisions.decisions == "accept", decisions.wrong(y_new)
decisions.plot()
print(
    f"Of {len(new)} new sentences {100 * accepted.mean():.0f} % lie above the threshold; "
    f"{100 * wrong[accepted].mean():.1f} % of these answers are wrong, of all "
    f"{100 * wrong.mean():.1f} %."
)
pyplot.show()
