"""Send an Orthanc archive's new images to the service, and store its answers there as reports.

The keys are in MISGIVING_SEND_KEY and MISGIVING_READ_KEY. It can be killed and started again at any
time. Its state names the images that have no report; without the state, all are sent again.
"""

import json
import os
import sys
import time
from argparse import ArgumentParser
from hashlib import sha256
from pathlib import Path

import httpx
from archive import Archive, ask
from structured_report import decision_report, review_report

REFUSALS = [413, 422, 500]  # of an image; all else is said while the service is not available
BINARY = {"Content-Type": "application/octet-stream"}


class Bridge:
    """Does again what may not have been done: service and archive know each thing by its name.

    Args:
        archive: With the images, and for the reports.
        service: Its URL.
        path: File of the state.
        modalities: Of the images that the model is made for.
    """

    def __init__(self, archive, service, path, modalities):
        self.archive, self.path, self.modalities = archive, path, modalities
        self.sender, self.reader = (_client(service, role) for role in ("SEND", "READ"))
        self.state = {"change": 0, "review": 0, "without_report": {}}
        if path.exists():
            self.state = json.loads(path.read_text())

    def follow_changes(self):
        """Have the new images decided, and store the reports."""
        done = False
        while not done:
            since = self.state["change"]
            page = self.archive.changes(since)
            for change in page["Changes"]:
                if change["ChangeType"] == "NewInstance":
                    self._decide(change["ID"])
                    self._save(change=change["Seq"])
            done = page["Done"] and page["Last"] >= since
            self._save(change=page["Last"] if page["Last"] >= since else 0)  # another archive

    def follow_reviews(self):
        """Store a report of each new review of an image in the archive."""
        since, last, cursor = self.state["review"], None, {}
        while cursor is not None:
            query = {"reviewed_after": since, "order": "newest", "limit": 500} | cursor
            page = ask(self.reader, "GET", "/cases", params=query).json()
            last = page["last_review"] if last is None else last  # later ones come next time
            for case in page["cases"]:
                self._report_reviews(case["id"], case["name"])
            cursor = page["cursor"] and {"cursor": page["cursor"]}
        self._save(review=last if last >= since else 0)  # another store

    def _decide(self, instance):
        image, file = self._image(instance)
        if image is None:
            return
        request = {"params": {"name": image.SOPInstanceUID}, "content": file, "headers": BINARY}
        answer = ask(self.sender, "POST", "/decisions", refusals=REFUSALS, **request)
        if answer.is_success:
            model = ask(self.sender, "GET", "/model").json()
            self._store(decision_report, image, answer.json()["results"][0]["case"], model)
        else:
            self._note(image.SOPInstanceUID, answer.text)

    def _image(self, instance):
        try:
            image, file = self.archive.image(instance) or ({}, b"")
            if image.get("Modality") in self.modalities and image.SOPInstanceUID:
                return image, file
        except Exception as error:  # pydicom raises almost anything on damaged files
            self._note(instance, repr(error))
        return None, b""

    def _report_reviews(self, id, name):
        case = ask(self.reader, "GET", f"/cases/{id}?limit=500", refusals=[404]).json()
        for image, file in map(self._image, self.archive.find(name)):
            is_same = sha256(file).hexdigest() == case.get("sha256")  # the name is its sender's
            for review in case.get("reviews", []) if is_same else ():
                self._store(review_report, image, case, review)

    def _store(self, make, image, *parts):
        try:
            self.archive.store(make(image, *parts))
        except Exception as error:  # whatever is missing or wrong in the image
            self._note(image.SOPInstanceUID, repr(error))

    def _note(self, name, problem):
        print(f"{name} has no report: {problem[:1000]!r}", file=sys.stderr, flush=True)
        self.state["without_report"][name] = problem[:1000]

    def _save(self, **values):
        if not values.items() <= self.state.items():
            self.state |= values
            path = Path(f"{self.path}.{os.getpid()}")
            path.write_text(json.dumps(self.state, indent=1))
            path.replace(self.path)


def _client(service, role):
    key = os.environ.get(f"MISGIVING_{role}_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=service, headers=headers, timeout=120)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--modality", nargs="+", required=True, help="of the images: XC, DX, ...")
    parser.add_argument("--orthanc", default=os.environ.get("ORTHANC", "http://127.0.0.1:8042"))
    parser.add_argument("--dicomweb", help="URL to store by STOW-RS")
    parser.add_argument("--service", default="http://127.0.0.1:8000")
    parser.add_argument("--state", type=Path, default=Path("bridge.json"))
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two looks")
    given = parser.parse_args()
    archive = Archive(given.orthanc, given.dicomweb)
    bridge = Bridge(archive, given.service, given.state, given.modality)
    while True:
        bridge.follow_changes()
        bridge.follow_reviews()
        time.sleep(given.pause)
