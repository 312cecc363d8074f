"""An Orthanc archive: its changes, its images, and where reports are stored."""

import sys
import time
from io import BytesIO
from itertools import count
from secrets import token_hex

import httpx
from pydicom import dcmread

FORM = b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n--%b--\r\n"
FORM_TYPE = 'multipart/related; type="application/dicom"; boundary='
MAX_PAUSE_SECONDS = 30


def ask(client, method, path, *, refusals=(), **request):
    """Send a request until it succeeds or has one of these statuses, so that nothing is skipped."""
    for tries in count():
        try:
            answer = client.request(method, path, **request)
            if answer.is_success or answer.status_code in refusals:
                break
            problem = f"{answer.status_code} {answer.text[:1000]!r}"
            pause = answer.headers.get("Retry-After", "")
        except httpx.TransportError as error:
            problem, pause = repr(error), ""
        print(
            f"{client.base_url.host}, {path}: {problem}; tries again", file=sys.stderr, flush=True
        )
        seconds = int(pause) if pause.isdecimal() else 0.1 * 2 ** min(tries, 10)
        time.sleep(min(seconds, MAX_PAUSE_SECONDS))
    return answer


class Archive:
    """Reads by Orthanc's API; stores by DICOMweb, if its URL is given, or else in the same way."""

    def __init__(self, orthanc, dicomweb=None):
        self._orthanc = httpx.Client(base_url=orthanc, timeout=120)
        self._dicomweb = dicomweb and httpx.Client(base_url=dicomweb, timeout=120)

    def changes(self, since):
        """Read the next changes: a page with `Changes`, `Done` and `Last`."""
        query = {"since": since, "limit": 100}
        return ask(self._orthanc, "GET", "/changes", params=query).json()

    def image(self, instance):
        """Read an image and its file; None if it is gone, or is no image."""
        answer = ask(self._orthanc, "GET", f"/instances/{instance}/file", refusals=[404])
        image = dcmread(BytesIO(answer.content)) if answer.is_success else {}
        return (image, answer.content) if "PixelData" in image else None

    def find(self, uid):
        """Find the instances with a UID."""
        found = ask(self._orthanc, "POST", "/tools/lookup", content=uid.encode()).json()
        return [each["ID"] for each in found if each["Type"] == "Instance"]

    def store(self, report):
        """Store a report, unless the archive has it; raises ValueError if it is refused."""
        report.save_as(file := BytesIO())
        content, refusals = file.getvalue(), [400, 409, 415]
        if self._dicomweb is None:  # Orthanc keeps the one that it has
            answer = ask(self._orthanc, "POST", "/instances", content=content, refusals=refusals)
        elif self._has(report):
            return
        else:
            boundary = token_hex(16)  # which no note of a reader has
            form = {"headers": {"Content-Type": FORM_TYPE + boundary}}
            form["content"] = FORM % (boundary.encode(), content, boundary.encode())
            answer = ask(self._dicomweb, "POST", "/studies", refusals=refusals, **form)
        if not answer.is_success and not (self._dicomweb and self._has(report)):
            raise ValueError(f"the archive refuses the report: {answer.text}")

    def _has(self, report):
        series = f"/studies/{report.StudyInstanceUID}/series/{report.SeriesInstanceUID}"
        path = f"{series}/instances/{report.SOPInstanceUID}/metadata"
        return ask(self._dicomweb, "GET", path, refusals=[404]).is_success
