"""Catalogue of the image sets that can be fetched: addresses, licences, sizes and checksums.

A size or checksum that no source gives is None. The addresses have not been tried.
"""

from dataclasses import dataclass

from misgiving.configuration import Registry


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a published set.

    Attributes:
        name: Name here and on a mirror.
        urls: Addresses; the next is tried where one fails.
        size: In bytes.
        md5: In hexadecimal.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    md5: str | None = None

    @property
    def is_archive(self) -> bool:
        """True for a zip archive, which is unpacked into a folder of its name."""
        return self.name.endswith(".zip")

    @property
    def result(self) -> str:
        """Name of the resulting file or folder."""
        return self.name.removesuffix(".zip")


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A set of images as its authors publish it.

    Attributes:
        description: Content and size, and unknown facts about its source.
        licence: Terms of use.
        citation: Publications that its authors ask to cite.
        data: Name of the fetched set in other commands; `{folder}` is the folder it is in.
        files: Its files.
    """

    description: str
    licence: str
    citation: str
    data: str
    files: tuple[PublishedFile, ...]


# Tschandl et al., 2018, ask for this wherever their images are used.
HAM10000_PAPER = (
    "Tschandl, Rosendahl, Kittler: The HAM10000 dataset, a large collection of multi-source "
    "dermatoscopic images of common pigmented skin lesions. Sci. Data 5, 180161 (2018)"
)
MEDMNIST_PAPER = (
    "Yang et al.: MedMNIST v2 - a large-scale lightweight benchmark for 2D and 3D biomedical "
    "image classification. Sci. Data 10, 41 (2023)"
)

# Both addresses are in public download scripts, which name neither size nor checksum.
ISIC2019_BASES = (
    "https://isic-challenge-data.s3.amazonaws.com/2019/",
    "https://isic-archive.s3.amazonaws.com/challenges/2019/",
)


def _isic2019_file(name: str) -> PublishedFile:
    return PublishedFile(name=name, urls=tuple(base + name for base in ISIC2019_BASES))


ISIC2019 = PublishedSet(
    description="ISIC 2019 challenge, training set: 25,331 dermoscopic images of 8 diagnoses, "
    "about 9 GB; no checksum is published, so that only the archive's own is verified",
    licence="CC BY-NC 4.0",
    citation=f"{HAM10000_PAPER}; Codella et al.: Skin lesion analysis toward melanoma detection. "
    "arXiv:1710.05006 (2017); Combalia et al.: BCN20000. arXiv:1908.02288 (2019)",
    data="isic2019:{folder}",
    files=(
        _isic2019_file("ISIC_2019_Training_GroundTruth.csv"),
        _isic2019_file("ISIC_2019_Training_Metadata.csv"),
        _isic2019_file("ISIC_2019_Training_Input.zip"),
    ),
)


def _dataverse(number: str) -> tuple[str, ...]:
    return (f"https://dataverse.harvard.edu/api/access/datafile/{number}",)


# doi:10.7910/DVN/DBW86T, version 4. The numbers, sizes and MD5 agree in several public download
# scripts and data records. Dataverse made a tab-separated copy of the table; this is the original.
HAM10000 = PublishedSet(
    description="HAM10000: 10,015 dermoscopic images of 7 diagnoses with lesion masks, 2.8 GB",
    licence="CC BY-NC 4.0",
    citation=f"{HAM10000_PAPER}; for the masks, Tschandl et al.: Human-computer collaboration for "
    "skin cancer recognition. Nat. Med. 26, 1229-1234 (2020)",
    data="ham10000:{folder}",
    files=(
        PublishedFile(
            name="HAM10000_metadata.csv",
            urls=_dataverse("4338392?format=original"),
            size=690_218,
            md5="8f85fb1aa29d80a2797247e434deb79d",
        ),
        PublishedFile(
            name="HAM10000_segmentations_lesion_tschandl.zip",
            urls=_dataverse("3838943"),
            size=10_808_743,
            md5="6e8d252e09cfdb0189199f15985a5b84",
        ),
        PublishedFile(
            name="HAM10000_images_part_1.zip",
            urls=_dataverse("3172585"),
            size=1_366_522_108,
            md5="4639bfa73ab251610530a97c898e6e46",
        ),
        PublishedFile(
            name="HAM10000_images_part_2.zip",
            urls=_dataverse("3172584"),
            size=1_403_566_547,
            md5="da43d6cc50f6613013be07e8986b384b",
        ),
    ),
)


def _zenodo(record: int, name: str) -> tuple[str, ...]:
    return (f"https://zenodo.org/records/{record}/files/{name}?download=1",)


# Zenodo 1214456; size and MD5 agree in several public repositories.
NCT = PublishedSet(
    description="CRC-VAL-HE-7K: 7,180 histological images of 9 tissues, 224 x 224; the paper's "
    "NCT set is drawn from it",
    licence="CC BY 4.0",
    citation="Kather, Halama, Marx: 100,000 histological images of human colorectal cancer and "
    "healthy tissue. Zenodo, doi:10.5281/zenodo.1214456 (2018)",
    data="folder:{folder}/CRC-VAL-HE-7K",
    files=(
        PublishedFile(
            name="CRC-VAL-HE-7K.zip",
            urls=_zenodo(1214456, "CRC-VAL-HE-7K.zip"),
            size=800_276_929,
            md5="2fd1651b4f94ebd818ebf90ad2b6ce06",
        ),
    ),
)


# MD5 from `medmnist/info.py` of MedMNIST 3, by side of the images in pixels.
MEDMNIST_MD5 = {
    "dermamnist": {
        28: "0744692d530f8e62ec473284d019b0c7",
        64: "b70a2f5635c6199aeaa28c31d7202e1f",
        128: "2defd784463fa5243564e855ed717de1",
        224: "8974907d8e169bef5f5b96bc506ae45d",
    },
    "pathmnist": {
        28: "a8b06965200029087d5bd730944a56c1",
        64: "55aa9c1e0525abe5a6b9d8343a507616",
        128: "ac42d08fb904d92c244187169d1fd1d9",
        224: "2c51a510bcdc9cf8ddb2af93af1eadec",
    },
}


def _medmnist(flag: str, description: str, licence: str) -> dict[str, PublishedSet]:
    found = {}
    for side, md5 in MEDMNIST_MD5[flag].items():
        name = flag if side == 28 else f"{flag}_{side}"
        file = PublishedFile(name=f"{name}.npz", urls=_zenodo(10519652, f"{name}.npz"), md5=md5)
        found[name] = PublishedSet(
            description=f"{description}, {side} x {side}",
            licence=licence,
            citation=MEDMNIST_PAPER,
            data=f"medmnist:{{folder}}/{file.name}",
            files=(file,),
        )
    return found


# Zenodo 12739457, version 1.1; MD5 as in public code that reads the files, size from a record of
# a complete download.
def _dermamnist_c(side: int, md5: str, size: int | None = None) -> PublishedSet:
    name = f"dermamnist_corrected_{side}.npz"
    return PublishedSet(
        description=f"DermaMNIST-C: 10,015 dermoscopic images split by lesion, {side} px",
        licence="that of the Zenodo record 12739457; the images are HAM10000's, CC BY-NC 4.0",
        citation="Abhishek, Jain, Hamarneh: Investigating the quality of DermaMNIST and "
        "Fitzpatrick17k dermatological image datasets. Sci. Data 12, 196 (2025); "
        f"{HAM10000_PAPER}",
        data=f"medmnist:{{folder}}/{name}",
        files=(PublishedFile(name=name, urls=_zenodo(12739457, name), size=size, md5=md5),),
    )


CATALOGUE: Registry[PublishedSet] = Registry(
    "data set",
    isic2019=ISIC2019,
    ham10000=HAM10000,
    nct=NCT,
    **_medmnist(
        "dermamnist",
        "DermaMNIST: 10,015 dermoscopic images; its sets share lesions",
        "CC BY-NC 4.0",
    ),
    **_medmnist("pathmnist", "PathMNIST: 107,180 histological images", "CC BY 4.0"),
    dermamnist_c=_dermamnist_c(28, "96e2862980877d45d9cacb5c25de6950"),
    dermamnist_c_224=_dermamnist_c(224, "84920fb70c83b234c295b6f0d4ae2bc0", 1_131_258_316),
)
"""All sets that can be fetched, by name."""
