"""Files of predictions that cannot be used: by name, the lines or the writer, and the cause."""

import io
import os
import zipfile

import numpy as np

HEADER = "id,label,probability_cat,probability_dog,probability_owl"
ROWS = ["a,cat,0.7,0.2,0.1", "b,dog,0.1,0.8,0.1", "c,owl,0.3,0.3,0.4"]


def text(content, encoding="utf-8"):
    """Writes this text as it is."""
    return lambda path: path.write_bytes(content.encode(encoding))


def lines(*rows, header=HEADER):
    return text("\n".join([header, *rows]) + "\n")


def more(column, *values):
    """The three rows with one more column."""
    rows = (f"{row},{value}" for row, value in zip(ROWS, values, strict=True))
    return lines(*rows, header=f"{HEADER},{column}")


def arrays(**changes):
    """An `.npz` with some arrays changed, or left out where None."""
    made = {"logits": np.array([[2.0, 0.5], [0.1, 1.0], [0.3, 0.2]]), "label": np.array([0, 1, 1])}
    made |= changes
    return lambda path: np.savez(path, **{k: v for k, v in made.items() if v is not None})


def cut(path):
    """An `.npz` of which a part in the middle is zero."""
    arrays(logits=np.random.default_rng(0).normal(size=(500, 2)), label=None)(path)
    content = path.read_bytes()
    path.write_bytes(content[:500] + bytes(1000) + content[1500:])


def truncated(path):
    arrays()(path)
    path.write_bytes(path.read_bytes()[:300])


def short_member(path):
    """An array whose header promises more values than there are."""
    array = io.BytesIO()
    np.save(array, np.zeros((10, 2)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", array.getvalue()[:-80])


def bomb(path):
    """Arrays that unpack to 20 GiB, as the directory of the archive says."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"feature_{number}.npy", b"")
    content, place = path.read_bytes(), 0
    for _ in range(5):
        place = content.index(b"PK\x01\x02", place) + 24  # the size when unpacked
        content = content[:place] + b"\xff\xff\xff\xfe" + content[place + 4 :]
    path.write_bytes(content)


def huge_shape(path):
    """An array whose header alone claims 128 TiB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2**43, 2)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", header.getvalue())


def not_an_array(path):
    arrays()(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "not an array")


def parquet(**columns):
    def write(path):
        import pyarrow
        from pyarrow import parquet as files

        made = {"logit_a": [1.0, 2.0], "logit_b": [0.5, 0.0], "label": ["a", "b"]} | columns
        files.write_table(pyarrow.table(made), path)

    return write


def parquet_twice(path):
    import pyarrow
    from pyarrow import parquet as files

    names = ["logit_a", "logit_b", "label", "label"]
    of = [pyarrow.array(values) for values in ([1.0], [0.5], ["a"], ["b"])]
    files.write_table(pyarrow.Table.from_arrays(of, names=names), path)


def dangling(path):
    path.symlink_to(path.with_name("nowhere"))


def unreadable(path):
    lines(*ROWS)(path)
    path.chmod(0)


LINES = {
    "a short row": (["a,cat,0.7,0.2"], "row 1 has 4 cells, and the header 5"),
    "a long row": (["a,cat,0.7,0.2,0.1,0.3"], "row 1 has 6 cells"),
    "text": ([ROWS[0], "b,dog,0.1,much,0.1"], "row 2, column probability_dog: 'much' is not a num"),
    "an empty number": (["a,cat,0.7,,0.3"], "row 1, column probability_dog: '' is not a number"),
    "NaN": (["a,cat,0.7,nan,0.3"], "row 1, column probability_dog: nan is not a finite number"),
    "infinity": (["a,cat,0.7,inf,0.3"], "row 1, column probability_dog: inf is not a finite"),
    "an overflow": (["a,cat,1e999,0,0"], "row 1, column probability_cat: inf is not a finite"),
    "above one": (["a,cat,1.7,-0.4,-0.3"], "row 1, column probability_cat: 1.7 is not from 0 to 1"),
    "negative": (["a,cat,0.9,-0.1,0.2"], "row 1, column probability_dog: -0.1 is not from 0 to 1"),
    "a sum below one": ([ROWS[0], "b,cat,0.3,0.1,0.1"], "row 2: the probabilities add up to 0.5"),
    "a sum above one": ([ROWS[0], "b,cat,0.9,0.9,0.1"], "row 2: the probabilities add up to 1.9"),
    "all zero": (["a,cat,0,0,0"], "row 1: the probabilities add up to 0 instead of 1"),
    "percentages": (["a,cat,70,20,10"], "70 is not from 0 to 1"),
    "a quoted decimal comma": (['a,cat,"0,7",0.2,0.1'], "'0,7' is not a number"),
    "decimal commas": (["a,cat,0,7,0,2,0,1"], "row 1 has 8 cells, and the header 5"),
    "a percent sign": (["a,cat,70%,0.2,0.1"], "'70%' is not a number"),
    "a line break in a number": (['a,cat,"0.7\nx",0.2,0.1'], r"column probability_cat: '0.7\nx'"),
    "an unknown class": (["a,horse,0.7,0.2,0.1"], "unknown class 'horse'; choose from cat, dog"),
    "another case": (["a,Cat,0.7,0.2,0.1"], "row 1, column label: unknown class 'Cat'; choose"),
    "a line break in a label": (['a,"c\nat",0.7,0.2,0.1'], r"row 1, column label: unknown class"),
    "a very long label": (["a," + "x" * 100_000 + ",0.7,0.2,0.1"], "unknown class 'xxx"),
    "a field without end": (["a," + "x" * 200_000 + ",0.7,0.2,0.1"], "field larger than field lim"),
    "an unknown position": (["a,3,0.7,0.2,0.1"], "row 1, column label: unknown class '3'"),
    "a negative position": (["a,-2,0.7,0.2,0.1"], "row 1, column label: unknown class '-2'"),
    "a position of parts": (["a,0.5,0.7,0.2,0.1"], "row 1, column label: unknown class '0.5'"),
    "names and positions": ([ROWS[0], "b,1,0.7,0.2,0.1"], "row 2, column label: unknown class '1'"),
    "a repeated id": ([ROWS[0], ROWS[1], ROWS[0]], "row 3, column id: 'a' is also in row 1"),
    "ids that differ by space": ([ROWS[0], " a ,cat,0.7,0.2,0.1"], "'a' is also in row 1"),
    "an empty id": ([",cat,0.7,0.2,0.1"], "row 1, column id: is empty"),
    "no rows": ([], "no rows; give one for each image"),
    "blank lines alone": (["", "", ""], "no rows; give one for each image"),
    "an open quote": (['"a,cat,0.7,0.2,0.1'], "unexpected end of data"),
    "text after a quote": (['"a"b,cat,0.7,0.2,0.1'], "',' expected after"),
    "a NUL": (["a\0,cat,0.7,0.2,x"], "row 1, column probability_owl"),
    "a late text": ([*(f"{n},cat,0.7,0.2,0.1" for n in range(60_000)), "x,cat,a,0,0"], "row 60001"),
}

HEADERS = {
    "no outputs": ("id,label,score", "no column logit_CLASS or probability_CLASS"),
    "one class": ("id,label,probability_cat", "two classes or more with different names"),
    "a class twice": ("id,probability_cat,probability_cat", "two columns are named 'probability_c"),
    "no class": ("id,probability_,probability_dog", "a column is named probability_ without a cla"),
    "semicolons": ("id;label;probability_cat", "separate them by commas"),
    "tabs": ("id\tlabel\tprobability_cat", "separate them by commas"),
    "a column twice": ("id,id,logit_a,logit_b", "two columns are named 'id'"),
    "ten thousand columns": (
        ",".join(f"column {number}" for number in range(10_000)),
        "no column logit_CLASS or probability_CLASS",
    ),
}

FILES = {
    # text
    "an empty file": ("p.csv", text(""), "no columns; give logit_CLASS"),
    "a byte order mark alone": ("p.csv", text("\ufeff"), "no columns; give logit_CLASS"),
    "a header alone": ("p.csv", text(HEADER), "no rows; give one for each image"),
    "UTF-16": ("p.csv", text(f"{HEADER}\n{ROWS[0]}\n", "utf-16"), "not UTF-8; save it as UTF-8"),
    "Latin 1": ("p.csv", text(f"{HEADER}\nä,cat,1,0,0\n", "latin-1"), "not UTF-8; save it as UTF"),
    "no text": ("p.csv", lambda path: path.write_bytes(os.urandom(2000) + b"\xff"), "not UTF-8"),
    "semicolons and decimal commas": (
        "p.csv",
        text(f"{HEADER.replace(',', ';')}\r\na;cat;0,7;0,2;0,1\r\n"),
        "separate them by commas",
    ),
    "an unknown set": (
        "p.csv",
        more("set", "tune", "val", "test"),
        "row 2, column set: 'val' is",
    ),
    "an empty set": ("p.csv", more("set", "tune", "", "test"), "row 2, column set: '' is none of"),
    "a group in two sets": (
        "p.csv",
        more("set,group", "tune,g", "calibrate,g", "test,h"),
        "row 2, column set: group 'g' is in the sets tune and calibrate",
    ),
    "two models": ("p.csv", more("model", "a", "b", "a"), "column model: names 'a' and 'b'"),
    "features of text": ("p.csv", more("feature_0", "1", "x", "2"), "row 2, column feature_0: 'x'"),
    "a loss without a number": ("p.csv", more("predicted_loss", 1, "", 2), "column predicted_loss"),
    # numpy
    "pickled objects": (
        "p.npz",
        arrays(label=np.array(["a", None, "b"], dtype=object)),
        "label holds Python objects, which are not read",
    ),
    "a single value": (
        "p.npz",
        arrays(temperature=np.array(3.0)),
        "temperature is one value",
    ),
    "mixed lengths": (
        "p.npz",
        arrays(label=np.zeros(2)),
        "column label has 2 rows",
    ),
    "one class in an array": ("p.npz", arrays(logits=np.zeros((3, 1))), "two classes or more"),
    "a label beyond the classes": ("p.npz", arrays(label=np.array([0, 1, 2])), "unknown class '2'"),
    "labels of parts": ("p.npz", arrays(label=np.array([0, 0.5, 1])), "unknown class '0.5'"),
    "labels one-hot": ("p.npz", arrays(label=np.eye(3)), "label has the shape (3, 3)"),
    "other classes": ("p.npz", arrays(classes=np.array(["a", "b", "c"])), "classes has 3 names"),
    "classes and labels": (
        "p.npz",
        arrays(classes=np.array(["a", "b"]), label=np.array(["a", "b", "c"])),
        "row 3, column label: unknown class 'c'; choose from a, b",
    ),
    "complex numbers": ("p.npz", arrays(logits=np.zeros((3, 2), complex)), "is not a number"),
    "records": (
        "p.npz",
        arrays(logits=None, logit_a=np.zeros(3, [("x", float)]), logit_b=np.zeros(3)),
        "is not a number",
    ),
    "not a zip": ("p.npz", lambda path: path.write_bytes(b"no zip"), "missing or damaged"),
    "an empty zip": ("p.npz", lambda path: zipfile.ZipFile(path, "w").close(), "no columns"),
    "a truncated zip": ("p.npz", truncated, "missing or damaged"),
    "a damaged member": ("p.npz", cut, "missing or damaged"),
    "a truncated member": ("p.npz", short_member, "missing or damaged"),
    "a member that is no array": ("p.npz", not_an_array, "notes.txt is not an array"),
    "a zip bomb": ("p.npz", bomb, "its arrays have 20 GiB, over 100 times the size"),
    "an impossible shape": ("p.npz", huge_shape, "does not fit into memory; give fewer rows"),
    # parquet and others
    "no parquet": ("p.parquet", lambda path: path.write_bytes(b"PAR1"), "missing or damaged"),
    "nested columns": (
        "p.parquet",
        parquet(logit_a=[{"x": 1.0}, {"x": 2.0}]),
        "row 1, column logit_a: {'x': 1.0} is not a number",
    ),
    "lists of two lengths": (
        "p.parquet",
        parquet(logits=[[1.0, 2.0], [1.0]]),
        "row 2, column logits",
    ),
    "missing numbers": ("p.parquet", parquet(logit_a=[1.0, None]), "row 2, column logit_a: nan"),
    "a column twice in parquet": ("p.parquet", parquet_twice, "two columns are named 'label'"),
    "no rows in parquet": (
        "p.parquet",
        parquet(logit_a=[], logit_b=[], label=[]),
        "no rows; give one for each image",
    ),
    "no tensors": ("p.safetensors", lambda path: path.write_bytes(b"{}"), "not readable predictio"),
    "no file": ("p.csv", lambda _: None, "no such file"),
    "a dangling link": ("p.csv", dangling, "no such file"),
    "a pipe": ("p.csv", os.mkfifo, "no such file, or not an ordinary file"),
    "no permission": ("p.csv", unreadable, "ermission"),
}

MALFORMED = {
    **{name: ("p.csv", lines(*rows), message) for name, (rows, message) in LINES.items()},
    **{
        name: ("p.csv", lines(",".join(["1"] * (header.count(",") + 1)), header=header), message)
        for name, (header, message) in HEADERS.items()
    },
    **FILES,
}
