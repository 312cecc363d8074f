"""DICOM files of chosen pixels, written by pydicom."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import set_pixel_data
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, VLPhotographicImageStorage

UID = "1.2.826.0.1.3680043.8.498.7"


def item(**tags):
    made = Dataset()
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def lut(entries, first, bits):
    """An item of a sequence of lookup tables."""
    made = item(LUTDescriptor=[len(entries) % 2**16, first, bits])
    made.add_new("LUTData", "OW", np.asarray(entries, dtype="<u2").tobytes())
    return made


def dicom(pixels, kind=None, *, bits=None, compressed=None, **tags):
    """A file of these pixels (frames, rows, columns and colours, as many as there are)."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = VLPhotographicImageStorage
    kind = kind or ("RGB" if pixels.shape[-1:] == (3,) else "MONOCHROME2")
    set_pixel_data(made, pixels, kind, bits or 8 * pixels.itemsize)
    if compressed:
        made.compress(compressed)
    made.SOPInstanceUID = UID  # the others made new ones
    for name, value in tags.items():
        setattr(made, name, Sequence(value) if name.endswith("Sequence") else value)
    made.save_as(file := io.BytesIO(), enforce_file_format=True)
    return file.getvalue()
