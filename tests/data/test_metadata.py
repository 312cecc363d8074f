import numpy as np

from misgiving.data.datasets import load_dataset


def test_a_table_keeps_its_other_columns_and_a_selection_its_rows(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text(
        "path,label,group,age\na.png,x,1,45.0\nb.png,y,2,70\nc.png,x,3,\n"
    )
    dataset = load_dataset(f"table:{tmp_path / 't.csv'}")
    assert dataset.metadata == {"age": ("45.0", "70", "")}
    assert dataset.select(np.array([2, 0])).metadata == {"age": ("", "45.0")}
