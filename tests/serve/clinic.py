"""A clinic in a simulation: a service that is killed, its sender, readers and operator."""

import io
import random
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import httpx
from bundled import noisy_set
from PIL import Image
from services import started
from standin import with_key
from waiting import until

SLIPS, HARD = 0.05, 0.02  # of answers, and of images that nobody can grade
READERS, CLASSES, DEVICE = ("Ann", "Ben", "Cem"), ("a", "b", "c"), "scanner"
VISITS = {0: (20, ""), 5: (20, DEVICE)}  # images and group, by the last digit; others: patients
COMMAND = [sys.executable, "-m", "misgiving"]
SOON = timedelta(seconds=30)  # in which a word that its reader corrects was a slip


@dataclass
class Word:
    """A reader's word on a case."""

    reader: str
    verdict: str
    chosen: str | None
    blind: bool
    at: datetime
    slip: bool = False

    @property
    def objects(self):
        return self.verdict in ("override", "none")


@dataclass
class Entry:
    """A case as its sender knows it, and all that was said of it since."""

    case: dict
    truth: str  # a class, or that nobody can tell
    words: list[Word] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # the states of which somebody was told
    deleted: bool = False

    @property
    def accepted(self):
        return self.case["decision"] == "accept"

    @property
    def blind_words(self):
        """The last blind word of each reader."""
        return [*{word.reader: word for word in self.words if word.blind}.values()]

    @property
    def standing(self):
        """The model's answer by two readers, or by the first who agrees."""
        said = Counter("wrong" if word.objects else word.verdict for word in self.blind_words)
        if said["agree"] > (said["wrong"] > 0) and said["wrong"] < 2:
            return "right"
        two = [name for name in ("wrong", "ungradable") if said[name] > 1]
        return two[0] if two else "unconfirmed" if said else None

    @property
    def label(self):
        against = [word.chosen for word in self.blind_words if word.objects]
        by_standing = {"right": self.case["predicted_class"], "wrong": against and against[-1]}
        return by_standing.get(self.standing) or ""

    @property
    def found_wrong(self):
        """State, classes, and readers who contradict; None if it is not in the list."""
        objections = [word for word in self.words if word.objects]
        if not objections or not self.accepted or self.deleted:
            return None
        words, others, state = [word for word in self.words if not word.slip], [], "withdrawn"
        if lasting := [word for word in words if word.objects]:
            last = {word.reader: word for word in words}.values()
            objections = [word for word in last if word.objects] or lasting
            agreeing = [word for word in last if word.verdict == "agree"]
            others = [x.reader for x in agreeing if words.index(x) > words.index(lasting[0])]
            state = "contradicted" if others and sum(x.objects for x in last) < 2 else "open"
        state = "told" if self.told and self.told[-1] == state else state
        return state, sorted(word.chosen or "none" for word in objections), sorted(others)


class Clinic:
    """The service, which is killed and starts again, and the people around it.

    One thread sends images; another one acts for readers and operator, so that the order of their
    words is known.
    """

    def __init__(self, folder, bundle, *options):
        self.folder, self.bundle, self.options = folder, bundle, options
        self.store, self.kept, self.log = (folder / name for name in ("db.sqlite", "kept", "log"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        roles = {"sender": "send", "Olga": "operate", **dict.fromkeys(READERS, "read")}
        address = {"base_url": f"http://127.0.0.1:{self.port}", "timeout": 120}
        self.clients = {
            name: httpx.Client(headers=with_key(self.store, role, name), **address)
            for name, role in roles.items()
        }
        self.cases, self.ids = {}, {}  # by id; ids by name
        self.sent = self.visits = 0
        self.alarm = self.over = False
        self.chance, self.process = random.Random(0), ExitStack()
        self.last, self.regrets = dict.fromkeys(READERS, ""), defaultdict(list)
        self.start()

    def start(self):
        words = ["serve", self.bundle, "--port", self.port, "--store", self.store]
        words = [*COMMAND, *words, "--keep-images", self.kept, *self.options]
        log = self.process.enter_context(self.log.open("a"))
        self.process.enter_context(started([*map(str, words)], stderr=log))
        self.ask("Olga", "GET", "/audit")

    def command(self, *words):
        done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stderr.split())

    def ask(self, name, method, path, *, effect=lambda: None, **given):
        """The answer to a request; after a kill, it is sent again without its `effect`."""
        while not self.over:
            with suppress(httpx.TransportError):
                response = self.clients[name].request(method, path, **given)
                if response.status_code == 200:
                    is_json = "json" in response.headers["content-type"]
                    return response.json() if is_json else response
                assert response.status_code == 503, response.text  # on a busy machine
            time.sleep(0.05)
            if answer := effect():
                return answer
        raise AssertionError("another thread failed")

    def live(self, uploads, kills, *, broken=False, read_all=True, meanwhile=lambda: None):
        """Send images while people read and the service is killed; then read what is left."""
        end, chance = self.sent + uploads, random.Random(uploads)
        moments = sorted(end - uploads * chance.random() for _ in range(kills))
        with ThreadPoolExecutor(2) as threads:
            working = [
                threads.submit(self.send, end, broken),
                threads.submit(self.kill, moments, chance),
            ]
            try:
                until(lambda: self.over or len(self.cases) > 50)
                meanwhile()
                while not all(each.done() and not each.result() for each in working):
                    self.work()
                while read_all and sum([self.read(name, 1000) for name in READERS]):
                    pass
            finally:
                self.over = not all(each.done() for each in working)

    def kill(self, moments, chance):
        """Kill the service where so many images were sent, and start it again."""
        for moment in moments:
            while self.sent < moment and not self.over:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.5))
            self.process.close()
            self.start()

    def send(self, end, broken):
        while self.sent < end and not self.over:
            self.visit(broken)

    def visit(self, broken):
        """Send images of a patient, of a device, or of nobody; some again, or as a copy."""
        visit, self.visits = self.visits, self.visits + 1
        size, group = VISITS.get(visit % 10, (3, f"patient {visit}"))
        seeds = [
            (visit - 10 * (number == 0 == visit % 10 < visit), number) for number in range(size)
        ]
        files, truths = [], []
        for seed, number in seeds:
            images = noisy_set(size, seed=seed)
            pixels = images.images[number]
            image = Image.fromarray(pixels[..., [1, 2, 0]] if broken else pixels)
            image.save(file := io.BytesIO(), "PNG")
            files.append(("files", (f"{visit} {number}", file.getvalue() + visit.to_bytes(4))))
            is_hard = random.Random(pixels.tobytes()).random() < HARD
            truths.append("" if is_hard else CLASSES[images.labels[number]])
        for _ in range(1 + (visit % 13 == 12)):
            upload = {"files": files, "params": {"group": group}}
            told = self.ask("sender", "POST", "/decisions", **upload)
            while problems := [each["problem"] for each in told["results"] if each["problem"]]:
                assert {each["status"] for each in problems} == {503}  # on a busy machine
                told = self.ask("sender", "POST", "/decisions", **upload)
            self.acknowledge(told, truths)
        self.sent += size

    def acknowledge(self, told, truths):
        """Note new cases; from an alarm on, everything must be deferred."""
        cases = [result["case"] for result in told["results"]]
        assert not self.alarm or {case["decision"] for case in cases} == {"defer"}
        assert told["alarm"] >= self.alarm
        self.alarm = told["alarm"]
        for result, case, truth in zip(told["results"], cases, truths, strict=True):
            assert self.ids.setdefault(case["name"], case["id"]) == case["id"]
            if case["id"] not in self.cases:
                if result["known"]:  # stored before a kill, and before an alarm
                    case = self.ask("sender", "GET", f"/cases/{case['id']}")
                self.cases[case["id"]] = Entry(case, truth)

    def work(self):
        """A round of all readers and the operator."""
        some = [id for id, entry in [*self.cases.items()] if entry.accepted and not entry.deleted]
        for reader in READERS:
            self.read(reader, 8, leave=False)
            if (id := self.chance.choice(some)) not in self.last.values():
                self.open(reader, id, outside=True)
            if (own := self.regrets[reader]) and own[0] not in self.last.values():
                entry, opened = self.cases[own[0]], self.ask(reader, "GET", f"/cases/{own.pop(0)}")
                self.say(reader, entry, entry.truth or "ungradable", opened)
        self.tell()

    def read(self, reader, count, *, leave=True):
        """Read blind cases; the number of those that waited. To leave is to open another case."""
        page = self.ask(reader, "GET", "/cases", params={"reviewed": False, "limit": 50})
        rows = [row["id"] for row in page["cases"] if row.get("blind")]
        waiting = [id for id in rows if id != self.last[reader]]
        for id in waiting[:count]:
            self.open(reader, id)
        if leave:
            first, second, *_ = (id for id, entry in [*self.cases.items()] if not entry.deleted)
            self.ask(reader, "GET", f"/cases/{second if first == self.last[reader] else first}")
        return len(waiting)

    def open(self, reader, id, *, outside=False):
        """Open a case, and say a word; correct it at once, later or never if it is a slip."""
        opened = self.ask(reader, "GET", f"/cases/{id}")
        until(lambda: id in self.cases or self.over)
        entry = self.cases[id]
        is_again = any(word.reader == reader for word in entry.words)
        if is_again or not (outside or opened.get("blind")):
            return
        drawn, right = (
            random.Random(f"{reader} {entry.case['name']} {outside}"),
            entry.truth or "ungradable",
        )
        others = [name for name in (*CLASSES, "none") if name != right]
        choice = drawn.choice(others) if drawn.random() < SLIPS else right
        now, self.last[reader] = self.say(reader, entry, choice, opened), id
        if choice != right and drawn.random() < 0.5:
            self.regrets[reader].append(id)
        elif choice != right:
            is_taken_back = not now.get("blind") and drawn.random() < 0.5
            self.say(reader, entry, "withdraw" if is_taken_back else right, now)
            first, second = entry.words[-2:]
            assert first.slip or second.at - first.at > SOON

    def say(self, reader, entry, choice, opened):
        """Post a word, and note it as the reader was told that it stands."""
        id, predicted = entry.case["id"], entry.case["predicted_class"]
        blind, chosen = opened.get("blind", False), choice if choice in CLASSES else None
        body = {"verdict": choice} if chosen is None else {"verdict": "override", "class": chosen}
        if not blind:
            body = {"verdict": "agree"} if choice == predicted else body
            body["seen"] = opened["review"] and opened["review"]["reviewed_at"]

        def last():
            now = self.ask(reader, "GET", f"/cases/{id}")
            own = now["answer"] if now.get("blind") else now["review"]
            if own is None or own["reviewer"] != reader:
                return None
            is_it = own["final_class"] == chosen if chosen else own["verdict"] == choice
            return now if is_it else None

        now = self.ask(reader, "POST", f"/cases/{id}/review", json=body, effect=last)
        review = now["answer"] if now.get("blind") else now["review"]
        verdict = "agree" if choice == predicted else review["verdict"]
        at = datetime.fromisoformat(review["reviewed_at"])
        own = [word for word in entry.words if word.reader == reader]
        if own and (review["blind"] if own[-1].blind else at - own[-1].at <= SOON):
            own[-1].slip = True
        entry.words.append(Word(reader, verdict, chosen, review["blind"], at))
        return now

    def tell(self):
        """Tell whoever acted on some answers."""
        listed = self.ask("Olga", "GET", "/found-wrong", params={"state": ["open", "contradicted"]})
        for answer in self.chance.sample(listed["answers"], min(2, len(listed["answers"]))):
            id, state, notes = answer["id"], answer["state"], len(answer["told"])

            def noted(id=id, notes=notes):
                answers = self.ask("Olga", "GET", "/found-wrong")["answers"]
                return [x for x in answers if x["id"] == id and len(x["told"]) > notes]

            body = {"state": state, "note": "by telephone"}
            self.ask("Olga", "POST", f"/cases/{id}/told", json=body, effect=noted)
            self.cases[id].told.append(state)
