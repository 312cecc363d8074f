"""Groups and metadata of a data set from the headers of its DICOM files."""

import warnings
from dataclasses import replace

from misgiving.data.datasets.dataset import Dataset, FileImage
from misgiving.data.decoding import is_dicom
from misgiving.data.preprocessing import Preprocessing
from misgiving.groups import groups_of_columns
from misgiving.hash_key import hashed


def with_tags(dataset: Dataset, settings: Preprocessing) -> Dataset:
    """The data set with groups and metadata from the headers of its DICOM files, if it has some.

    A group is the hash of a tag, usually the patient's; groups that the data name are kept.
    """
    images = enumerate(dataset.images)
    files = {row: image.path for row, image in images if isinstance(image, FileImage)}
    paths = {row: path for row, path in files.items() if is_dicom(path)}
    if not paths:
        return dataset
    from misgiving.data.dicom import BURNED_IN, header  # needs the extra dicom

    if BURNED_IN in dataset.metadata:  # it has its tags
        return dataset
    names = (settings.group_tag, *settings.tags)
    headers = {row: header(path, names) for row, path in paths.items()}
    columns = {
        name: tuple(headers.get(row, {}).get(name, "") for row in range(len(dataset)))
        for name in (*names, BURNED_IN)
    }
    identities = columns.pop(settings.group_tag)
    if burned_in := [row for row in paths if columns[BURNED_IN][row] == "YES"]:
        warnings.warn(
            f"{len(burned_in)} images have burned-in annotations by their tag (0028,0301), first "
            f"{paths[burned_in[0]]}: a model may learn them, and they may name a person",
            stacklevel=2,
        )
    dataset = replace(dataset, metadata={**dataset.metadata, **columns})
    if dataset.group_columns:
        return dataset
    unit = "patient" if settings.group_tag == "PatientID" else "group"
    hashes = {unit: [*map(hashed, identities)]}
    groups, group_columns = groups_of_columns(hashes, len(dataset))
    return replace(dataset, groups=groups, group_columns=group_columns)
