"""How many images of each class the publishers of a set report."""

from collections.abc import Mapping

ISIC2019 = {  # 25,331 training images (challenge.isic-archive.com/landing/2019)
    "MEL": 4522,
    "NV": 12875,
    "BCC": 3323,
    "AK": 867,
    "BKL": 2624,
    "DF": 239,
    "VASC": 253,
    "SCC": 628,
}
HAM10000 = {  # 10,015 images (Tschandl et al., 2018, Scientific Data 5, 180161)
    "MEL": 1113,
    "NV": 6705,
    "BCC": 514,
    "AKIEC": 327,
    "BKL": 1099,
    "DF": 115,
    "VASC": 142,
}


def published_counts(name: str) -> Mapping[str, int] | None:
    """Images of each class as published, for a set called `isic2019:...` and the like; else None.

    DermaMNIST holds the 10,015 images of HAM10000 (Yang et al., 2023), and so does its corrected
    edition, but not its extended one (Abhishek et al., 2025).

    >>> published_counts("ham10000:HAM10000")["NV"]
    6705
    >>> published_counts("folder:photos")
    """
    kind, _, place = name.partition(":")
    file = place.rpartition("/")[2]
    if kind == "medmnist" and file.startswith("dermamnist") and "extended" not in file:
        return HAM10000
    return {"isic2019": ISIC2019, "ham10000": HAM10000}.get(kind)
